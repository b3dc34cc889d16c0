// Package zstortest is a network of zdbs in memory, with faults, for tests of what
// talks to backends through [backend.Dialer].
//
//	net := zstortest.New()
//	data, meta := net.Make(5, 2)          // five data backends in two groups, four of metadata
//	net.At(data[0]).Fail(zstortest.Down)
//
// It keeps the contract of backend.Conn; it is not a zdb.
package zstortest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Fault is how a server misbehaves.
type Fault int

const (
	None      Fault = iota
	Down            // refuses at once
	Hang            // never answers
	Lie             // answers Get with a flipped bit
	Full            // takes nothing new
	ReadOnly        // refuses writes as locked
	Cut             // the connection breaks in every call that is made, after the server acted
	Forgetful       // takes everything, keeps nothing new
	Short           // answers Get with the last byte cut off
)

// Net is a set of servers. It is a backend.Dialer.
type Net struct {
	mu      sync.Mutex
	servers map[place]*Server
	onSet   func(backend.Backend)
}

// OnSet has f called after each Set of any server, before it is answered.
func (n *Net) OnSet(f func(backend.Backend)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onSet = f
}

type place struct {
	addr netip.AddrPort
	ns   string
}

// New makes an empty network.
func New() *Net { return &Net{servers: map[place]*Server{}} }

// Make adds data backends d0, d1… dealt to groups in turn, and four metadata
// backends m0 to m3.
func (n *Net) Make(data, groups int) (d, m []backend.Backend) {
	for i := range data {
		d = append(d, backend.Backend{
			ID: fmt.Sprintf("d%d", i), Role: backend.Data, Group: fmt.Sprintf("g%d", i%groups),
			Address:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 9900),
			Namespace: fmt.Sprintf("data-%d", i), Password: "secret-of-data",
		})
	}
	for i := range backend.MetaBackends {
		m = append(m, backend.Backend{
			ID: fmt.Sprintf("m%d", i), Role: backend.Meta,
			Address:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(i)}), 9900),
			Namespace: fmt.Sprintf("meta-%d", i),
		})
	}
	for _, b := range append(slices.Clone(d), m...) {
		n.Add(b)
	}
	return d, m
}

// Add puts a server at b's address and namespace, sequential for data backends.
func (n *Net) Add(b backend.Backend) *Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &Server{b: b, sequential: b.Role == backend.Data, entries: map[string]entry{}}
	n.servers[place{b.Address, b.Namespace}] = s
	return s
}

// At finds the server of b; nil where there is none.
func (n *Net) At(b backend.Backend) *Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.servers[place{b.Address, b.Namespace}]
}

// Dial is lazy: a server that is down shows at the first call.
func (n *Net) Dial(_ context.Context, b backend.Backend) (backend.Conn, error) {
	return &conn{net: n, b: b}, nil
}

// Server is one namespace.
type Server struct {
	b          backend.Backend
	sequential bool

	mu      sync.Mutex
	faults  []Fault // of the next calls; the last one stays
	latency time.Duration
	entries map[string]entry
	order   []string
	next    uint64
	clock   uint32
	wrap    uint64 // ids start again here; zero: never

	sets, gets atomic.Int64
}

type entry struct {
	value []byte
	crc   uint32
	time  uint32
}

// Fail makes the server misbehave from now on; None ends it.
func (s *Server) Fail(f Fault) { s.FailAfter(0, f) }

// FailAfter lets n more calls work first.
func (s *Server) FailAfter(n int, f Fault) { s.Script(append(make([]Fault, n), f)...) }

// Script gives the fault of each call from now on; the last one stays.
func (s *Server) Script(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = faults
}

// SetLatency delays every answer.
func (s *Server) SetLatency(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency = d
}

// Wrap makes ids start again at n and reuses the memory of what they held: for
// benchmarks, where a server that keeps all would be what is measured.
func (s *Server) Wrap(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrap = n
}

// Sets and Gets count calls that reached the server.
func (s *Server) Sets() int64 { return s.sets.Load() }

// Gets counts reads of payloads.
func (s *Server) Gets() int64 { return s.gets.Load() }

// Len is the number of entries.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries)
}

// Value gives a stored payload.
func (s *Server) Value(key []byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[string(key)]
	return slices.Clone(e.value), ok
}

// Put stores a payload behind every fault and mode.
func (s *Server) Put(key, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(string(key), value)
}

// Drop deletes a payload behind every fault.
func (s *Server) Drop(key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(string(key))
}

// Corrupt flips a bit of a payload on the server's disk; its index still tells the
// old checksum.
func (s *Server) Corrupt(key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.entries[string(key)]; ok && len(e.value) > 0 {
		e.value = slices.Clone(e.value)
		e.value[len(e.value)/2] ^= 0x10
		s.entries[string(key)] = e
	}
}

// Clear empties the server, as a new one in its place would be.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries, s.order = map[string]entry{}, nil
}

// Snapshot gives a function that puts the server back to what it is now: a
// backend that comes back old.
func (s *Server) Snapshot() (restore func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, order, next := make(map[string]entry), slices.Clone(s.order), s.next
	for k, v := range s.entries {
		entries[k] = v
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.entries, s.order, s.next = entries, order, next
	}
}

// Keys lists all keys in order of insertion.
func (s *Server) Keys() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][]byte
	for _, k := range s.order {
		out = append(out, []byte(k))
	}
	return out
}

func (s *Server) put(key string, value []byte) {
	if _, ok := s.entries[key]; !ok {
		s.order = append(s.order, key)
	}
	s.clock++
	if s.wrap > 0 {
		s.entries[key] = entry{append(s.entries[key].value[:0], value...), 0, 0}
		return
	}
	s.entries[key] = entry{slices.Clone(value), crcOf(value), 1_700_000_000 + s.clock}
}

