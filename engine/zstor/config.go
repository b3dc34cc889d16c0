package zstor

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor/erasure"
	"github.com/threefoldtech/quantumd/engine/zstor/seal"
)

// Config says how objects are cut and where they go.
type Config struct {
	MinimalShards  int // k: any k shards restore an object
	ExpectedShards int // n: shards of an object
	// RedundantGroups groups may be lost, and of every other group
	// RedundantNodes backends, without loss of data.
	RedundantGroups, RedundantNodes int

	Data []backend.Backend // Group puts them together; nothing is placed on a Spare
	Meta []backend.Backend // exactly four; their order is part of the format

	Prefix string   // of the keys on metadata backends
	Root   string   // cut off paths before they are hashed; empty: nothing is
	Key    seal.Key // seals metadata records; each object has a data key of its own

	// Aliases says where backends are that moved: address in a record to address
	// now. Namespace and password stay.
	Aliases map[netip.AddrPort]netip.AddrPort
}

// ConfigError says what is wrong with a Config and how to mend it.
type ConfigError struct {
	Field  string // of Config
	Err    string
	Remedy string
}

func (e *ConfigError) Error() string { return fmt.Sprintf("zstor: config: %s: %s", e.Field, e.Err) }

// Hint names the remedy.
func (e *ConfigError) Hint() string { return e.Remedy }

// Validate finds what would make storing impossible or unsafe. It gives a
// [*ConfigError].
func (c *Config) Validate() error {
	k, n := c.MinimalShards, c.ExpectedShards
	bad := func(field, remedy, format string, args ...any) error {
		return &ConfigError{Field: field, Err: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	switch {
	case k < 1:
		return bad("MinimalShards", "set it to at least 1", "%d data shards", k)
	case n <= k:
		return bad("ExpectedShards", "set it above MinimalShards: the difference is the number of shards that may be lost",
			"%d shards of which %d are needed leave none to lose", n, k)
	case n > erasure.MaxShards:
		return bad("ExpectedShards", fmt.Sprintf("set it to at most %d", erasure.MaxShards), "%d shards", n)
	case c.RedundantGroups < 0 || c.RedundantNodes < 0:
		return bad("RedundantGroups", "set both redundancies to 0 or more", "negative redundancy")
	case len(c.Meta) != backend.MetaBackends:
		return bad("Meta", "name four metadata backends", "%d metadata backends, the format has %d", len(c.Meta), backend.MetaBackends)
	case c.Key.IsZero():
		return bad("Key", "set an encryption key of 64 hexadecimal digits", "no encryption key")
	case c.Prefix == "" || strings.Contains(c.Prefix, "\x00"):
		return bad("Prefix", "name a prefix for metadata keys", "prefix %q", c.Prefix)
	case len("/"+c.Prefix+metaInfix)+32 > 255:
		return bad("Prefix", "use a shorter prefix: a key has at most 255 bytes", "prefix of %d bytes", len(c.Prefix))
	}
	if err := c.validateBackends(bad); err != nil {
		return err
	}
	usable := 0
	for _, b := range c.Data {
		if !b.Spare {
			usable++
		}
	}
	if usable < n {
		return bad("Data", "add data backends or lower ExpectedShards",
			"insufficient data backends, require at least %d, only found %d", n, usable)
	}
	if err := backend.Feasible(c.Data, c.redundancy()); err != nil {
		return bad("RedundantGroups", "lower RedundantGroups or RedundantNodes, or add groups or backends", "%v", err)
	}
	return nil
}

func (c *Config) validateBackends(bad func(field, remedy, format string, args ...any) error) error {
	type place struct {
		addr netip.AddrPort
		ns   string
	}
	seen := map[place]string{}
	for _, list := range []struct {
		name string
		bs   []backend.Backend
	}{{"Meta", c.Meta}, {"Data", c.Data}} {
		for _, b := range list.bs {
			if !b.Address.IsValid() || b.Address.Port() == 0 || b.Address.Addr().Zone() != "" {
				return bad(list.name, "give an IP literal and a port: records of objects can hold nothing else",
					"backend %s has address %s", b.ID, b.Address)
			}
			p := place{b.Address, b.Namespace}
			if other, dup := seen[p]; dup {
				return bad(list.name, "name each namespace once: two shards in one place are lost together",
					"backends %s and %s are the same namespace %q at %s", other, b.ID, b.Namespace, b.Address)
			}
			seen[p] = b.ID
		}
	}
	return nil
}

func (c *Config) redundancy() backend.Redundancy {
	return backend.Redundancy{Needed: c.MinimalShards, Total: c.ExpectedShards, Groups: c.RedundantGroups, Nodes: c.RedundantNodes}
}

// clone copies what the caller could change.
func (c Config) clone() Config {
	c.Data, c.Meta = slices.Clone(c.Data), slices.Clone(c.Meta)
	if c.Aliases != nil {
		m := make(map[netip.AddrPort]netip.AddrPort, len(c.Aliases))
		for k, v := range c.Aliases {
			m[k] = v
		}
		c.Aliases = m
	}
	return c
}

const metaInfix = "/meta/"

// cleanRoot is Root as it is cut off, without trailing slash.
func (c *Config) cleanRoot() string {
	if c.Root == "" {
		return ""
	}
	return path.Clean(c.Root)
}
