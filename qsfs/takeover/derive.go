package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// Plan is what a takeover would do.
type Plan struct {
	Config     *config.Config `json:"-"`
	ObjectRoot string         `json:"object_root"` // what the older zstor cut off paths
	Notes      []string       `json:"notes"`       // what is left out, and why
}

// oldKeys reads the configuration of an earlier quantumd; nil where there is none.
func (t *Takeover) oldKeys() (map[string]yaml.Node, error) {
	if t.Config == "" {
		return nil, nil
	}
	text, err := read(t.Config, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	keys := map[string]yaml.Node{} // as they are written: 007 stays a password
	if err == nil && yaml.Unmarshal(text, &keys) != nil {
		err = errors.New("not valid YAML") // the library's message may quote a secret
	}
	if err != nil {
		return nil, &Error{Msg: "its configuration cannot be read", Err: err, Remedy: "correct or move away " + t.Config}
	}
	return keys, nil
}

// derivedKeys come from what runs, and from the zstor's configuration.
var derivedKeys = []string{"backends", "encryption_key", "encryption_key_file", "min_shards", "expected_shards", "redundant_groups", "redundant_nodes",
	"metadata_prefix", "zdb_root_path", "qsfs_mountpoint", "zdb_data_size", "zstor_config_path", "engine", "cache_path"}

// smallCache is what an older quantumd gave its zstor by mistake: the size of a
// data file.
const smallCache = 1 << 10 // MiB

// Derive makes the configuration of this program from that of the older ones:
// backends, key, shards and prefix from the zstor's, all else from quantumd's,
// where this program knows the key and can read it.
func (t *Takeover) Derive() (*Plan, error) {
	text, err := read(t.Zstor, maxFile)
	if err != nil {
		return nil, &Error{Msg: "the configuration of its zstor", Err: err, Remedy: "make it readable"}
	}
	z, err := zstor.ParseTOML(text)
	if err != nil {
		return nil, &Error{Msg: t.Zstor, Err: err, Remedy: "correct it as its zstor has it: `zstor -c " + t.Zstor + " status` reads it"}
	}
	p := &Plan{ObjectRoot: z.Root, Notes: []string{}}
	if len(t.Derived) > 0 { // it goes on after an interruption: what it comes from may have been replaced
		p.Config, err = config.Parse("the derived configuration", t.Derived)
		return p, err
	}
	keys, err := t.keep(p)
	if err != nil {
		return nil, err
	}
	maps.Copy(keys, map[string]any{
		"zdb_root_path": t.Root, "qsfs_mountpoint": t.Mountpoint,
		"min_shards": z.MinimalShards, "expected_shards": z.ExpectedShards, "redundant_groups": z.RedundantGroups, "redundant_nodes": z.RedundantNodes,
		"metadata_prefix": z.Prefix, "encryption_key": z.Key.Hex(), "backends": backendKeys(z),
	})
	if t.DataSize > 0 {
		keys["zdb_data_size"] = config.Size(t.DataSize).String()
	}
	if z.Daemon.MaxZDBDataDirMiB > smallCache {
		keys["cache_size"] = fmt.Sprintf("%dM", z.Daemon.MaxZDBDataDirMiB)
	}
	if p.Config, err = parse(keys); err == nil {
		err = p.Config.Validate()
	}
	if err != nil {
		return nil, &Error{Msg: "the configuration that follows from it is not valid", Err: err, Remedy: "correct " + t.Zstor + " or " + t.at("/etc/quantumd.yaml")}
	}
	if len(t.Backends) > 0 {
		p.Notes = append(p.Notes, "the local backends "+strings.Join(t.Backends, ", ")+" go on as they are: they are no services of this program")
	}
	return p, nil
}

// keep gives the keys of an earlier quantumd that this program knows and reads.
func (t *Takeover) keep(p *Plan) (map[string]any, error) {
	old, err := t.oldKeys()
	if err != nil {
		return nil, err
	}
	keys := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(old)) {
		value := old[key]
		if value.Tag == "!!null" || slices.Contains(derivedKeys, key) {
			continue
		}
		if !slices.Contains(config.Keys(), key) {
			p.Notes = append(p.Notes, key+" is left out: this program does not know it")
			continue
		}
		alone, err := parse(map[string]any{key: &value})
		if err == nil {
			err = aboutKey(alone.Validate(), key)
		}
		if err != nil {
			p.Notes = append(p.Notes, fmt.Sprintf("%s is left out, its default counts: %s", key, reason(err)))
			continue
		}
		keys[key] = &value
	}
	return keys, nil
}

// aboutKey picks what is wrong with one key, for alone it makes no whole
// configuration.
func aboutKey(err error, key string) error {
	for _, e := range config.Errors(err) {
		if e.Key == key && e.Line > 0 {
			return e
		}
	}
	return nil
}

func reason(err error) string {
	if list := config.Errors(err); len(list) > 0 {
		return list[0].Msg
	}
	return "it cannot be read"
}

func parse(keys map[string]any) (*config.Config, error) {
	text, err := yaml.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return config.Parse("the derived configuration", text)
}

func backendKeys(z zstor.FileConfig) (out []map[string]any) {
	for _, b := range slices.Concat(z.Meta, z.Data) {
		m := map[string]any{"role": string(b.Role), "address": b.Address.String()}
		for key, value := range map[string]string{"namespace": b.Namespace, "password": b.Password.Reveal()} {
			if value != "" {
				m[key] = value
			}
		}
		if b.Role == backend.Data && b.Group != "" {
			m["group"] = b.Group
		}
		out = append(out, m)
	}
	return out
}
