package grid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
)

// Options of a Provisioner. Deployment, Open and Journal must be given.
type Options struct {
	Deployment string
	// Open reaches the grid. It is called at the first call that needs it, and again
	// after it failed.
	Open    func(ctx context.Context) (Client, error)
	Journal Journal
	// Known are backends that the configuration names: they are used without asking
	// the grid.
	Known    []backend.Backend
	Password backend.Secret // of the namespaces; at most 64 bytes, without - and blanks

	MetaSize, DataSize int64 // bytes, multiples of GiB
	Choice             Choice
	Connection         Connection // empty: mycelium
	FarmGroups         bool       // each farm is a group of backends
	MaxRetries         int        // rounds after the first in which failed ones go to other nodes
	// MaxUSD bounds what the new contracts of 30 days cost a month, those of Known left
	// out; zero: no bound.
	MaxUSD float64
	// Hangup ends the connection after each call: a daemon needs it once in months.
	Hangup bool
	// ReplaceUnreachable rents others where a node does not answer.
	ReplaceUnreachable bool

	Dialer  backend.Dialer // nil: over TCP
	Reach   time.Duration  // how long a new zdb may take to be reached; zero: two minutes
	Settle  time.Duration  // how long a contract may take to be on the chain; zero: a minute
	Pause   time.Duration  // between two looks; zero: 3 s
	Turn    time.Duration  // how long to wait while another process rents or cancels; zero: a minute
	Observe func(Progress) // of what is rented; may be nil
	Rand    *rand.Rand     // for tests; nil: random
	Logger  *slog.Logger
}

// Progress tells of one backend.
type Progress struct {
	ID   string
	Node uint32
	Step string // in words
	Err  error
}

// Provisioner makes, finds and gives back zdbs on the grid. It is safe for
// concurrent use; one call at a time rents or cancels.
type Provisioner struct {
	o   Options
	log *slog.Logger

	turn  sync.Mutex                // of whoever rents or cancels
	fixed map[backend.Role][]uint32 // the draw of nodes, which a plan and what is done share

	mu  sync.Mutex
	c   Client
	rnd *rand.Rand
}

var _ backend.Provisioner = (*Provisioner)(nil)

// New makes a Provisioner. Nothing is asked of the grid yet.
func New(o Options) (*Provisioner, error) {
	if err := CheckName(o.Deployment); err != nil {
		return nil, err
	}
	if o.Open == nil || o.Journal == nil {
		return nil, errors.New("grid: no client or no journal")
	}
	o.Connection = cmp.Or(o.Connection, Mycelium)
	if _, ok := classes[o.Connection]; !ok && o.Connection != Any {
		return nil, fmt.Errorf("grid: no such connection: %q", o.Connection)
	}
	o.Reach = cmp.Or(o.Reach, 2*time.Minute)
	o.Settle = cmp.Or(o.Settle, settle)
	o.Pause = cmp.Or(o.Pause, 3*time.Second)
	o.Turn = cmp.Or(o.Turn, time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dialer == nil {
		o.Dialer = zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: 10 * time.Second})
	}
	if o.Observe == nil {
		o.Observe = func(Progress) {}
	}
	rnd := o.Rand
	if rnd == nil {
		rnd = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return &Provisioner{o: o, log: o.Logger.With("component", "backend/grid"), rnd: rnd}, nil
}

// Close ends the connection to the grid.
func (p *Provisioner) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c == nil {
		return nil
	}
	err := p.c.Close()
	p.c = nil
	return err
}

// begin takes the turn, in this process and among others. Another one's is waited
// for: it makes what this one would, or leaves it to do.
func (p *Provisioner) begin(ctx context.Context) (end func(), err error) {
	p.turn.Lock()
	done, err := p.await(ctx)
	if err != nil {
		p.turn.Unlock()
		return nil, err
	}
	return func() {
		if p.o.Hangup {
			if err := p.Close(); err != nil {
				p.log.Warn("the connection to the grid did not end well", "err", err)
			}
		}
		done()
		p.turn.Unlock()
	}, nil
}

// turnToLook takes the turn and finds out what there is.
func (p *Provisioner) turnToLook(ctx context.Context, read bool) (w *world, end func(), err error) {
	if end, err = p.begin(ctx); err != nil {
		return nil, nil, err
	}
	if w, err = p.look(ctx, read); err != nil {
		end()
		return nil, nil, err
	}
	return w, end, nil
}

func (p *Provisioner) await(ctx context.Context) (end func(), err error) {
	for began := time.Now(); ; {
		end, err = p.o.Journal.Begin(ctx)
		if !errors.Is(err, ErrBusy) || time.Since(began) > p.o.Turn {
			return end, err
		}
		p.log.Debug("another process rents or cancels: waiting for it")
		if err := p.pause(ctx); err != nil {
			return nil, err
		}
	}
}

func (p *Provisioner) client(ctx context.Context) (Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c != nil {
		return p.c, nil
	}
	c, err := p.o.Open(ctx)
	if err != nil {
		return nil, err
	}
	p.c = c
	return c, nil
}

// Costs says that new backends cost money.
func (p *Provisioner) Costs() bool { return true }

// Batch is how many specs a call to Provision best has: they are rented together.
func (p *Provisioner) Batch() int { return batch }

