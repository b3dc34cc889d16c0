'use strict';
(() => {
  const $ = id => document.getElementById(id);
  // Every value is put in as text: what a backend or a file is called is not markup.
  const el = (tag, text, cls) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (cls) e.className = cls;
    return e;
  };
  const size = n => {
    if (n < 1024) return n + ' B';
    let u = -1;
    do { n /= 1024; u++; } while (n >= 1000 && u < 5);
    return Number(n.toPrecision(3)) + ' ' + 'KMGTPE'[u] + 'iB';
  };
  const span = s => {
    if (s < 1) return s > 0 ? Math.max(1, Math.round(s * 1000)) + ' ms' : '0 s';
    s = Math.round(s);
    if (s < 120) return s + ' s';
    if (s < 7200) return Math.round(s / 60) + ' min';
    if (s < 172800) return Math.round(s / 3600) + ' h';
    return Math.round(s / 86400) + ' d';
  };
  const since = t => {
    const at = Date.parse(t);
    return at > 0 ? span(Math.max(1, (Date.now() - at) / 1000)) : '–';
  };
  const count = n => n.toLocaleString('en');
  const rows = (id, pairs) => $(id).replaceChildren(...pairs.flatMap(([k, v, cls]) => [el('dt', k), el('dd', v, cls)]));
  const bar = (label, done, total) => {
    const p = el('progress');
    p.max = Math.max(1, total);
    p.value = Math.min(done, p.max);
    p.setAttribute('aria-label', label);
    return p;
  };

  const marks = {ok: ['✔', 'good'], degraded: ['▲', 'warn'], starting: ['…', 'warn'], failed: ['✖', 'bad'], fenced: ['■', 'bad'], stopped: ['✖', 'bad']};
  const words = {
    ok: 'ok: it works as it should', degraded: 'degraded: it works, with less protection than it should have',
    starting: 'starting', failed: 'failed: it does not serve', fenced: 'fenced: another frontend has taken over; this one is read-only', stopped: 'stopped'
  };
  const backendMarks = {up: ['✔', 'good'], full: ['▲', 'warn'], replacing: ['▲', 'warn'], down: ['✖', 'bad'], retired: ['–', '']};

  function headline(s) {
    const [mark, cls] = marks[s.state] || ['?', 'warn'];
    const parts = $('state').querySelectorAll('span');
    const text = words[s.state] || s.state;
    if (parts[1].textContent !== text) { // announced only when it changes
      parts[0].textContent = mark;
      parts[1].textContent = text;
      $('state').className = 'big ' + cls;
      document.title = s.state + ' – quantumd';
    }
    const loss = s.loss_window;
    $('safe').textContent = s.state === 'starting' ? '' : loss.bytes === 0
      ? 'Everything that was written is on the backends (checkpoint ' + s.checkpoint.seq + ').'
      : size(loss.bytes) + ' are not on the backends yet, the oldest for ' + span(loss.seconds) + '.';
    $('notes').replaceChildren(...s.notes.map(n => el('li', n)));
  }

  function cards(s) {
    const q = s.queue, c = s.cache, d = s.disk;
    rows('loss', [
      ['Not safe yet', size(s.loss_window.bytes), s.loss_window.bytes ? 'warn' : 'good'],
      ['Oldest', s.loss_window.bytes ? span(s.loss_window.seconds) : '–'],
      ['Checkpoint', s.checkpoint.seq ? String(s.checkpoint.seq) : 'none yet'],
      ['Committed', s.checkpoint.age_seconds ? span(s.checkpoint.age_seconds) + ' ago' : '–']]);
    rows('queue', [
      ['Waiting', count(q.pending)], ['Uploading', count(q.uploading)],
      ['Failed, tried again', count(q.failed), q.failed ? 'bad' : ''],
      ['To be sent', size(q.bytes_pending)], ['Oldest', q.oldest_seconds ? span(q.oldest_seconds) : '–'], ['Stored files', count(q.stored)]]);
    rows('room', [
      ['Cache', size(c.bytes) + ' of ' + size(c.limit)],
      ['Disk free', size(d.free_bytes) + ' of ' + size(d.total_bytes), d.total_bytes && d.free_bytes < d.total_bytes / 20 ? 'bad' : ''],
      ['Sent', size(s.transfer.sent_bytes)], ['Fetched', size(s.transfer.fetched_bytes)],
      ...s.namespaces.map(n => [n.name + ' ids', (100 * n.ids / n.limit).toFixed(n.ids * 1000 < n.limit ? 3 : 1) + ' % used', n.ids * 2 > n.limit ? 'warn' : ''])]);
    rows('protection', [
      ...s.redundancy.map(r => [(r.role === 'meta' ? 'Metadata' : 'Data') + ' backends to spare',
        r.tolerated + ' of ' + r.full, r.tolerated <= 0 ? 'bad' : r.tolerated < r.full ? 'warn' : 'good']),
      ...scrub(s.scrub),
      ['Generation of backends', String(s.generation)], ['Epoch', String(s.epoch)]]);
  }

  function scrub(r) {
    if (!r) return [['Scrub', 'none yet']];
    const bad = r.lost ? r.lost + ' lost' : r.damaged > r.repaired ? (r.damaged - r.repaired) + ' damaged' : 'all good';
    return [[r.running ? 'Scrub, running' : 'Scrub, ' + since(r.started) + ' ago',
      r.objects + (r.total ? ' of ' + r.total : '') + ' objects: ' + bad, r.lost ? 'bad' : r.damaged > r.repaired ? 'warn' : 'good']];
  }

  const steps = {
    grace: 'grace period: it may come back', provision: 'a new backend is made', reload: 'the new set of backends is written',
    rebuild: 'what it held is made anew', verify: 'every object is asked for', retire: 'the old one is given back',
    done: 'done', cancelled: 'cancelled: it came back', failed: 'failed'
  };
  const order = ['grace', 'provision', 'reload', 'rebuild', 'verify', 'retire', 'done'];

  function replacements(list) {
    if (!list.length) return $('replacements').replaceChildren(el('p', 'None within a day.'));
    $('replacements').replaceChildren(...list.map(r => {
      const box = el('div'), at = order.indexOf(r.step);
      box.append(el('p', r.backend + (r.successor ? ' → ' + r.successor : '') + ': ' + (steps[r.step] || r.step) +
        (at >= 0 && r.step !== 'done' ? ' (step ' + (at + 1) + ' of 6, for ' + since(r.changed) + ')' : ''),
        r.step === 'failed' ? 'bad' : r.step === 'done' || r.step === 'cancelled' ? 'good' : 'warn'));
      if (r.objects) {
        box.append(el('p', count(r.rebuilt) + ' of ' + count(r.objects) + ' objects made anew, ' + size(r.bytes) + ' written'));
        box.append(bar('objects of ' + r.backend + ' made anew', r.rebuilt, r.objects));
      }
      box.append(el('p', 'Reason: ' + r.reason));
      if (r.error) box.append(el('p', r.error, 'bad'));
      return box;
    }));
  }

  function backends(list) {
    const up = list.filter(b => b.state === 'up').length;
    $('backends-sum').textContent = up + ' of ' + list.length + ' work.';
    $('backends').replaceChildren(...list.map(b => {
      const tr = el('tr'), [mark, cls] = backendMarks[b.state] || ['?', 'warn'];
      const th = el('th', b.id);
      th.scope = 'row';
      const unknown = b.state !== 'up' && b.state !== 'full';
      tr.append(th, el('td', (b.role === 'meta' ? 'metadata' : b.role) + (b.spare ? ', spare' : '')), el('td', mark + ' ' + b.state, cls), el('td', since(b.since)));
      if (unknown && b.error) {
        const why = el('td', b.error, 'why');
        why.colSpan = 2;
        tr.append(why);
      } else {
        tr.append(el('td', size(b.used_bytes) + (b.limit_bytes ? ' of ' + size(b.limit_bytes) : '')), el('td', b.latency_seconds ? span(b.latency_seconds) : '–'));
      }
      tr.append(el('td', b.address));
      return tr;
    }));
  }

  function events(list) {
    $('events').replaceChildren(...(list.length ? list.map(e => {
      const li = el('li'), at = new Date(e.time), t = el('time', at.toLocaleString());
      t.dateTime = e.time;
      li.append(t, e.kind + (e.subject ? ' ' + e.subject : '') + ': ' + e.message);
      return li;
    }) : [el('li', 'Nothing happened yet.')]));
  }

  let paused = false, source, heard = 0, held = {};
  const show = {
    status: s => {
      headline(s); cards(s); replacements(s.replacements); backends(s.backends);
      $('about').textContent = (s.mount.mounted ? 'Mounted on ' + s.mount.path : 'Not mounted') + ', process ' + s.pid + ', running for ' + since(s.started) + '.';
    },
    events,
    trouble: t => { $('safe').textContent = 'The system cannot be looked at: ' + t.error; }
  };
  const live = () => {
    const late = Date.now() - heard > 20000;
    $('live').textContent = paused ? 'Paused' : !heard ? 'Connecting…'
      : source.readyState !== 1 || late ? 'No connection: values are ' + span((Date.now() - heard) / 1000) + ' old' : 'Live';
  };
  function connect() {
    source = new EventSource('events');
    for (const kind of Object.keys(show)) {
      source.addEventListener(kind, m => {
        heard = Date.now();
        held[kind] = JSON.parse(m.data);
        if (!paused) show[kind](held[kind]);
        live();
      });
    }
    source.onerror = () => {
      live();
      if (source.readyState === 2) setTimeout(connect, 10000); // refused: the browser does not try again by itself
    };
  }
  $('pause').addEventListener('click', () => {
    paused = !paused;
    $('pause').setAttribute('aria-pressed', String(paused));
    $('pause').textContent = paused ? 'Go on' : 'Pause updates';
    if (!paused) for (const kind of Object.keys(held)) show[kind](held[kind]);
    live();
  });
  setInterval(live, 1000);
  connect();
})();
