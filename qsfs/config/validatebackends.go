package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/backend"
)

const addressRemedy = "write an IP address and a port, such as 192.0.2.1:9900 or [2001:db8::1]:9900"

// checkAddress says what is wrong with the address of a backend; "": nothing.
func checkAddress(text string) (msg, remedy string) {
	addr, err := netip.ParseAddrPort(text)
	switch {
	case text == "":
		return "empty", addressRemedy
	case strings.Contains(text, "@"):
		return "not IP:PORT", addressRemedy + "; the password has a key of its own"
	case err != nil:
		msg = shown(text) + " is not IP:PORT"
		if ip, bare := netip.ParseAddr(text); bare == nil {
			return msg + ": the port is missing", "write " + netip.AddrPortFrom(ip, 9900).String() + " with the port of the zdb"
		}
		if host, port, split := net.SplitHostPort(text); split == nil {
			if _, bad := netip.ParseAddr(host); bad != nil && host != "" {
				return msg, addressRemedy + "; host names cannot be kept in the metadata"
			}
			return msg + ": " + shown(port) + " is not a port", "write a port from 1 to 65535"
		}
		return msg, addressRemedy
	case addr.Port() == 0:
		return shown(text) + " has the port 0", "write the port that the zdb listens on, from 1 to 65535"
	case addr.Addr().Zone() != "":
		return shown(text) + " has a zone, which cannot be kept in the metadata", "write an address that is not link-local"
	case addr.Addr().IsUnspecified() || addr.Addr().IsMulticast():
		return shown(text) + " is not the address of a machine", "write the address at which the zdb is reached"
	}
	return "", ""
}

func (c *Config) badAddress(i int) *Error {
	msg, remedy := checkAddress(c.Backends[i].Address)
	return c.errorAt(fmt.Sprintf("backends[%d].address", i), msg, remedy, nil)
}

// The limits of a zdb.
const (
	maxNamespace = 128
	maxPassword  = 63
)

var idRule = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{0,39}$`)

func (v *validator) backends() {
	c := v.c
	if len(c.Backends) == 0 {
		return
	}
	before := len(v.errs)
	count := map[backend.Role]int{}
	seen := map[string]int{}
	ids := c.ids()
	for i, b := range c.Backends {
		key := fmt.Sprintf("backends[%d]", i)
		if b.ID != "" && !idRule.MatchString(b.ID) {
			v.bad(key+".id", shown(b.ID)+" is not an id", "write letters, digits and - such as data5, or leave it out")
		} else if j := slices.Index(ids, ids[i]); j < i {
			v.bad(key+".id", fmt.Sprintf("the same id as backends[%d], %s", j, ids[i]), "give each backend an id of its own, or none at all")
		}
		switch b.Role {
		case backend.Meta, backend.Data:
		case "":
			v.bad(key+".role", "missing", "write meta or data")
		default:
			v.bad(key+".role", shown(string(b.Role))+" is not a role", "write meta or data")
		}
		if msg, remedy := checkAddress(b.Address); msg != "" {
			v.bad(key+".address", msg, remedy)
		} else {
			addr, _ := netip.ParseAddrPort(b.Address) // checked
			id := addr.String() + " " + b.Namespace
			if j, twice := seen[id]; twice {
				v.bad(key, fmt.Sprintf("the same address and namespace as backends[%d]", j), "give each backend a namespace of its own, better a machine of its own")
			}
			seen[id] = i
		}
		if len(b.Namespace) > maxNamespace || b.Namespace == "." || b.Namespace == ".." || strings.ContainsAny(b.Namespace, "/\x00\n\r") {
			v.bad(key+".namespace", shown(b.Namespace)+" is not a name that zdb takes", fmt.Sprintf("write a name of at most %d characters without /", maxNamespace))
		}
		if len(b.Password) > maxPassword {
			v.bad(key+".password", fmt.Sprintf("longer than the %d bytes that zdb takes", maxPassword), "set a shorter one on the zdb, and here")
		}
		if !b.Spare {
			count[b.Role]++
		}
	}
	if len(v.errs) > before || c.failed["backends"] {
		return // the counts follow from what is wrong
	}
	if n := count[backend.Meta]; n != backend.MetaBackends {
		v.bad("backends", fmt.Sprintf("%d metadata backends, want exactly %d", n, backend.MetaBackends), "list four with role: meta that are not spares")
	}
	if n := count[backend.Data]; n < c.ExpectedShards {
		v.bad("backends", fmt.Sprintf("%d data backends, but expected_shards is %d", n, c.ExpectedShards), "list more with role: data, or lower expected_shards")
	}
	if len(v.errs) == before {
		v.placement()
	}
}

// placement sees that shards can be spread as the redundancy asks for.
func (v *validator) placement() {
	c := v.c
	if c.RedundantGroups <= 0 && c.RedundantNodes <= 0 || c.MinShards < 1 || c.ExpectedShards <= c.MinShards {
		return
	}
	list, err := c.BackendList()
	if err != nil {
		return // told already
	}
	list = slices.DeleteFunc(list, func(b backend.Backend) bool { return b.Role != backend.Data })
	r := backend.Redundancy{Needed: c.MinShards, Total: c.ExpectedShards, Groups: c.RedundantGroups, Nodes: c.RedundantNodes}
	if backend.Feasible(list, r) != nil {
		key, other := "redundant_groups", "redundant_nodes"
		if c.RedundantGroups <= 0 {
			key, other = other, key
		}
		v.bad(key, fmt.Sprintf("%d shards, of which %d are needed, cannot be spread so that %d groups and %d backends of each other group may be lost",
			c.ExpectedShards, c.MinShards, c.RedundantGroups, c.RedundantNodes), "lower redundant_groups or redundant_nodes, or list more groups or backends", other, "backends")
	}
}
