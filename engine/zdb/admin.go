package zdb

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/internal/resp"
)

// Admin talks to a server about its namespaces. It is safe for concurrent use.
type Admin struct {
	pool *pool
	mu   sync.Mutex // SELECT and what follows it
}

// DialAdmin gives an Admin of the server at address: a host and port, or the
// path of a unix socket. An empty password is for servers that have none. It
// does not connect yet.
func DialAdmin(address string, password backend.Secret, o Options) *Admin {
	e := parseEndpoint(address)
	o = o.withDefaults()
	o.PoolSize = 1
	return &Admin{pool: newPool(e, o, func(ctx context.Context, l *link) error {
		return authenticate(ctx, e, l, password)
	})}
}

func authenticate(ctx context.Context, at endpoint, l *link, password backend.Secret) error {
	if password == "" {
		return nil
	}
	hash, ok, err := prove(ctx, l, password.Reveal())
	if err != nil {
		return err
	}
	args := [][]byte{[]byte("AUTH"), []byte(password.Reveal())}
	if ok {
		args = [][]byte{[]byte("AUTH"), []byte("SECURE"), []byte(hash)}
	}
	return expectOK(ctx, at, l, args)
}

// Close ends the connection. It is idempotent.
func (a *Admin) Close() error {
	a.pool.close()
	return nil
}

// Ping asks the server for a sign of life.
func (a *Admin) Ping(ctx context.Context) error {
	_, err := a.pool.do(ctx, "PING")
	return err
}

// CreateNamespace makes a namespace (NSNEW); ErrExists when it is there.
func (a *Admin) CreateNamespace(ctx context.Context, name string) error {
	_, err := a.pool.do(ctx, "NSNEW", []byte(name))
	return err
}

// DeleteNamespace removes a namespace and all that it holds (NSDEL);
// ErrNoNamespace when there is none.
func (a *Admin) DeleteNamespace(ctx context.Context, name string) error {
	_, err := a.pool.do(ctx, "NSDEL", []byte(name))
	return err
}

// Namespaces lists the names (NSLIST).
func (a *Admin) Namespaces(ctx context.Context) ([]string, error) {
	p, err := a.pool.do(ctx, "NSLIST")
	if err != nil {
		return nil, err
	}
	if p.Kind != resp.Array {
		return nil, a.pool.nonsense("NSLIST", p)
	}
	names := make([]string, 0, len(p.Items))
	for _, i := range p.Items {
		names = append(names, string(i.Text))
	}
	return names, nil
}

// Set changes a property (NSSET): mode, lock, freeze, maxsize, password,
// public, worm. The typed methods below cover the usual ones.
func (a *Admin) Set(ctx context.Context, name, property, value string) error {
	_, err := a.pool.do(ctx, "NSSET", []byte(name), []byte(property), []byte(value))
	return err
}

// SetMode makes an unused namespace sequential or user-keyed;
// backend.ErrMode when it has been used.
func (a *Admin) SetMode(ctx context.Context, name string, m segment.Mode) error {
	value := "user"
	if m == segment.Sequential {
		value = "seq"
	}
	return a.Set(ctx, name, "mode", value)
}

// SetPassword sets the password of a namespace; empty takes it away. The
// format has no way to send it but in clear.
func (a *Admin) SetPassword(ctx context.Context, name string, password backend.Secret) error {
	value := password.Reveal()
	if value == "" {
		value = "*"
	}
	return a.Set(ctx, name, "password", value)
}

// SetPublic says whether the namespace can be read without its password.
func (a *Admin) SetPublic(ctx context.Context, name string, public bool) error {
	return a.Set(ctx, name, "public", digit(public))
}

// SetLock forbids writes, or allows them again.
func (a *Admin) SetLock(ctx context.Context, name string, locked bool) error {
	return a.Set(ctx, name, "lock", digit(locked))
}

// SetMaxSize limits the payloads of a namespace to so many bytes; 0 is no limit.
func (a *Admin) SetMaxSize(ctx context.Context, name string, size int64) error {
	return a.Set(ctx, name, "maxsize", strconv.FormatInt(size, 10))
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// Jump has the server switch a namespace to its next file (NSJUMP). The
// password is that of the namespace.
func (a *Admin) Jump(ctx context.Context, name string, password backend.Secret) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, a.pool.o.Timeout)
	defer cancel()
	l, err := a.pool.link(ctx)
	if err != nil {
		return err
	}
	err = selectNamespace(ctx, a.pool.at, l, name, password)
	if err == nil {
		err = expectOK(ctx, a.pool.at, l, [][]byte{[]byte("NSJUMP")})
		// A namespace that is in use cannot be deleted.
		if back := selectNamespace(ctx, a.pool.at, l, "default", ""); back != nil {
			l.kill(back)
		}
	}
	var s *ServerError
	if err != nil && !errors.As(err, &s) {
		return a.pool.unreachable(ctx, err)
	}
	return err
}

// Info describes a namespace (NSINFO).
func (a *Admin) Info(ctx context.Context, name string) (backend.NamespaceInfo, error) {
	return namespaceInfo(ctx, a.pool, name)
}

func namespaceInfo(ctx context.Context, p *pool, name string) (backend.NamespaceInfo, error) {
	r, err := p.do(ctx, "NSINFO", []byte(name))
	if err != nil {
		return backend.NamespaceInfo{}, err
	}
	if r.Kind != resp.Bulk || r.Nil {
		return backend.NamespaceInfo{}, p.nonsense("NSINFO", r)
	}
	i, err := parseInfo(string(r.Text))
	if err != nil {
		return i, &backend.UnreachableError{Address: p.at.addr, Err: err}
	}
	return i, nil
}

// parseInfo reads the text of NSINFO. Unknown lines are skipped, and of the
// known ones only those that tell what the namespace is must be there.
func parseInfo(text string) (backend.NamespaceInfo, error) {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": "); ok {
			m[k] = v
		}
	}
	i := backend.NamespaceInfo{
		Name: m["name"], Public: m["public"] == "yes", Password: m["password"] == "yes",
		Sequential: m["mode"] == "sequential", Locked: m["locked"] == "yes", Worm: m["worm"] == "yes",
	}
	if i.Name == "" || (m["mode"] != "sequential" && m["mode"] != "userkey") {
		return i, fmt.Errorf("%w: NSINFO without name or mode", resp.ErrReply)
	}
	for key, field := range map[string]*int64{
		"entries": &i.Entries, "data_size_bytes": &i.Used, "data_limits_bytes": &i.Limit,
		"index_size_bytes": &i.IndexUsed, "data_disk_freespace_bytes": &i.Free,
	} {
		v, there := m[key]
		if !there && key == "data_disk_freespace_bytes" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return i, fmt.Errorf("%w: NSINFO has %s %q", resp.ErrReply, key, v)
		}
		*field = n
	}
	id, err := strconv.ParseUint(strings.TrimPrefix(m["next_internal_id"], "0x"), 16, 64)
	if err != nil {
		return i, fmt.Errorf("%w: NSINFO has next_internal_id %q", resp.ErrReply, m["next_internal_id"])
	}
	i.NextID = bits.ReverseBytes64(id) // the server prints the bytes in file order
	return i, nil
}
