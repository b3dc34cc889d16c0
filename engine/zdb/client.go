package zdb

import (
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/internal/resp"
)

// Options configure a [Client] or an [Admin]. The zero value works.
type Options struct {
	PoolSize    int           // connections at most, default 4
	Timeout     time.Duration // of a call whose context has no nearer deadline, default 30 s
	DialTimeout time.Duration // to connect and select the namespace, default 5 s
	Logger      *slog.Logger  // nil: discard
}

func (o Options) withDefaults() Options {
	if o.PoolSize <= 0 {
		o.PoolSize = 4
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("component", "zdb-client")
	return o
}

// ErrClosed answers calls after Close.
var ErrClosed = errors.New("zdb: client is closed")

// Client talks to one namespace. It implements [backend.Conn], whose comments
// say what its methods promise.
type Client struct {
	pool      *pool
	namespace string
}

var _ backend.Conn = (*Client)(nil)

// Dial gives a client of b. It does not connect yet: an unreachable server
// shows at the first call.
func Dial(_ context.Context, b backend.Backend, o Options) (*Client, error) {
	if !b.Address.IsValid() {
		return nil, fmt.Errorf("zdb: backend %s has no address", b.ID)
	}
	return newClient(endpoint{network: "tcp", address: b.Address.String(), addr: b.Address}, b.Namespace, b.Password, o), nil
}

// DialAddress gives a client of a namespace by the address of its server: a
// host and port, or the path of a unix socket, plain or as `unix:///path`.
func DialAddress(address, namespace string, password backend.Secret, o Options) *Client {
	return newClient(parseEndpoint(address), namespace, password, o)
}

func newClient(e endpoint, namespace string, password backend.Secret, o Options) *Client {
	if namespace == "" {
		namespace = "default"
	}
	c := &Client{namespace: namespace}
	c.pool = newPool(e, o.withDefaults(), func(ctx context.Context, l *link) error {
		return selectNamespace(ctx, e, l, namespace, password)
	})
	return c
}

// NewDialer dials with o.
func NewDialer(o Options) backend.Dialer {
	return backend.DialerFunc(func(ctx context.Context, b backend.Backend) (backend.Conn, error) {
		return Dial(ctx, b, o)
	})
}

// Close ends all connections and waits for their goroutines. Calls that wait
// for an answer fail. It is idempotent.
func (c *Client) Close() error {
	c.pool.close()
	return nil
}

// Ping asks the server for a sign of life, with access to the namespace.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.pool.do(ctx, "PING")
	return err
}

// Get returns the payload of key, or backend.ErrNotFound.
func (c *Client) Get(ctx context.Context, key []byte) ([]byte, error) {
	p, err := c.pool.do(ctx, "GET", key)
	if err != nil {
		return nil, err
	}
	if p.Kind != resp.Bulk {
		return nil, c.pool.nonsense("GET", p)
	}
	if p.Nil {
		return nil, backend.ErrNotFound
	}
	return p.Text, nil
}

// Set stores value; see [backend.Conn].
func (c *Client) Set(ctx context.Context, key, value []byte) ([]byte, error) {
	if len(value) > resp.MaxBulk {
		return nil, fmt.Errorf("zdb: value of %d bytes, at most %d are possible", len(value), resp.MaxBulk)
	}
	p, err := c.pool.do(ctx, "SET", key, value)
	if err != nil {
		return nil, keyError(err, key)
	}
	switch {
	case p.Kind != resp.Bulk || p.Nil && len(key) == 0 || !p.Nil && len(key) > 0 && string(p.Text) != string(key):
		return nil, c.pool.nonsense("SET", p)
	case p.Nil: // unchanged
		return append([]byte(nil), key...), nil
	}
	return p.Text, nil
}

// keyError tells a wrong mode from an unknown id: sequential namespaces refuse
// both with the same words.
func keyError(err error, key []byte) error {
	var s *ServerError
	if errors.As(err, &s) && s.Text == textUpdateOnly && len(key) == 8 {
		return &ServerError{Address: s.Address, Command: s.Command, Text: s.Text, is: backend.ErrNotFound}
	}
	return err
}

// Delete removes key; backend.ErrNotFound where there is none.
func (c *Client) Delete(ctx context.Context, key []byte) error {
	_, err := c.pool.do(ctx, "DEL", key)
	return err
}

