//go:build linux

package dashboard_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/browser"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/dashboard"
)

// full is a system with everything that the page can show.
func full(s *told) {
	now := time.Now()
	s.status.State = client.StateDegraded
	s.status.LossWindow = client.LossWindow{Bytes: 5 << 20, Seconds: 42}
	s.status.Queue = client.Queue{Pending: 3, Uploading: 2, Failed: 1, Stored: 1234, BytesPending: 7 << 20, OldestSeconds: 61}
	s.status.Cache = client.Cache{Bytes: 1 << 30, Limit: 10 << 30}
	s.status.Disk = client.Disk{FreeBytes: 20 << 30, TotalBytes: 100 << 30}
	s.status.Checkpoint = client.Checkpoint{Seq: 17, AgeSeconds: 300}
	s.status.Notes = []string{"1 data backend does not work", "<img src=x onerror=alert(1)>"}
	s.status.Backends = []client.Backend{
		{ID: "meta0", Role: "meta", Address: "192.0.2.1:9900", State: "up", Since: now.Add(-time.Hour), UsedBytes: 1 << 20, LatencySeconds: .004},
		{ID: "data0", Role: "data", Address: "192.0.2.2:9900", State: "down", Since: now.Add(-3 * time.Minute), Error: "backend 192.0.2.2:9900 does not answer: <b>refused</b>"},
	}
	s.status.Redundancy = []client.Redundancy{{Role: "data", Needed: 3, Shards: 5, Down: 1, Tolerated: 1, Full: 2}, {Role: "meta", Needed: 2, Shards: 4, Tolerated: 2, Full: 2}}
	s.status.Namespaces = []client.Namespace{{Name: "zdbfs-data", IDs: 123456, Limit: 1 << 32}}
	s.status.Replacements = []client.Replacement{{ID: 1, Backend: "data0", Successor: "data5", Step: client.ReplaceRebuild, Reason: "does not answer", Started: now, Changed: now,
		Objects: 1000, Rebuilt: 250, Bytes: 1 << 30}}
	s.status.Scrub = &client.ScrubReport{Started: now.Add(-time.Hour), Objects: 900, Total: 900, Good: 900}
	s.events = []client.Event{{ID: 2, Time: now, Kind: "backend", Subject: "data0", Message: "is down"}}
}

// The page in a real browser: it shows everything, live, as text; it breaks no
// rule of its own policy, asks nobody else, can be used by keyboard alone, and
// fits a small screen.
func TestInBrowser(t *testing.T) {
	b := browser.Start(t)
	s := tell()
	srv := httptest.NewServer(dashboard.New(s, quick))
	t.Cleanup(srv.CloseClientConnections)
	p := b.Open(t, srv.URL+"/", browser.Screen{Width: 1280, Height: 900})
	p.Eventually(t, `document.querySelector("#state").innerText.includes("ok: it works")`)
	p.Eventually(t, `document.querySelector("#live").innerText === "Live"`)
	assert.Contains(t, p.Text(t, "#safe"), "Everything that was written is on the backends")

	began := time.Now()
	s.set(full)
	p.Eventually(t, `document.querySelector("#state").innerText.includes("degraded")`)
	t.Logf("a change is shown after %s", time.Since(began))
	for selector, want := range map[string]string{
		"#safe": "5 MiB are not on the backends yet, the oldest for 42 s", "#notes": "<img src=x onerror=alert(1)>", "#queue": "7 MiB",
		"#loss": "17", "#room": "1 GiB of 10 GiB", "#protection": "1 of 2", "#replacements": "step 4 of 6", "#backends": "<b>refused</b>",
		"#backends-sum": "1 of 2 work", "#events": "backend data0: is down", "#about": "Not mounted",
	} {
		assert.Contains(t, p.Text(t, selector), want, selector)
	}
	var n int
	p.Eval(t, `document.querySelectorAll("img, #backends b").length`, &n)
	assert.Zero(t, n, "values are text, not markup")
	var done float64
	p.Eval(t, `document.querySelector("progress").position`, &done)
	assert.InDelta(t, .25, done, .001)

	t.Run("keyboard", func(t *testing.T) { keyboard(t, p, s) })
	t.Run("screens", func(t *testing.T) { screens(t, p) })
	t.Run("lost connection", func(t *testing.T) {
		srv.CloseClientConnections()
		srv.Listener.Close()
		p.Eventually(t, `document.querySelector("#live").innerText.startsWith("No connection")`)
	})
	for _, url := range p.Requests() {
		assert.Regexp(t, "^("+srv.URL+"/(events)?$|data:)", url, "it asks nobody else")
	}
	for _, problem := range p.Problems() {
		assert.Contains(t, problem, "ERR_", "no error but the connection that was cut")
	}
}

// keyboard walks through the page by Tab, and pauses it.
func keyboard(t *testing.T, p *browser.Page, s *told) {
	var order []string
	for range 4 {
		p.Press(t, "Tab")
		var at string
		p.Eval(t, `(e => e.id || e.className || e.tagName)(document.activeElement)`, &at)
		order = append(order, at)
		p.Eventually(t, `getComputedStyle(document.activeElement).outlineStyle === "solid"`) // the focus can be seen
	}
	assert.Equal(t, []string{"skip", "pause", "scroll", "scroll tall"}, order)
	p.Eval(t, `document.querySelector("#pause").focus() || true`, nil)
	p.Press(t, " ")
	assert.Equal(t, "Paused", p.Text(t, "#live"))
	s.set(func(s *told) { s.status.State = client.StateFenced })
	p.Press(t, "Enter")
	p.Eventually(t, `document.querySelector("#state").innerText.includes("fenced")`)
	p.Eval(t, `document.querySelector(".skip").focus() || true`, nil)
	p.Press(t, "Enter")
	var at string
	p.Eval(t, `document.activeElement.id`, &at)
	assert.Equal(t, "main", at)
	var landmarks []int
	p.Eval(t, `["main", "header", "footer", "h1"].map(s => document.querySelectorAll(s).length)`, &landmarks)
	assert.Equal(t, []int{1, 1, 1, 1}, landmarks)
}

// screens looks at widths and colours.
func screens(t *testing.T, p *browser.Page) {
	for _, dark := range []bool{false, true} {
		for _, width := range []int{320, 768, 1280} {
			p.Show(t, browser.Screen{Width: width, Height: 700, Dark: dark, LessMotion: true})
			var wide int
			p.Eval(t, `document.documentElement.scrollWidth`, &wide)
			assert.LessOrEqual(t, wide, width, "nothing sticks out at %d", width)
			var worst []any
			p.Eval(t, contrast, &worst)
			require.NotEmpty(t, worst)
			assert.GreaterOrEqual(t, worst[0], 4.5, "contrast of %v, dark %v", worst[1], dark)
		}
	}
}

// contrast finds the text with the least contrast to its background.
const contrast = `(() => {
  const rgb = c => c.match(/[\d.]+/g).map(Number);
  const lum = c => { const [r, g, b] = rgb(c).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const under = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; const v = rgb(c); if (v.length < 4 || v[3] > 0) return c; } return "rgb(255,255,255)"; };
  let worst = [99, ""];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || e.closest("noscript, script, style")) continue;
    const a = lum(getComputedStyle(e).color), b = lum(under(e)), c = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (c < worst[0]) worst = [c, e.tagName + "." + e.className + " " + e.textContent.slice(0, 30)];
  }
  return worst;
})()`
