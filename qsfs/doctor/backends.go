package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/qsfs/ongrid"
)

// interfaces lists the IPv6 addresses of this machine, from /proc/net/if_inet6.
func (s *system) interfaces() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for line := range strings.SplitSeq(s.fact("proc/net/if_inet6"), "\n") {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		if raw, err := hex.DecodeString(f[0]); err == nil && len(raw) == 16 {
			out[netip.AddrFrom16([16]byte(raw))] = f[5]
		}
	}
	return out
}

// wants counts the backends in networks.
func (x *examination) wants(in func(netip.Addr) bool) (n int) {
	for _, b := range x.Backends {
		if in(b.Address.Addr()) {
			n++
		}
	}
	return n
}

func networkIPv6(_ context.Context, x *examination) []Result {
	n := x.wants(func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() })
	if n == 0 {
		return skip("no backend has an IPv6 address")
	}
	if v, ok := x.sys.number("proc/sys/net/ipv6/conf/all/disable_ipv6"); ok && v == 1 {
		return bad(Problem, "", "disabled", fmt.Sprintf("%d backends have IPv6 addresses", n), "`sysctl -w net.ipv6.conf.all.disable_ipv6=0`; in a container enable IPv6 for its network")
	}
	found := x.sys.interfaces()
	if len(found) == 0 {
		return bad(Problem, "", "no address", fmt.Sprintf("%d backends have IPv6 addresses, and this machine has none", n), "give the machine an IPv6 address; in a container enable IPv6 for its network")
	}
	return ok("", fmt.Sprintf("%d addresses", len(found)))
}

func networkMycelium(_ context.Context, x *examination) []Result {
	for _, network := range []struct {
		name       string
		connection grid.Connection
	}{{"mycelium", grid.Mycelium}, {"yggdrasil", grid.Ygg}} {
		prefix, _ := network.connection.Prefix()
		n := x.wants(prefix.Contains)
		if n == 0 && !x.rents(network.connection) {
			continue
		}
		who := fmt.Sprintf("%d backends are", n)
		if n == 0 {
			who = "the backends to rent will be"
		}
		for a, name := range x.sys.interfaces() {
			if prefix.Contains(a) {
				if !x.routed(prefix) {
					return bad(Problem, name, a.String(), fmt.Sprintf("there is no route to %s, where %s", prefix, who), "restart "+network.name+": `systemctl restart "+network.name+"`")
				}
				return ok(name, a.String())
			}
		}
		return bad(Problem, "", "no address in "+prefix.String(), fmt.Sprintf("%s in the %s network, and this machine is not", who, network.name), "install and start "+network.name+", then look again")
	}
	return skip("no backend has an address of mycelium or yggdrasil")
}

// rents says whether backends are still to be rented that are reached by a connection.
func (x *examination) rents(c grid.Connection) bool {
	return x.Config != nil && len(x.Backends) == 0 && ongrid.Uses(x.Config) && x.Config.ZdbConnectionType == string(c)
}

// routed says whether the kernel has a route for a prefix, or a part of it.
func (x *examination) routed(p netip.Prefix) bool {
	for line := range strings.SplitSeq(x.sys.fact("proc/net/ipv6_route"), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		raw, err := hex.DecodeString(f[0])
		if err != nil || len(raw) != 16 || f[1] == "80" || f[1] == "00" { // one address; the default route
			continue
		}
		if p.Contains(netip.AddrFrom16([16]byte(raw))) {
			return true
		}
	}
	return false
}

// visit is what a backend answered.
type visit struct {
	info    backend.NamespaceInfo
	latency time.Duration
	err     error
}

// visits is shared by the checks of one run: the first that needs the answers
// gets them for all.
type visits struct {
	begun atomic.Bool
	done  chan struct{} // closed when list is complete
	list  []visit
}

// Each backend is asked once, with a limit for each. Those that do not answer
// must not add up their limits, so all are asked at the same time.
const (
	askAtOnce = 256
	askLimit  = 4 * time.Second
	slow      = 500 * time.Millisecond
)

func (x *examination) ask(ctx context.Context) []visit {
	if !x.visits.begun.CompareAndSwap(false, true) {
		select {
		case <-x.visits.done:
			return x.visits.list
		case <-ctx.Done():
			return nil
		}
	}
	defer close(x.visits.done)
	dialer := x.Dialer
	if dialer == nil {
		dialer = zdb.NewDialer(zdb.Options{PoolSize: 1, Timeout: askLimit})
	}
	x.visits.list = make([]visit, len(x.Backends))
	var g errgroup.Group
	g.SetLimit(askAtOnce)
	for i, b := range x.Backends {
		g.Go(func() error {
			x.visits.list[i] = visitOf(ctx, dialer, b)
			return nil // the answer tells
		})
	}
	_ = g.Wait()
	return x.visits.list
}

func visitOf(ctx context.Context, dialer backend.Dialer, b backend.Backend) (v visit) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	began := time.Now()
	conn, err := dialer.Dial(ctx, b)
	if err != nil {
		return visit{err: err}
	}
	defer conn.Close() //nolint:errcheck // only asked
	v.info, v.err = conn.Info(ctx)
	v.latency = time.Since(began)
	return v
}

