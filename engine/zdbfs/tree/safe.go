package tree

import "sync"

// safeMap knows in which cut each inode is that was changed in this run.
type safeMap struct {
	clean     bool
	committed func() uint64

	mu      sync.Mutex
	cut     uint64            // made so far
	changed map[uint64]uint64 // inode: the cut that has its last change
	pruned  uint64
}

func (s *safeMap) init(clean bool, committed func() uint64) {
	if committed == nil {
		committed = func() uint64 { return 0 }
	}
	s.clean, s.committed, s.changed = clean, committed, make(map[uint64]uint64)
}

// mark notes a change, inside the gate.
func (s *safeMap) mark(ino uint64) {
	s.mu.Lock()
	s.changed[ino] = s.cut + 1
	s.mu.Unlock()
}

func (s *safeMap) forget(ino uint64) {
	s.mu.Lock()
	delete(s.changed, ino)
	s.mu.Unlock()
}

// made notes that a cut was made, the gate being held by its maker.
func (s *safeMap) made(seq uint64) {
	committed := s.committed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = seq
	s.pruneLocked(committed)
}

func (s *safeMap) pruneLocked(committed uint64) {
	if committed <= s.pruned {
		return
	}
	s.pruned = committed
	for ino, cut := range s.changed {
		if cut <= committed {
			delete(s.changed, ino)
		}
	}
}

// SafeState tells whether the last change of an inode is in a committed cut:
// [Local], [Pending] or [Safe]. It answers from memory.
func (t *Tree) SafeState(ino uint64) string {
	s := &t.safe
	committed := s.committed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pruneLocked(committed)
	cut, changed := s.changed[ino]
	switch {
	case !changed && (s.clean || committed > 0):
		return Safe
	case !changed && s.cut > 0:
		return Pending
	case !changed, cut > s.cut:
		return Local
	case cut > committed:
		return Pending
	}
	return Safe
}
