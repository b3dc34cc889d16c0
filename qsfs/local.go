package qsfs

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
)

// localFiles knows which data files of a namespace are here, how long they are
// and when they were used, so that nobody has to ask the disk of half a million
// files every few seconds. It follows what the system does; what others did to
// the folder it sees when it is counted again. The open file is not in it.
type localFiles struct {
	mu    sync.Mutex
	size  []uint32 // bytes by id; zero: not here
	used  []uint32 // Unix time by id: of the last use that the file system knew
	bytes int64    // that their blocks take
	count int
	seen  []uint64 // bits by id, while they are counted
}

// blockSize is the unit in which file systems give room.
const blockSize = 4096

func blocks(size uint32) int64 { return (int64(size) + blockSize - 1) / blockSize * blockSize }

// set notes that a data file is here.
func (l *localFiles) set(id uint32, size int64, used time.Time) {
	if size <= 0 || size > math.MaxUint32 {
		return // no data file
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(id)
	l.size[id], l.used[id] = uint32(size), uint32(max(0, used.Unix()))
	l.bytes += blocks(l.size[id])
	l.count++
	if w := int(id / 64); l.seen != nil {
		if w >= len(l.seen) {
			l.seen = append(l.seen, make([]uint64, w+1-len(l.seen))...)
		}
		l.seen[w] |= 1 << (id % 64)
	}
}

// drop notes that a data file is gone.
func (l *localFiles) drop(id uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(id)
}

func (l *localFiles) dropLocked(id uint32) {
	if uint64(id) >= uint64(len(l.size)) {
		more := int(id) + 1 - len(l.size)
		l.size = append(l.size, make([]uint32, more)...)
		l.used = append(l.used, make([]uint32, more)...)
	}
	if l.size[id] != 0 {
		l.bytes -= blocks(l.size[id])
		l.count--
		l.size[id] = 0
	}
}

func (l *localFiles) total() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// known is the lowest id of which nothing was noted yet.
func (l *localFiles) known() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint32(len(l.size))
}

// each calls fn for every file that is here. It must not call back.
func (l *localFiles) each(fn func(id uint32, size int64, used uint32)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, size := range l.size {
		if size != 0 {
			fn(uint32(id), int64(size), l.used[id])
		}
	}
}

// unseen lists the files that were not met since a count began, and ends it.
func (l *localFiles) unseen() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []uint32
	for id, size := range l.size {
		if w := id / 64; size != 0 && (w >= len(l.seen) || l.seen[w]&(1<<(id%64)) == 0) {
			out = append(out, uint32(id))
		}
	}
	l.seen = nil
	return out
}

// countPage is how many files are looked at in one go.
const countPage = 1024

// countLocal looks at all data files of a namespace. With a pause between pages
// it does not disturb.
func (p *space) countLocal(ctx context.Context, pause time.Duration) error {
	pairs, err := p.ns.Pairs()
	if err != nil {
		return err
	}
	p.local.mu.Lock()
	p.local.seen = []uint64{}
	p.local.mu.Unlock()
	n := 0
	err = eachName(filepath.Dir(p.ns.DataPath(0)), func(_, name string) error {
		id, ok := segment.ParseName('d', name)
		if !ok || id >= pairs.Count {
			return nil // no data file, or of a pair without entries
		}
		if n++; n%countPage == 0 && pause > 0 && !wait(ctx, pause) || ctx.Err() != nil {
			return ctx.Err()
		}
		return p.lookAt(id, pairs)
	})
	if err != nil {
		return err
	}
	for _, id := range p.local.unseen() {
		if err := p.lookAt(id, pairs); err != nil {
			return err
		}
	}
	closed := pairs.Count
	if pairs.HasOpen {
		closed--
	}
	if closed > p.local.known() {
		return p.lookAt(closed-1, pairs) // what is not here below it is known, too
	}
	return nil
}

// lookAt asks the disk of one data file, unless it is the open one.
func (p *space) lookAt(id uint32, pairs server.Pairs) error {
	if pairs.HasOpen && pairs.Open == id {
		return nil
	}
	st, err := os.Stat(p.ns.DataPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		p.local.drop(id)
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() {
		p.local.set(id, st.Size(), lastUse(st))
	}
	return nil
}

// unsafe gives the bytes of local data files that no committed checkpoint
// names: what would be lost with this machine.
func (p *space) unsafe() (int64, error) {
	pairs, err := p.ns.Pairs()
	if err != nil {
		return 0, err
	}
	for id := p.local.known(); id < pairs.Count; id++ { // closed this very moment
		if err := p.lookAt(id, pairs); err != nil {
			return 0, err
		}
	}
	committed := p.committedData()
	var n int64
	p.local.each(func(id uint32, size int64, _ uint32) {
		if length, ok := committed.Length(id); (!ok || length != size) && !(pairs.HasOpen && pairs.Open == id) {
			n += size
		}
	})
	if pairs.HasOpen {
		if length, ok := committed.Length(pairs.Open); !ok || length != pairs.OpenLength {
			n += pairs.OpenLength
		}
	}
	return n, nil
}

// otherLengths lists the local data files whose lengths are not those of what is
// stored of them.
func (p *space) otherLengths() []server.DataFile {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []server.DataFile
	p.local.each(func(id uint32, size int64, _ uint32) {
		if length, ok := p.whole.Data.Length(id); ok && length != size {
			out = append(out, server.DataFile{ID: id, Length: size, Present: true})
		}
	})
	return out
}

// candidate is a local data file that may be dropped.
type candidate struct {
	space *space
	nr    int // of the space
	id    uint32
	size  int64
	used  uint32 // Unix time
}

func (a candidate) compare(b candidate) int {
	return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.nr, b.nr), cmp.Compare(a.id, b.id))
}

// evictPage is how many candidates are chosen at a time: a million are neither
// sorted nor listed.
const evictPage = 4096

// leastUsed gives the candidates that were not used for longest, in that order,
// of those behind after; and how many local files no committed checkpoint names.
func (s *System) leastUsed(after candidate) (page []candidate, unsafe int) {
	page = make([]candidate, 0, 2*evictPage)
	limit, limited := candidate{}, false
	trim := func() {
		slices.SortFunc(page, candidate.compare)
		if len(page) > evictPage {
			page = page[:evictPage]
			limit, limited = page[evictPage-1], true
		}
	}
	for nr, p := range s.spaces {
		committed := p.committedData()
		p.local.each(func(id uint32, size int64, used uint32) {
			if length, ok := committed.Length(id); !ok || length != size {
				unsafe++
				return
			}
			if read := p.ns.LastRead(id); !read.IsZero() {
				used = max(used, uint32(read.Unix()))
			}
			c := candidate{p, nr, id, size, used}
			if c.compare(after) <= 0 || limited && c.compare(limit) >= 0 {
				return
			}
			if page = append(page, c); len(page) == cap(page) {
				trim()
			}
		})
	}
	trim()
	return page, unsafe
}
