package qsfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// eventGate stands between the hook socket and the table of events. The socket
// is there from the first moment of Run to its last; the table can be used
// only while the system serves. What comes before and after is put into the
// spool, with what hook programs put there themselves while nobody listened, or
// held where zdb waits for an answer that only the table has.
type eventGate struct {
	handler hooks.HookHandler
	spools  []*hooks.Spool // the first one is ours; the others are places where hook programs may have put events
	log     *slog.Logger
	bad     func(file string) // told of each file that was set aside
	refused func(hooks.Spooled, error)
	again   time.Duration // between two tries of events that failed, at the most

	mu      sync.Mutex
	state   gateState
	ending  context.Context // ends with the gate: nobody waits for the table then
	endNow  context.CancelFunc
	opened  chan struct{} // closed when the gate opens, or when it never will
	running sync.WaitGroup
	wake    chan struct{} // room for one: something was spooled
}

type gateState int

const (
	gateStarting gateState = iota
	gateOpen
	gateEnding
)

func newEventGate(h hooks.HookHandler, log *slog.Logger, dirs ...string) *eventGate {
	g := &eventGate{handler: h, log: log, again: 10 * time.Minute, opened: make(chan struct{}), wake: make(chan struct{}, 1)}
	g.ending, g.endNow = context.WithCancel(context.Background())
	for _, d := range dirs {
		g.spools = append(g.spools, &hooks.Spool{Dir: d})
	}
	return g
}

// open lets events through to the table.
func (g *eventGate) open() { g.turn(gateOpen) }

func (g *eventGate) isOpen() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state == gateOpen
}

// end lets nothing through any more, and ends what is on its way.
func (g *eventGate) end() {
	g.turn(gateEnding)
	g.endNow()
	g.running.Wait()
}

func (g *eventGate) turn(to gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == gateStarting && to != gateStarting {
		close(g.opened)
	}
	g.state = max(g.state, to)
}

// enter says whether the table may be used; then leave has to be called.
func (g *eventGate) enter() (leave func(), state gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == gateOpen {
		g.running.Add(1)
	}
	return g.running.Done, g.state
}

// HandleHook takes an event from the socket.
func (g *eventGate) HandleHook(ctx context.Context, e hooks.Event) error {
	leave, state := g.enter()
	if state == gateStarting && held(e.Kind) {
		select {
		case <-g.opened:
		case <-ctx.Done():
		}
		leave, state = g.enter()
	}
	if state != gateOpen {
		return g.later(e)
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ending, cancel)()
	err := g.handler.HandleHook(ctx, e)
	if err != nil && g.ending.Err() != nil {
		return g.later(e)
	}
	if err == nil || e.Kind.Blocking() || errors.Is(err, hooks.ErrEvent) {
		return err
	}
	g.log.Warn("an event could not be handled; it is tried again", "event", string(e.Kind), "err", err)
	return g.spool(e)
}

// held says whether zdb waits for what only the table can answer: what its start
// needs, and a read.
func held(k hooks.Kind) bool {
	return k == hooks.NamespacesInit || k == hooks.Ready || k == hooks.MissingData
}

// later is for an event that comes before the system serves, or after.
func (g *eventGate) later(e hooks.Event) error {
	if held(e.Kind) {
		return hooks.ErrUnavailable // the hook program knows what to do without us
	}
	return g.spool(e)
}

func (g *eventGate) spool(e hooks.Event) error {
	if _, err := g.spools[0].Put(e); err != nil {
		return err
	}
	select {
	case g.wake <- struct{}{}:
	default:
	}
	return nil
}

// Bounds of the spool's reader.
const (
	spoolLook  = 2 * time.Second // between two looks at the folders
	spoolAgain = 5 * time.Second // after a first failure; doubles
)

// read hands what is in the spools to the table until ctx ends: at once, when
// something was put in, and again while an event fails.
func (g *eventGate) read(ctx context.Context) {
	var seen []time.Time
	pause := spoolAgain
	retry := time.Time{}
	for {
		now := g.changed()
		if !slices.Equal(now, seen) || (!retry.IsZero() && time.Now().After(retry)) {
			seen = now // from before the look: what comes meanwhile is seen next time
			if g.drain(ctx) {
				pause, retry = spoolAgain, time.Time{}
			} else {
				retry = time.Now().Add(pause)
				pause = min(2*pause, g.again)
			}
		}
		t := time.NewTimer(spoolLook)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-g.wake:
			seen = nil // the folder's time may be too coarse to tell
		case <-t.C:
		}
		t.Stop()
	}
}

