package qsfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/store"
)

// HookHandler reacts to the events of the frontend's zdb as the system needs
// it. Every event may come twice, late, in another order or not at all: what an
// event tells is looked up in the files, and what none tells is found at the
// next cut.
func (s *System) HookHandler() hooks.HookHandler {
	h := hooks.HookHandler(hooks.HandlerFunc(s.handleHook))
	if s.opts.events != nil {
		h = s.opts.events(h)
	}
	return s.meters.hooked(h)
}

// handleHook is the table of events.
func (s *System) handleHook(ctx context.Context, e hooks.Event) error {
	if e.Kind != hooks.MissingData && !s.events.isOpen() {
		return nil // the start finds what the event would tell; only a read cannot wait for it
	}
	switch e.Kind {
	case hooks.Ready:
		return s.zdbReady(e)
	case hooks.NamespaceCreated, hooks.NamespaceUpdated, hooks.NamespaceReloaded:
		return s.descriptorChanged(ctx, e)
	case hooks.NamespaceDeleted:
		return s.namespaceDeleted(ctx, e)
	case hooks.NamespacesInit, hooks.JumpIndex, hooks.NamespaceClosing:
		return s.externalEvent(ctx, e) // the embedded zdb keeps its list of changed index files itself
	case hooks.JumpData:
		return s.dataClosed(ctx, e.Data)
	case hooks.MissingData:
		err := s.fetching.fetch(ctx, e.Data)
		s.meters.fetches.WithLabelValues(outcome(err)).Inc()
		return err
	case hooks.Close:
		return nil // the open pair is stored when the process has ended: see namespace-closing
	case hooks.Crash:
		s.log.Error("the zdb crashed", "instance", e.Instance)
		s.happened(ctx, eventHook, e.Instance, "the zdb crashed; what it had synced is found when it is back")
		return nil
	}
	return fmt.Errorf("%w: %q", hooks.ErrEvent, e.Kind)
}

// zdbReady refuses a zdb that would take writes which are never stored. The
// embedded one may serve: its tree refuses writes.
func (s *System) zdbReady(hooks.Event) error {
	if s.cfg.Engine.Zdb != config.External {
		return nil
	}
	if err := s.fence.Fenced(); err != nil {
		return err
	}
	s.zdbIsBack()
	return nil
}

func (s *System) space(name string) *space {
	for _, p := range s.spaces {
		if p.name == name {
			return p
		}
	}
	return nil
}

// descriptorChanged has the descriptor of a kept namespace stored if it is not
// stored as it is now.
func (s *System) descriptorChanged(_ context.Context, e hooks.Event) error {
	p := s.space(e.Namespace)
	if p == nil || s.fence.Fenced() != nil {
		return nil
	}
	text, err := os.ReadFile(p.ns.DescriptorPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil // the next event tells
	}
	if err != nil {
		return err
	}
	if ref, ok := p.stored(store.KindDescriptor, 0); !ok || ref.Checksum != checksum(text) {
		s.check.soonIf()
	}
	return nil
}

// namespaceDeleted is only told: what is on the backends stays there.
func (s *System) namespaceDeleted(ctx context.Context, e hooks.Event) error {
	p := s.space(e.Namespace)
	if p == nil {
		return nil
	}
	if _, err := os.Stat(p.ns.DescriptorPath()); err == nil {
		return nil // made again, or an old event
	}
	s.log.Error("a namespace of the file system was deleted", "namespace", e.Namespace)
	s.happened(ctx, eventHook, e.Namespace, "the namespace was deleted in the zdb; what was stored of it is kept on the backends")
	return nil
}

// dataClosed queues a data file that was closed because it is full.
func (s *System) dataClosed(ctx context.Context, path string) error {
	p, id, err := s.dataFile(path)
	if err != nil || p == nil {
		return err
	}
	pairs, err := p.ns.Pairs()
	if err != nil || id >= pairs.Count || pairs.HasOpen && pairs.Open == id {
		return err
	}
	d, err := p.ns.DataFile(id)
	if err != nil || !d.Present {
		return err
	}
	p.local.set(id, d.Length, time.Now())
	if s.fence.Fenced() != nil {
		return nil
	}
	return s.check.closedData(ctx, p, d)
}

// dataFile reads namespace and id from the path of a data file. A nil space:
// a namespace that is not kept on the backends.
func (s *System) dataFile(path string) (*space, uint32, error) {
	return s.eventFile(path, "d", s.layout.DataDir())
}

// eventFile reads `<root>/<namespace>/<letter><number>`. A relative root is one
// of zdb's working directory, which is not ours: then only the rest counts.
func (s *System) eventFile(path, letter, root string) (*space, uint32, error) {
	digits, ok := strings.CutPrefix(filepath.Base(path), letter)
	id, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || digits != strconv.FormatUint(id, 10) {
		return nil, 0, fmt.Errorf("%w: %q is not a file %s0, %s1 …", hooks.ErrEvent, path, letter, letter)
	}
	folder := filepath.Dir(path)
	if filepath.IsAbs(path) && !sameFolder(filepath.Dir(folder), root) {
		return nil, 0, fmt.Errorf("%w: %q is not below %s", hooks.ErrEvent, path, root)
	}
	return s.space(filepath.Base(folder)), uint32(id), nil
}

// sameFolder compares folders by their names, then as they are on disk: there
// may be links between.
func sameFolder(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
