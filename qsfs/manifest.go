package qsfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/store"
)

// A checkpoint on the backends is a manifest and a head. The manifest is an
// object like every other: compressed, encrypted, dispersed, of any size. It
// names each file of the cut, the object that holds it, its length and
// checksum. The head is a small sealed record, whole on each metadata backend,
// that names the manifest: writing it is the commit.
//
// The head is JSON, the manifest a header in JSON and some 22 bytes per file
// (manifestcode.go), both with a schema number. A manifest may name another as
// its base, and then lists only what differs; a base has no base.

// manifestSchema is the newest that this version reads, and what it writes.
// Schema 1 was one JSON text, of versions that were never released.
const manifestSchema = 2

// manifest lists the files of one cut.
type manifest struct {
	Schema     int
	Epoch      uint64
	Seq        uint64
	Created    time.Time
	Base       *fileRef
	Namespaces map[string]*manifestNamespace
}

// manifestNamespace is one namespace in a cut.
type manifestNamespace struct {
	Slots      uint64 // entries of all index files
	Descriptor fileRef
	Index      *refTable
	Data       *refTable
}

func newManifestNamespace(name string) *manifestNamespace {
	return &manifestNamespace{Index: &refTable{prefix: "index/" + name + "/i"}, Data: &refTable{prefix: "data/" + name + "/d"}}
}

// snapshot gives a namespace that does not change with this one.
func (ns *manifestNamespace) snapshot() *manifestNamespace {
	return &manifestNamespace{Slots: ns.Slots, Descriptor: ns.Descriptor, Index: ns.Index.snapshot(), Data: ns.Data.snapshot()}
}

// table gives the references of a kind; nil for a descriptor.
func (ns *manifestNamespace) table(kind store.Kind) *refTable {
	switch kind {
	case store.KindData:
		return ns.Data
	case store.KindIndex:
		return ns.Index
	}
	return nil
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

// checkName sees that a namespace's name stays below the root.
func checkName(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return fmt.Errorf("%w: namespace %q", errManifest, name)
	}
	return nil
}

// names lists the namespaces in order.
func (m *manifest) names() []string {
	out := make([]string, 0, len(m.Namespaces))
	for name := range m.Namespaces {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// over gives the whole that a delta and its base make.
func (m *manifest) over(base *manifest) *manifest {
	whole := *m
	whole.Base = nil
	whole.Namespaces = map[string]*manifestNamespace{}
	for name, ns := range m.Namespaces {
		merged := *ns
		if b := base.Namespaces[name]; b != nil {
			merged.Index = ns.Index.over(b.Index)
			merged.Data = ns.Data.over(b.Data)
		}
		whole.Namespaces[name] = &merged
	}
	return &whole
}

// since gives what of m differs from base, to be stored as a delta.
func (m *manifest) since(base *manifest, ref fileRef) *manifest {
	delta := *m
	delta.Base = &ref
	delta.Namespaces = map[string]*manifestNamespace{}
	for name, ns := range m.Namespaces {
		d := *ns
		if b := base.Namespaces[name]; b != nil {
			d.Index = ns.Index.since(b.Index)
			d.Data = ns.Data.since(b.Data)
		}
		delta.Namespaces[name] = &d
	}
	return &delta
}

func (m *manifest) files() int {
	n := 0
	for _, ns := range m.Namespaces {
		n += ns.Index.count + ns.Data.count + 1
	}
	return n
}