// changed gives the times of the folders; zero for one that is not there.
func (g *eventGate) changed() []time.Time {
	times := make([]time.Time, len(g.spools))
	for i, s := range g.spools {
		if st, err := os.Stat(s.Dir); err == nil {
			times[i] = st.ModTime()
		}
	}
	return times
}

// drain says whether nothing is left to be tried again.
func (g *eventGate) drain(ctx context.Context) bool {
	clean := true
	for _, s := range g.spools {
		r, err := s.Drain(ctx, g.handleSpooled)
		for _, file := range r.Bad {
			g.log.Warn("a spooled event is damaged and was set aside", "spool", s.Dir, "file", file)
			if g.bad != nil {
				g.bad(file)
			}
		}
		if r.Newer > 0 {
			g.log.Warn("events were spooled by a newer version; they wait for it", "spool", s.Dir, "events", r.Newer)
		}
		if r.Handled > 0 {
			g.log.Info("spooled events were handled", "spool", s.Dir, "events", r.Handled)
		}
		if err != nil && ctx.Err() == nil {
			g.log.Warn("the spool could not be emptied", "spool", s.Dir, "err", err)
		}
		clean = clean && err == nil && r.Kept == 0
	}
	return clean
}

func (g *eventGate) handleSpooled(ctx context.Context, e hooks.Spooled) error {
	leave, state := g.enter()
	if state != gateOpen {
		return ErrNotReady
	}
	defer leave()
	err := g.handler.HandleHook(ctx, e.Event)
	if errors.Is(err, hooks.ErrEvent) { // it never will be handled
		g.log.Warn("a spooled event was refused", "event", string(e.Event.Kind), "err", err)
		if g.refused != nil {
			g.refused(e, err)
		}
		return nil
	}
	return err
}

func (s *System) newEvents() *eventGate {
	g := newEventGate(hooks.Chain(s.opts.hooks, s.HookHandler()), s.log.With("component", "hooks"),
		s.layout.HookSpool(), filepath.Join(filepath.Dir(s.layout.HookSocket()), "spool"))
	g.again = max(s.cfg.RetryInterval.Std(), spoolAgain)
	return g
}

// startHookSocket takes events of an external zdb, which come by the hook
// program, and tells that program what it has to know while we are away.
func (s *System) startHookSocket(ctx context.Context, stops *stopStack) error {
	socket := s.layout.HookSocket()
	l, err := hooks.Listen(socket, s.events, hooks.ListenerOptions{Logger: s.log})
	if err != nil {
		return err
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(serving) }()
	stops.push(func() error {
		cancel()
		err := l.Close()
		if serveErr := <-ended; serveErr != nil && !errors.Is(serveErr, context.Canceled) && !errors.Is(serveErr, hooks.ErrClosed) {
			err = errors.Join(err, serveErr)
		}
		return err
	})
	settings := hooks.Settings{Socket: socket, Spool: s.layout.HookSpool(), Ready: hooks.ReadyPolicy(s.cfg.HookReady)}
	if s.cfg.Engine.Zstor == config.External {
		settings.Zstor = s.layout.ZstorSocket()
	}
	if err := settings.Write(); err != nil {
		return fmt.Errorf("settings of the hook program: %w", err)
	}
	return nil
}

// startEvents reads the spool from the moment when the gate is opened, by who
// starts the zdb, until that zdb has ended.
func (s *System) startEvents(ctx context.Context, stops *stopStack) error {
	s.events.bad = func(file string) {
		s.happened(ctx, eventHook, "spool", "a spooled event is damaged and was set aside: %s", file)
	}
	s.events.refused = func(e hooks.Spooled, err error) {
		s.happened(ctx, eventHook, e.Event.Instance, "a spooled %s was refused: %v", e.Event.Kind, err)
	}
	reading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.events.opened:
			s.events.read(reading)
		case <-reading.Done():
		}
	}()
	stops.push(func() error {
		cancel()
		<-ended
		s.events.end()
		return nil
	})
	return nil
}
