package qsfs

import (
	"fmt"
	"slices"
	"sync"

	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// The namespaces of a zdbfs that are kept on the backends. zdbfs-temp is made
// anew by whoever needs it, and never stored.
const (
	metaSpace = "zdbfs-meta"
	dataSpace = "zdbfs-data"
)

// space is one namespace of the frontend and what of it is on the backends.
type space struct {
	name  string
	ns    namespace
	local localFiles

	records tree.Records // what the tree writes to; nil where another process does

	mu        sync.Mutex
	whole     *manifest.Namespace // the files that are stored
	committed *manifest.Table     // data files that the newest committed checkpoint names; never changed, only replaced
}

func newSpace(name string) *space {
	ns := manifest.NewNamespace(name)
	return &space{name: name, whole: ns, committed: ns.Data.Snapshot()}
}

func (p *space) dataPath(id uint32) string { return fmt.Sprintf("data/%s/d%d", p.name, id) }
func (p *space) indexPath(id uint32) string {
	return fmt.Sprintf("index/%s/i%d", p.name, id)
}
func (p *space) descriptorPath() string { return fmt.Sprintf("index/%s/zdb-namespace", p.name) }

func (p *space) setStored(kind store.Kind, id uint32, ref manifest.Ref) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind == store.KindDescriptor {
		p.whole.Descriptor = ref
		return nil
	}
	t := tableOf(p.whole, kind)
	if t == nil {
		return fmt.Errorf("a file of kind %q in namespace %s", kind, p.name)
	}
	return t.Set(id, ref)
}

// adopt takes over what a committed manifest names.
func (p *space) adopt(ns *manifest.Namespace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = ns.Snapshot()
	p.committed = ns.Data.Snapshot()
}

// lacking lists the ids below n of files that are not stored.
func (p *space) lacking(kind store.Kind, n uint32) []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(tableOf(p.whole, kind).Lacking(n))
}

// setCommitted remembers what a checkpoint that was just committed names.
func (p *space) setCommitted(data *manifest.Table) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed = data
}

// committedData gives the data files that the newest committed checkpoint names.
func (p *space) committedData() *manifest.Table {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committed
}

func (p *space) stored(kind store.Kind, id uint32) (manifest.Ref, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind == store.KindDescriptor {
		return p.whole.Descriptor, p.whole.Descriptor.Object != ""
	}
	t := tableOf(p.whole, kind)
	if t == nil {
		return manifest.Ref{}, false
	}
	return t.Get(id)
}

// forget has the next cut store a file again whose object is lost, or that grew.
func (p *space) forget(kind store.Kind, id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind == store.KindDescriptor {
		p.whole.Descriptor = manifest.Ref{}
	} else if t := tableOf(p.whole, kind); t != nil {
		t.Remove(id)
	}
}

// tableOf gives the references of a kind; nil for a descriptor.
func tableOf(ns *manifest.Namespace, kind store.Kind) *manifest.Table {
	switch kind {
	case store.KindData:
		return ns.Data
	case store.KindIndex:
		return ns.Index
	}
	return nil
}