// Stat gives length and checksum of a payload from the server's index.
func (c *Client) Stat(ctx context.Context, key []byte) (backend.EntryStat, error) {
	p, err := c.pool.do(ctx, "KEYCUR", key)
	if err != nil {
		return backend.EntryStat{}, err
	}
	if p.Kind != resp.Bulk || len(p.Text) != 17 {
		return backend.EntryStat{}, c.pool.nonsense("KEYCUR", p)
	}
	return backend.EntryStat{
		Length: binary.LittleEndian.Uint32(p.Text[5:]),
		CRC:    binary.LittleEndian.Uint32(p.Text[13:]),
	}, nil
}

// Check has the server read the payload and compare its checksum.
func (c *Client) Check(ctx context.Context, key []byte) (bool, error) {
	p, err := c.pool.do(ctx, "CHECK", key)
	switch {
	case err != nil:
		return false, err
	case p.Kind == resp.Bulk && p.Nil:
		return false, backend.ErrNotFound
	case p.Kind != resp.Int || p.Int < -1 || p.Int > 1:
		return false, c.pool.nonsense("CHECK", p)
	case p.Int < 0:
		return false, &ServerError{Address: c.pool.at.String(), Command: "CHECK", Text: "payload is unreadable"}
	}
	return p.Int == 1, nil
}

// Scan lists entries behind cursor; io.EOF ends the listing.
func (c *Client) Scan(ctx context.Context, cursor []byte) ([]backend.Entry, []byte, error) {
	args := [][]byte{}
	if cursor != nil {
		args = append(args, cursor)
	}
	p, err := c.pool.do(ctx, "SCAN", args...)
	var s *ServerError
	if errors.As(err, &s) && s.Text == textNoMoreData {
		return nil, nil, io.EOF
	}
	if err != nil {
		return nil, nil, err
	}
	list, next, ok := parseScan(p)
	if !ok {
		return nil, nil, c.pool.nonsense("SCAN", p)
	}
	return list, next, nil
}

func parseScan(p resp.Reply) ([]backend.Entry, []byte, bool) {
	if p.Kind != resp.Array || len(p.Items) != 2 || p.Items[0].Kind != resp.Bulk || p.Items[1].Kind != resp.Array {
		return nil, nil, false
	}
	list := make([]backend.Entry, 0, len(p.Items[1].Items))
	for _, i := range p.Items[1].Items {
		if len(i.Items) != 3 || i.Items[0].Kind != resp.Bulk || i.Items[1].Kind != resp.Int || i.Items[2].Kind != resp.Int {
			return nil, nil, false
		}
		list = append(list, backend.Entry{
			Key: i.Items[0].Text, Length: uint32(i.Items[1].Int), Timestamp: uint32(i.Items[2].Int),
		})
	}
	return list, p.Items[0].Text, true
}

// Info describes the namespace.
func (c *Client) Info(ctx context.Context) (backend.NamespaceInfo, error) {
	return namespaceInfo(ctx, c.pool, c.namespace)
}

// endpoint is where a server listens.
type endpoint struct {
	network, address string
	addr             netip.AddrPort // of a server known by its IP address
}

func (e endpoint) String() string { return e.address }

func parseEndpoint(address string) endpoint {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return endpoint{network: "unix", address: path}
	}
	if strings.HasPrefix(address, "/") {
		return endpoint{network: "unix", address: address}
	}
	address = strings.TrimPrefix(address, "tcp://")
	addr, _ := netip.ParseAddrPort(address) // a host name has none
	return endpoint{network: "tcp", address: address, addr: addr}
}

// pool keeps connections that are set up alike.
type pool struct {
	at    endpoint
	o     Options
	setup func(context.Context, *link) error
	dials chan struct{} // holds one per connection that is being made

	mu     sync.Mutex
	links  []*link
	closed bool
}

func newPool(at endpoint, o Options, setup func(context.Context, *link) error) *pool {
	return &pool{at: at, o: o, setup: setup, dials: make(chan struct{}, o.PoolSize)}
}

// do sends a command and gives its answer; an error reply is a *ServerError.
func (p *pool) do(ctx context.Context, command string, args ...[]byte) (resp.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	all := append(make([][]byte, 0, 4), []byte(command))
	all = append(all, args...)
	for attempt := 0; ; attempt++ {
		l, err := p.link(ctx)
		if err != nil {
			return resp.Reply{}, err
		}
		r, err := l.do(ctx, all...)
		if errors.Is(err, errIdle) && attempt < 3 {
			continue // nothing was sent
		}
		if err != nil {
			return r, p.unreachable(ctx, err)
		}
		if r.Kind == resp.Error {
			return r, serverError(p.at, command, string(r.Text))
		}
		return r, nil
	}
}