// each asks something of each backend's answer; nil results are left out, and
// good ones told together.
func (x *examination) each(ctx context.Context, judge func(b backend.Backend, v visit) []Result, good string) []Result {
	if len(x.Backends) == 0 {
		return skip("no backends are known yet")
	}
	var out []Result
	n := 0
	for i, v := range x.ask(ctx) {
		found := judge(x.Backends[i], v)
		if found == nil {
			n++
		}
		out = append(out, found...)
	}
	if n > 0 {
		out = append(out, Result{Severity: OK, Subject: fmt.Sprintf("%d of %d", n, len(x.Backends)), Measured: good})
	}
	return out
}

func silent(v visit) bool {
	var u *backend.UnreachableError
	return errors.As(v.err, &u) || errors.Is(v.err, context.DeadlineExceeded)
}

func name(b backend.Backend) string { return fmt.Sprintf("%s %s", b.ID, b.Address) }

func backendAnswers(ctx context.Context, x *examination) []Result {
	var slowest time.Duration
	for _, v := range x.ask(ctx) {
		slowest = max(slowest, v.latency)
	}
	return append(x.each(ctx, func(b backend.Backend, v visit) []Result {
		switch {
		case silent(v):
			return bad(Problem, name(b), "", "it does not answer: "+reason(cause(v.err)), fmt.Sprintf("see that the zdb at %s runs and can be reached from here; lost for good: `quantumd replace %s`", b.Address, b.ID))
		case v.latency > slow:
			return bad(Warning, name(b), v.latency.Round(time.Millisecond).String(), "it answers slowly: so does everything that is stored there", "look at the machine and the network between")
		}
		return nil
	}, fmt.Sprintf("answer within %s", slowest.Round(100*time.Microsecond))), x.elsewhere()...)
}

// elsewhere tells what the running system says of backends that the
// configuration does not list.
func (x *examination) elsewhere() []Result {
	var out []Result
	for _, b := range x.others {
		subject := b.ID + " " + b.Address
		switch backend.State(b.State) {
		case backend.Down:
			out = append(out, bad(Problem, subject, b.State, "it does not answer the running system"+prefixed(b.Error), fmt.Sprintf("see that the zdb at %s runs and can be reached from here; lost for good: `quantumd replace %s`", b.Address, b.ID))...)
		case backend.Full:
			out = append(out, bad(Problem, subject, b.State, "it is full: nothing new is stored there", fmt.Sprintf("give it more space, or `quantumd replace %s`", b.ID))...)
		default:
			out = append(out, ok(subject, "not in the configuration; "+b.State+", the running system says")...)
		}
	}
	return out
}

func prefixed(text string) string {
	if text == "" {
		return ""
	}
	return ": " + strings.ReplaceAll(text, "\n", " ")
}