// List gives the backends that the configuration and the journal know. The grid is
// not asked: a system starts without it.
func (p *Provisioner) List(ctx context.Context) ([]backend.Backend, error) {
	rows, err := p.o.Journal.Rows(ctx)
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}
	for _, r := range rows {
		if r.Namespace != "" && (r.State == Gone || r.State == Leaving) { // one that was never made has none
			gone[r.Namespace] = true
		}
	}
	out := []backend.Backend{}
	for _, b := range p.o.Known {
		if !gone[b.Namespace] {
			out = append(out, b)
		}
	}
	for _, r := range rows {
		b := r.Backend(p.o.Password, p.group(r.Farm))
		same := func(o backend.Backend) bool { return o.Address == b.Address && o.Namespace == b.Namespace }
		if r.State == Ready && !slices.ContainsFunc(out, same) {
			out = append(out, b)
		}
	}
	slices.SortStableFunc(out, func(a, b backend.Backend) int { return compareIDs(a.ID, b.ID) })
	return out, nil
}

// Find asks the grid which backends the deployment has: by the mnemonic, the
// password and the name alone, as on a new machine.
func (p *Provisioner) Find(ctx context.Context) ([]Held, error) {
	w, end, err := p.turnToLook(ctx, true)
	if err != nil {
		return nil, err
	}
	defer end()
	for _, h := range w.held {
		if h.Err == nil && !h.Extra {
			if err := p.ready(ctx, w, h); err != nil {
				return nil, err
			}
		}
	}
	return w.held, nil
}

// Wanted gives the specs of a deployment of so many backends: those that there are,
// whatever made them, and new ones.
func (p *Provisioner) Wanted(ctx context.Context, meta, data int) ([]backend.Spec, error) {
	w, end, err := p.turnToLook(ctx, false)
	if err != nil {
		return nil, err
	}
	defer end()
	var specs []backend.Spec
	for _, want := range []struct {
		role  backend.Role
		count int
	}{{backend.Meta, meta}, {backend.Data, data}} {
		specs = append(specs, p.wanted(w, want.role, want.count)...)
	}
	return specs, nil
}

// wanted gives the specs of a role: those that the configuration lists, those that
// the account pays for, then new ones. An id is never given twice.
func (p *Provisioner) wanted(w *world, role backend.Role, count int) (specs []backend.Spec) {
	had := map[string]bool{}
	for _, r := range w.rows {
		had[r.ID] = true
	}
	for _, b := range p.o.Known {
		had[b.ID] = true
		if b.Role == role && !b.Spare {
			specs = append(specs, backend.Spec{ID: b.ID, Role: role, Group: b.Group})
		}
	}
	for _, h := range w.held {
		listed := slices.ContainsFunc(p.o.Known, func(b backend.Backend) bool { return b.ID == h.ID })
		had[h.ID] = true
		if h.Role == role && !h.Extra && !listed {
			specs = append(specs, backend.Spec{ID: h.ID, Role: role})
		}
	}
	for next := 0; len(specs) < count; next++ {
		if id := fmt.Sprintf("%s%d", role, next); !had[id] {
			specs = append(specs, backend.Spec{ID: id, Role: role})
		}
	}
	return specs
}

// Rows gives what the journal knows of contracts that are not gone.
func (p *Provisioner) Rows(ctx context.Context) ([]Row, error) { return Rows(ctx, p.o.Journal) }

// Health asks the backend.
func (p *Provisioner) Health(ctx context.Context, b backend.Backend) backend.Health {
	return zdb.Health(ctx, p.o.Dialer, b)
}

func (p *Provisioner) group(farm uint64) string {
	if !p.o.FarmGroups || farm == 0 {
		return ""
	}
	return fmt.Sprintf("farm%d", farm)
}

func (p *Provisioner) size(role backend.Role) int64 {
	if role == backend.Meta {
		return p.o.MetaSize
	}
	return p.o.DataSize
}

// sizeOf is what is rented for a spec: its own size where that is more.
func (p *Provisioner) sizeOf(s backend.Spec) int64 {
	return max(p.size(s.Role), (s.Size+GiB-1)/GiB*GiB)
}

// save writes a row durably, and into w.
func (p *Provisioner) save(ctx context.Context, w *world, r Row) error {
	r.Changed = time.Now().UTC()
	if err := p.o.Journal.Save(ctx, r); err != nil {
		return fmt.Errorf("grid: the journal: %w", err)
	}
	w.rows[r.Name] = r
	return nil
}

// ready notes a backend whose address is known.
func (p *Provisioner) ready(ctx context.Context, w *world, h Held) error {
	r := w.rows[h.Contract.Name]
	if r.State == Ready && r.Contract == h.Contract.ID && r.Address == h.Backend.Address && r.ID == h.ID {
		return nil
	}
	r.Name, r.ID, r.Role, r.Node, r.Contract = h.Contract.Name, h.ID, h.Role, h.Contract.Node, h.Contract.ID
	r.State, r.Address, r.Namespace, r.Error = Ready, h.Backend.Address, h.Backend.Namespace, ""
	return p.save(ctx, w, r)
}

// pause waits until the next look.
func (p *Provisioner) pause(ctx context.Context) error {
	timer := time.NewTimer(p.o.Pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// compareIDs sorts meta before data, and data2 before data10.
func compareIDs(a, b string) int {
	ra, na := splitID(a)
	rb, nb := splitID(b)
	return cmp.Or(-strings.Compare(ra, rb), cmp.Compare(na, nb), strings.Compare(a, b))
}

func splitID(id string) (role string, n uint64) {
	at := strings.IndexAny(id, "0123456789")
	if at < 0 {
		return id, 0
	}
	n, _ = strconv.ParseUint(id[at:], 10, 64)
	role, _, _ = strings.Cut(id[:at], "-")
	if strings.Contains(id[:at], "-") {
		n += 1 << 40 // those that another program made come last
	}
	return role, n
}