func (s *Server) drop(key string) bool {
	if _, ok := s.entries[key]; !ok {
		return false
	}
	delete(s.entries, key)
	s.order = slices.DeleteFunc(s.order, func(k string) bool { return k == key })
	return true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crcOf(b []byte) uint32 { return ^crc32.Update(0xffffffff, castagnoli, b) }

var errRefused = errors.New("connection refused")

// enter is the way of every call to the server: faults that give no answer end here.
func (s *Server) enter(ctx context.Context) (Fault, error) {
	s.mu.Lock()
	f, latency := None, s.latency
	if len(s.faults) > 0 {
		f = s.faults[0]
	}
	if len(s.faults) > 1 {
		s.faults = s.faults[1:]
	}
	s.mu.Unlock()
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if f == Hang {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return f, &backend.UnreachableError{Address: s.b.Address, Err: err}
	}
	if f == Down {
		return f, &backend.UnreachableError{Address: s.b.Address, Err: errRefused}
	}
	return f, nil
}

// leave is the way back.
func (s *Server) leave(f Fault) error {
	if f == Cut {
		return &backend.UnreachableError{Address: s.b.Address, Err: io.ErrUnexpectedEOF}
	}
	return nil
}

type conn struct {
	net *Net
	b   backend.Backend
}

func (c *conn) call(ctx context.Context, f func(*Server, Fault) error) error {
	s := c.net.At(c.b)
	if s == nil {
		return &backend.UnreachableError{Address: c.b.Address, Err: errRefused}
	}
	fault, err := s.enter(ctx)
	if err != nil {
		return err
	}
	if s.b.Password != c.b.Password {
		return backend.ErrAccess
	}
	s.mu.Lock()
	err = f(s, fault)
	s.mu.Unlock()
	if cut := s.leave(fault); cut != nil {
		return cut
	}
	return err
}

func (c *conn) Get(ctx context.Context, key []byte) (value []byte, err error) {
	err = c.call(ctx, func(s *Server, f Fault) error {
		s.gets.Add(1)
		e, ok := s.entries[string(key)]
		if !ok {
			return backend.ErrNotFound
		}
		value = slices.Clone(e.value)
		switch {
		case f == Lie && len(value) > 0:
			value[len(value)-1] ^= 1
		case f == Short && len(value) > 0:
			value = value[:len(value)-1]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

func (c *conn) Set(ctx context.Context, key, value []byte) (out []byte, err error) {
	err = c.call(ctx, func(s *Server, f Fault) error {
		s.sets.Add(1)
		switch {
		case len(value) > 8<<20:
			return errors.New("payload too large")
		case f == Full:
			return backend.ErrFull
		case f == ReadOnly:
			return backend.ErrLocked
		case s.sequential && len(key) == 0:
			out = binary.LittleEndian.AppendUint64(nil, s.next)
			if s.next++; s.next == s.wrap {
				s.next = 0
			}
		case s.sequential:
			if _, ok := s.entries[string(key)]; !ok {
				return backend.ErrMode
			}
			out = slices.Clone(key)
		case len(key) == 0:
			return backend.ErrMode
		default:
			out = slices.Clone(key)
		}
		if f != Forgetful {
			s.put(string(out), value)
		}
		return nil
	})
	c.net.mu.Lock()
	onSet := c.net.onSet
	c.net.mu.Unlock()
	if onSet != nil {
		onSet(c.b)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (c *conn) Delete(ctx context.Context, key []byte) error {
	return c.call(ctx, func(s *Server, f Fault) error {
		if f == ReadOnly {
			return backend.ErrLocked
		}
		if !s.drop(string(key)) {
			return backend.ErrNotFound
		}
		return nil
	})
}

func (c *conn) Stat(ctx context.Context, key []byte) (st backend.EntryStat, err error) {
	err = c.call(ctx, func(s *Server, _ Fault) error {
		e, ok := s.entries[string(key)]
		if !ok {
			return backend.ErrNotFound
		}
		st = backend.EntryStat{Length: uint32(len(e.value)), CRC: e.crc}
		return nil
	})
	return st, err
}

func (c *conn) Check(ctx context.Context, key []byte) (good bool, err error) {
	err = c.call(ctx, func(s *Server, f Fault) error {
		e, ok := s.entries[string(key)]
		if !ok {
			return backend.ErrNotFound
		}
		good = crcOf(e.value) == e.crc
		return nil
	})
	return good, err
}

// scanPage is small, so that every test of a listing turns pages.
const scanPage = 3

func (c *conn) Scan(ctx context.Context, cursor []byte) (page []backend.Entry, next []byte, err error) {
	err = c.call(ctx, func(s *Server, _ Fault) error {
		from := 0
		if cursor != nil {
			from = int(binary.LittleEndian.Uint64(cursor))
		}
		if from >= len(s.order) {
			return io.EOF
		}
		for _, k := range s.order[from:min(from+scanPage, len(s.order))] {
			e := s.entries[k]
			page = append(page, backend.Entry{Key: []byte(k), Length: uint32(len(e.value)), Timestamp: e.time})
		}
		next = binary.LittleEndian.AppendUint64(nil, uint64(from+len(page)))
		return nil
	})
	return page, next, err
}

func (c *conn) Info(ctx context.Context) (info backend.NamespaceInfo, err error) {
	err = c.call(ctx, func(s *Server, f Fault) error {
		info = backend.NamespaceInfo{Name: s.b.Namespace, Entries: int64(len(s.entries)), Sequential: s.sequential,
			Password: s.b.Password != "", Locked: f == ReadOnly, NextID: s.next}
		for _, e := range s.entries {
			info.Used += int64(len(e.value))
		}
		return nil
	})
	return info, err
}

func (c *conn) Close() error { return nil }