// cause strips what the subject says already.
func cause(err error) error {
	var u *backend.UnreachableError
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func backendPassword(ctx context.Context, x *examination) []Result {
	return x.each(ctx, func(b backend.Backend, v visit) []Result {
		switch {
		case silent(v):
			return bad(Skipped, name(b), "", "it does not answer", "")
		case errors.Is(v.err, backend.ErrAccess):
			return bad(Problem, name(b), "", "it does not accept the password", "correct the password of this backend in the configuration")
		case v.err == nil && v.info.Password && b.Password == "":
			return bad(Problem, name(b), "", "the namespace has a password, and none is listed", "give the password of this backend in the configuration")
		case v.err == nil && !v.info.Password && !b.Address.Addr().IsLoopback():
			return bad(Warning, name(b), "no password", "anybody who reaches it can write to it, and fill it", "as admin of that zdb: NSSET "+either(b.Namespace, "default")+" password …; and list it in the configuration")
		case v.err == nil && v.info.Public && v.info.Password:
			return bad(Note, name(b), "public", "anybody who reaches it can read it: keys that look random, and ciphertext", "")
		}
		return nil
	}, "as listed")
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func backendMode(ctx context.Context, x *examination) []Result {
	return x.each(ctx, func(b backend.Backend, v visit) []Result {
		want := map[backend.Role]string{backend.Meta: "user", backend.Data: "sequential"}[b.Role]
		switch {
		case silent(v):
			return bad(Skipped, name(b), "", "it does not answer", "")
		case errors.Is(v.err, zdb.ErrNoNamespace):
			return bad(Problem, name(b), "", fmt.Sprintf("it has no namespace %q", b.Namespace), "`quantumd deploy` makes it where it has the right to; else make it as admin of that zdb")
		case v.err != nil:
			return bad(Skipped, name(b), "", reason(v.err), "")
		case v.info.Sequential != (b.Role == backend.Data):
			return bad(Problem, name(b), map[bool]string{true: "sequential", false: "user"}[v.info.Sequential]+" mode", fmt.Sprintf("a %s backend is in %s mode", b.Role, want), "correct the role in the configuration, or name another namespace")
		case v.info.Locked:
			return bad(Problem, name(b), "locked", "nothing can be written to it", "as admin of that zdb: NSSET "+either(b.Namespace, "default")+" lock 0")
		case v.info.Worm:
			return bad(Warning, name(b), "worm", "nothing can be deleted on it: space is never given back", "as admin of that zdb: NSSET "+either(b.Namespace, "default")+" worm 0")
		}
		return nil
	}, "in the mode of their role")
}

// lowest and low are what a backend should have free: one shard of a large data
// file, and a day's work.
const (
	lowest = 64 * mib
	low    = gib
)

func backendSpace(ctx context.Context, x *examination) []Result {
	return x.each(ctx, func(b backend.Backend, v visit) []Result {
		if v.err != nil {
			return bad(Skipped, name(b), "", "it does not tell", "")
		}
		free, known := v.info.Free, v.info.Free > 0
		if left := v.info.Limit - v.info.Used; v.info.Limit > 0 && (!known || left < free) {
			free, known = left, true
		}
		good := int64(low)
		if v.info.Limit > 0 {
			good = min(good, v.info.Limit/10)
		}
		if b.Role == backend.Meta {
			good /= 4
		}
		measured := bytes(max(free, 0)) + " free"
		switch {
		case !known:
			return nil
		case free < lowest:
			return bad(Problem, name(b), measured, "it is full: nothing new is stored there", fmt.Sprintf("give it more space (NSSET … maxsize), or `quantumd replace %s`", b.ID))
		case free < good:
			return bad(Warning, name(b), measured, "it is nearly full", fmt.Sprintf("give it more space (NSSET … maxsize), or `quantumd replace %s` in time", b.ID))
		}
		return nil
	}, "have space")
}

// backendHosts finds backends whose loss would come together.
func backendHosts(_ context.Context, x *examination) []Result {
	if len(x.Backends) == 0 {
		return skip("no backends are known yet")
	}
	c := x.settings()
	type host struct {
		addr netip.Addr
		role backend.Role
	}
	count := map[host]int{}
	var order []host
	loopback := 0
	for _, b := range x.Backends {
		if b.Spare {
			continue
		}
		h := host{b.Address.Addr(), b.Role}
		if h.addr.IsLoopback() {
			loopback++
		}
		if count[h]++; count[h] == 1 {
			order = append(order, h)
		}
	}
	if loopback > 0 {
		return bad(Note, fmt.Sprintf("%d backends", loopback), "this machine", "they are lost with this machine, and everything with them: good for trying, not for keeping", "")
	}
	var out []Result
	for _, h := range order {
		may := c.ExpectedShards - c.MinShards
		if h.role == backend.Meta {
			may = backend.MetaBackends / 2
		}
		if n := count[h]; n > may {
			out = append(out, bad(Warning, h.addr.String(), fmt.Sprintf("%d %s backends", n, h.role), fmt.Sprintf("they are lost together, and %d may be lost", may), "spread the backends over more machines")...)
		} else if n > 1 {
			out = append(out, bad(Note, h.addr.String(), fmt.Sprintf("%d %s backends", n, h.role), "they are lost together", "")...)
		}
	}
	if out != nil {
		return out
	}
	return ok("", "each on a machine of its own")
}

// backendNumber says whether those that are there suffice.
func backendNumber(ctx context.Context, x *examination) []Result {
	if len(x.Backends) == 0 || x.Config == nil {
		return skip("no backends are known yet")
	}
	up := map[backend.Role]int{}
	for _, b := range x.others {
		if backend.State(b.State) == backend.Up && !b.Spare {
			up[backend.Role(b.Role)]++
		}
	}
	for i, v := range x.ask(ctx) {
		if b := x.Backends[i]; v.err == nil && !b.Spare && v.info.Sequential == (b.Role == backend.Data) {
			up[b.Role]++
		}
	}
	least, want := x.Config.MinShards, x.Config.ExpectedShards
	measured := fmt.Sprintf("%d data, %d metadata backends work", up[backend.Data], up[backend.Meta])
	switch {
	case up[backend.Data] < least:
		return bad(Problem, "data", measured, fmt.Sprintf("%d are needed to read, %d to store", least, want), "bring back those that do not answer (backend-answers)")
	case up[backend.Meta] < backend.MetaBackends/2:
		return bad(Problem, "metadata", measured, "two are needed to read, three to store", "bring back those that do not answer (backend-answers)")
	case up[backend.Meta] < backend.MetaBackends-1:
		return bad(Problem, "metadata", measured, "three are needed to store", "bring back those that do not answer (backend-answers), or `quantumd replace --failed`")
	case up[backend.Data] < want:
		return bad(Problem, "data", measured, fmt.Sprintf("%d are needed to store: nothing new becomes safe", want), "bring back those that do not answer (backend-answers), or `quantumd replace --failed`")
	case up[backend.Meta] < backend.MetaBackends:
		return bad(Warning, "metadata", measured, "with one missing files are stored degraded, and not dropped from this machine", "bring back the one that does not answer (backend-answers), or `quantumd replace --failed`")
	}
	return ok("", measured)
}
