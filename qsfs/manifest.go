package qsfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
)

// A checkpoint on the backends is a manifest and a head. The manifest is an
// object like every other: compressed, encrypted, dispersed, of any size. It
// names each file of the cut, the object that holds it, its length and
// checksum. The head is a small sealed record, whole on each metadata backend,
// that names the manifest: writing it is the commit.
//
// Both are JSON with a schema number. A manifest may name another as its base,
// and then lists only what differs; a base has no base.

const manifestSchema = 1

// manifest lists the files of one cut.
type manifest struct {
	Schema     int                           `json:"schema"`
	Epoch      uint64                        `json:"epoch"`
	Seq        uint64                        `json:"seq"`
	Created    time.Time                     `json:"created"`
	Base       *fileRef                      `json:"base,omitempty"`
	Namespaces map[string]*manifestNamespace `json:"namespaces"`
}

// manifestNamespace is one namespace in a cut. Index and Data are by file id.
type manifestNamespace struct {
	Slots      uint64             `json:"slots"` // entries of all index files
	Descriptor fileRef            `json:"descriptor"`
	Index      map[uint32]fileRef `json:"index"`
	Data       map[uint32]fileRef `json:"data"`
}

// fileRef names an object and what must come out of it.
type fileRef struct {
	Object   string `json:"object"` // path below the zdb root, with epoch and generation
	Length   int64  `json:"length"`
	Checksum string `json:"checksum"` // BLAKE2b-128, hex
}

// head names the newest manifest of one epoch.
type head struct {
	Schema   int       `json:"schema"`
	Epoch    uint64    `json:"epoch"`
	UUID     string    `json:"uuid"`
	Seq      uint64    `json:"seq"`
	Created  time.Time `json:"created"`
	Manifest fileRef   `json:"manifest"`
}

var errManifest = errors.New("not a manifest that this version reads")

func (m *manifest) encode() ([]byte, error) { return json.Marshal(m) }

// decodeManifest checks what a restore relies on: names stay below the root,
// lengths are not negative.
func decodeManifest(data []byte) (*manifest, error) {
	m := new(manifest)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	if m.Schema > manifestSchema {
		return nil, fmt.Errorf("%w: schema %d, this version knows %d: use a newer quantumd", errManifest, m.Schema, manifestSchema)
	}
	if m.Schema < 1 || m.Namespaces == nil {
		return nil, errManifest
	}
	for name, ns := range m.Namespaces {
		if ns == nil || name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return nil, fmt.Errorf("%w: namespace %q", errManifest, name)
		}
		refs := []fileRef{ns.Descriptor}
		for _, r := range ns.Index {
			refs = append(refs, r)
		}
		for _, r := range ns.Data {
			refs = append(refs, r)
		}
		for _, r := range refs {
			if err := r.check(); err != nil {
				return nil, err
			}
		}
	}
	if m.Base != nil {
		return m, m.Base.check()
	}
	return m, nil
}

func (r fileRef) check() error {
	if r.Object == "" && r.Length == 0 {
		return nil // not set
	}
	if r.Length < 0 || strings.HasPrefix(r.Object, "/") || strings.Contains(r.Object, "..") || len(r.Checksum) != 32 {
		return fmt.Errorf("%w: file %q", errManifest, r.Object)
	}
	return nil
}

// over gives the whole that a delta and its base make.
func (m *manifest) over(base *manifest) *manifest {
	whole := *m
	whole.Base = nil
	whole.Namespaces = map[string]*manifestNamespace{}
	for name, ns := range m.Namespaces {
		merged := *ns
		if b := base.Namespaces[name]; b != nil {
			merged.Index = mergeRefs(b.Index, ns.Index)
			merged.Data = mergeRefs(b.Data, ns.Data)
		}
		whole.Namespaces[name] = &merged
	}
	return &whole
}

func mergeRefs(base, delta map[uint32]fileRef) map[uint32]fileRef {
	out := make(map[uint32]fileRef, len(base)+len(delta))
	for id, r := range base {
		out[id] = r
	}
	for id, r := range delta {
		out[id] = r
	}
	return out
}

// since gives what of m differs from base, to be stored as a delta.
func (m *manifest) since(base *manifest, ref fileRef) *manifest {
	delta := *m
	delta.Base = &ref
	delta.Namespaces = map[string]*manifestNamespace{}
	for name, ns := range m.Namespaces {
		d := *ns
		if b := base.Namespaces[name]; b != nil {
			d.Index = differing(b.Index, ns.Index)
			d.Data = differing(b.Data, ns.Data)
		}
		delta.Namespaces[name] = &d
	}
	return &delta
}

func differing(base, now map[uint32]fileRef) map[uint32]fileRef {
	out := map[uint32]fileRef{}
	for id, r := range now {
		if base[id] != r {
			out[id] = r
		}
	}
	return out
}

func (m *manifest) files() int {
	n := 0
	for _, ns := range m.Namespaces {
		n += len(ns.Index) + len(ns.Data) + 1
	}
	return n
}

func sortedIDs(refs map[uint32]fileRef) []uint32 {
	ids := make([]uint32, 0, len(refs))
	for id := range refs {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	return ids
}