// link gives the least busy connection, or a new one while all are busy and
// there may be more.
func (p *pool) link(ctx context.Context) (*link, error) {
	if l, err := p.existing(); l != nil || err != nil {
		return l, err
	}
	select {
	case p.dials <- struct{}{}:
		defer func() { <-p.dials }()
	case <-ctx.Done():
		return nil, p.unreachable(ctx, ctx.Err())
	}
	if l, err := p.existing(); l != nil || err != nil {
		return l, err // somebody connected meanwhile
	}
	l, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.links = append(p.links, l)
	}
	p.mu.Unlock()
	if closed {
		l.close()
		return nil, ErrClosed
	}
	return l, nil
}

// existing gives a connection when one is idle or no further one may be made.
func (p *pool) existing() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	best, least := p.leastBusyLocked()
	if best != nil && (least == 0 || len(p.links)+len(p.dials) >= p.o.PoolSize) {
		return best, nil
	}
	return nil, nil
}

// leastBusyLocked also forgets dead connections.
func (p *pool) leastBusyLocked() (*link, int) {
	var best *link
	least, keep := 0, p.links[:0]
	for _, l := range p.links {
		n := l.load()
		if n < 0 {
			continue
		}
		keep = append(keep, l)
		if best == nil || n < least {
			best, least = l, n
		}
	}
	clear(p.links[len(keep):])
	p.links = keep
	return best, least
}

func (p *pool) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.DialTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, p.at.network, p.at.address)
	if err != nil {
		return nil, p.unreachable(ctx, err)
	}
	l := newLink(nc, p.o.Timeout)
	if err := p.setup(ctx, l); err != nil {
		l.close()
		var s *ServerError
		if errors.As(err, &s) {
			return nil, err
		}
		return nil, p.unreachable(ctx, err)
	}
	return l, nil
}

// unreachable says that no answer came. That the caller gave up says nothing
// about the server.
func (p *pool) unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	p.o.Logger.Debug("no answer", "address", p.at, "err", err)
	if !p.at.addr.IsValid() {
		err = fmt.Errorf("%s: %w", p.at.address, err)
	}
	return &backend.UnreachableError{Address: p.at.addr, Err: err}
}

func (p *pool) nonsense(command string, r resp.Reply) error {
	return &backend.UnreachableError{
		Address: p.at.addr, Err: fmt.Errorf("%w: %s was answered by %q of %d bytes", resp.ErrReply, command, byte(r.Kind), len(r.Text)),
	}
}

func (p *pool) close() {
	p.mu.Lock()
	links := p.links
	p.links, p.closed = nil, true
	p.mu.Unlock()
	for _, l := range links {
		l.close()
	}
}

// prove answers the server's challenge for a password; ok is false when the
// server has no challenge to give.
func prove(ctx context.Context, l *link, password string) (hash string, ok bool, err error) {
	p, err := l.do(ctx, []byte("AUTH"), []byte("SECURE"), []byte("CHALLENGE"))
	if err != nil || p.Kind != resp.Simple || len(p.Text) != 16 {
		return "", false, err
	}
	sum := sha1.Sum([]byte(string(p.Text) + ":" + password))
	return hex.EncodeToString(sum[:]), true, nil
}

func selectNamespace(ctx context.Context, at endpoint, l *link, name string, password backend.Secret) error {
	args := [][]byte{[]byte("SELECT"), []byte(name)}
	if password != "" {
		hash, ok, err := prove(ctx, l, password.Reveal())
		if err != nil {
			return err
		}
		if ok {
			args = append(args, []byte("SECURE"), []byte(hash))
		} else {
			args = append(args, []byte(password.Reveal()))
		}
	}
	return expectOK(ctx, at, l, args)
}

func expectOK(ctx context.Context, at endpoint, l *link, args [][]byte) error {
	p, err := l.do(ctx, args...)
	if err != nil {
		return err
	}
	switch {
	case p.Kind == resp.Error:
		return serverError(at, string(args[0]), string(p.Text))
	case p.Kind != resp.Simple:
		return fmt.Errorf("%w: %s was answered by %q", resp.ErrReply, args[0], byte(p.Kind))
	}
	return nil
}
