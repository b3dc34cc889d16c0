package grid

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Connection says over which network backends are reached.
type Connection string

// The connections: what a node's addresses are classed by.
const (
	Mycelium Connection = "mycelium" // 400::/7
	Ygg      Connection = "ygg"      // 200::/7
	IPv6     Connection = "ipv6"     // 2000::/3, public
	Any      Connection = "any"      // whatever the node reports: for private grids
)

var classes = map[Connection]netip.Prefix{
	Mycelium: netip.MustParsePrefix("400::/7"),
	Ygg:      netip.MustParsePrefix("200::/7"),
	IPv6:     netip.MustParsePrefix("2000::/3"),
}

// Prefix is where the addresses of a connection lie; false for [Any].
func (c Connection) Prefix() (netip.Prefix, bool) {
	p, ok := classes[c]
	return p, ok
}

// addresses picks those of a connection, in order: a node reports them in none.
func (c Connection) addresses(all []netip.Addr) []netip.Addr {
	out := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return c != Any && !classes[c].Contains(a) })
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// LocalError says that this machine has no way to backends over a connection.
type LocalError struct {
	Connection Connection
	Msg        string
}

func (e *LocalError) Error() string {
	return fmt.Sprintf("grid: this machine has no %s: %s", e.Connection, e.Msg)
}

// Hint names the remedy.
func (e *LocalError) Hint() string {
	switch e.Connection {
	case Mycelium:
		return "start mycelium on this machine (https://github.com/threefoldtech/mycelium), so that `ip -6 addr` shows an address in 400::/7; or choose ipv6 or ygg as zdb_connection_type"
	case Ygg:
		return "start yggdrasil on this machine, or choose another zdb_connection_type"
	}
	return "give this machine a public IPv6 address, or choose mycelium as zdb_connection_type"
}

// CheckLocal finds out, before money is spent, whether this machine can reach what
// a connection leads to: an interface that is up has an address of its class, and
// the kernel would send from one. No packet is sent.
func CheckLocal(c Connection) error {
	class, ok := classes[c]
	if !ok {
		return nil
	}
	own, err := localAddresses()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(own, class.Contains) {
		return &LocalError{Connection: c, Msg: "no interface that is up has an address in " + class.String()}
	}
	probe, err := net.Dial("udp6", net.JoinHostPort(class.Addr().Next().String(), "9")) // chooses a source, and sends nothing
	if err != nil {
		return &LocalError{Connection: c, Msg: "no route to " + class.String()}
	}
	defer probe.Close() //nolint:errcheck // nothing was sent
	if from, err := netip.ParseAddrPort(probe.LocalAddr().String()); err == nil && !class.Contains(from.Addr()) {
		return &LocalError{Connection: c, Msg: fmt.Sprintf("the route to %s leaves from %s", class, from.Addr())}
	}
	return nil
}

func localAddresses() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("grid: the interfaces of this machine: %w", err)
	}
	var out []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		list, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out = append(out, p.Addr())
			}
		}
	}
	return out, nil
}
