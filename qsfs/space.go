package qsfs

import (
	"fmt"
	"sync"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
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
	name string
	ns   *server.Namespace

	mu    sync.Mutex
	whole manifestNamespace // the files that are stored; guarded by mu
}

func (p *space) dataPath(id uint32) string { return fmt.Sprintf("data/%s/d%d", p.name, id) }
func (p *space) indexPath(id uint32) string {
	return fmt.Sprintf("index/%s/i%d", p.name, id)
}
func (p *space) descriptorPath() string { return fmt.Sprintf("index/%s/zdb-namespace", p.name) }

func (p *space) setStored(kind store.Kind, id uint32, ref fileRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch kind {
	case store.KindData:
		p.whole.Data[id] = ref
	case store.KindIndex:
		p.whole.Index[id] = ref
	case store.KindDescriptor:
		p.whole.Descriptor = ref
	}
}

// adopt takes over what a committed manifest names.
func (p *space) adopt(ns *manifestNamespace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = *ns
	p.whole.Index, p.whole.Data = mergeRefs(ns.Index, nil), mergeRefs(ns.Data, nil)
}

func (p *space) stored(kind store.Kind, id uint32) (fileRef, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ref fileRef
	switch kind {
	case store.KindData:
		ref = p.whole.Data[id]
	case store.KindIndex:
		ref = p.whole.Index[id]
	case store.KindDescriptor:
		ref = p.whole.Descriptor
	}
	return ref, ref.Object != ""
}
