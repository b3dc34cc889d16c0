// Package manifest has the list of the files of one checkpoint: which object
// holds each, its length and its checksum.
//
// A checkpoint on the backends is a manifest and a head. The manifest is an
// object like every other: compressed, encrypted, dispersed, of any size. The
// head is a small sealed record, whole on each metadata backend, that names the
// manifest: writing it is the commit (package qsfs/epoch has its type).
//
// A frontend of 64 TB has a million files, and what is stored of each is known in
// memory all the time. So the list is a Table per kind of file: Set, Get and
// Snapshot are cheap, a million references take 28 MB. Manifest.Encode and Decode
// are the format (code.go): a header in JSON and some 22 bytes per file, with a
// schema number. A manifest may name another as its base, and then lists only
// what differs (Since, Over); a base has no base.
//
// The package knows no backends and no disk. The format is this project's own:
// the components that it works with have nothing like it.
package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Schema is the newest that this version reads, and what it writes.
// Schema 1 was one JSON text, of versions that were never released.
const Schema = 2

// Manifest lists the files of one cut.
type Manifest struct {
	Schema     int
	Epoch      uint64 // of the frontend that wrote it
	Seq        uint64 // of the checkpoint, from 1
	Created    time.Time
	Base       *Ref                  // the manifest that this one is to be laid over; nil for a whole one
	Namespaces map[string]*Namespace // by name
}

// Namespace is one namespace in a cut.
type Namespace struct {
	Slots      uint64 // entries of all index files
	Descriptor Ref    // of the file zdb-namespace
	Index      *Table
	Data       *Table
}

// NewNamespace gives an empty one. The objects of its files have the paths
// `index/<name>/i<id>@<epoch>.<generation>` and `data/<name>/d<id>@…`, below the
// zdb root.
func NewNamespace(name string) *Namespace {
	return &Namespace{Index: &Table{prefix: "index/" + name + "/i"}, Data: &Table{prefix: "data/" + name + "/d"}}
}

// Snapshot gives a namespace that does not change with this one.
func (ns *Namespace) Snapshot() *Namespace {
	return &Namespace{Slots: ns.Slots, Descriptor: ns.Descriptor, Index: ns.Index.Snapshot(), Data: ns.Data.Snapshot()}
}

// ErrFormat says that a text is none of what this version reads.
var ErrFormat = errors.New("not a manifest that this version reads")

// checkName sees that a namespace's name stays below the root.
func checkName(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return fmt.Errorf("%w: namespace %q", ErrFormat, name)
	}
	return nil
}

// Names lists the namespaces in order.
func (m *Manifest) Names() []string {
	out := make([]string, 0, len(m.Namespaces))
	for name := range m.Namespaces {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Over gives the whole that a delta and its base make.
func (m *Manifest) Over(base *Manifest) *Manifest {
	whole := *m
	whole.Base = nil
	whole.Namespaces = map[string]*Namespace{}
	for name, ns := range m.Namespaces {
		merged := *ns
		if b := base.Namespaces[name]; b != nil {
			merged.Index = ns.Index.Over(b.Index)
			merged.Data = ns.Data.Over(b.Data)
		}
		whole.Namespaces[name] = &merged
	}
	return &whole
}

// Since gives what of m differs from base, to be stored as a delta; ref
// names base. That m lacks what base has is not told by a delta.
func (m *Manifest) Since(base *Manifest, ref Ref) *Manifest {
	delta := *m
	delta.Base = &ref
	delta.Namespaces = map[string]*Namespace{}
	for name, ns := range m.Namespaces {
		d := *ns
		if b := base.Namespaces[name]; b != nil {
			d.Index = ns.Index.Since(b.Index)
			d.Data = ns.Data.Since(b.Data)
		}
		delta.Namespaces[name] = &d
	}
	return &delta
}

// Files is the number of files that it lists, the namespaces' descriptors among
// them. Those of a base do not count.
func (m *Manifest) Files() int {
	n := 0
	for _, ns := range m.Namespaces {
		n += ns.Index.count + ns.Data.count + 1
	}
	return n
}
