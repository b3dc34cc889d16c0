package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/hooks"
)

// Get returns the payload of key, or backend.ErrNotFound. A payload that does
// not match its checksum is ErrDamaged, one whose data file is gone and does
// not come back ErrMissing.
func (n *Namespace) Get(ctx context.Context, key []byte) ([]byte, error) {
	return n.AppendGet(ctx, nil, key)
}

// AppendGet is Get into a buffer that the caller owns: the payload is appended
// to buf.
func (n *Namespace) AppendGet(ctx context.Context, buf, key []byte) ([]byte, error) {
	e, err := n.lookup(key)
	if err != nil {
		return buf, err
	}
	return n.payload(ctx, e, buf)
}

// Stat gives length and checksum of key's payload without reading it.
func (n *Namespace) Stat(ctx context.Context, key []byte) (backend.EntryStat, error) {
	e, err := n.lookup(key)
	return backend.EntryStat{Length: e.length, CRC: e.crc}, err
}

// Check reads the payload of key and compares its checksum.
func (n *Namespace) Check(ctx context.Context, key []byte) (bool, error) {
	e, err := n.lookup(key)
	if err != nil {
		return false, err
	}
	_, err = n.payload(ctx, e, nil)
	if errors.Is(err, ErrDamaged) {
		return false, nil
	}
	return err == nil, err
}

func (n *Namespace) lookup(key []byte) (entry, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if err := n.usableLocked(); err != nil {
		return entry{}, err
	}
	return n.index.lookup(key)
}

// payload appends the payload of e to buf, verified; once more after somebody
// mended its file.
func (n *Namespace) payload(ctx context.Context, e entry, buf []byte) ([]byte, error) {
	out, err := n.readPayload(ctx, e, buf)
	var bad *badPayload
	if !errors.As(err, &bad) || n.srv.o.Mend == nil || !n.closedData(e.dataFile) {
		return out, err
	}
	mended := n.joined(ctx, &n.mending, e.dataFile, func() error {
		return n.srv.o.Mend(n.srv.reads, n.DataPath(e.dataFile), err)
	})
	if mended != nil {
		return out, fmt.Errorf("%w (%w)", err, mended)
	}
	return n.readPayload(ctx, e, buf)
}

// badPayload: what is on disk is not what was written, or cannot be read.
type badPayload struct{ error }

func (b *badPayload) Unwrap() error { return b.error }

// closedData says whether a data file is written no more.
func (n *Namespace) closedData(id uint32) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.active == nil || n.active.id != id
}

func (n *Namespace) readPayload(ctx context.Context, e entry, buf []byte) ([]byte, error) {
	if e.length == 0 {
		return append(buf, []byte{}...), nil
	}
	h, err := n.openData(ctx, e.dataFile)
	if err != nil {
		return buf, err
	}
	defer n.data.release(h)
	start := len(buf)
	buf = grow(buf, int(e.length))
	p := buf[start:]
	off := int64(e.offset) + segment.DataEntrySize + int64(e.klen)
	if _, err := h.ReadAt(p, off); err != nil {
		n.srv.stats.dataReadFailed.Add(1)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %s ends inside the payload at %d", ErrDamaged, h.Name(), e.offset)
		}
		return buf[:start], &badPayload{err}
	}
	n.srv.stats.dataRead.Add(int64(len(p)))
	if sum := segment.Checksum(p); sum != e.crc {
		return buf[:start], &badPayload{fmt.Errorf("%w: payload at %d of %s has checksum %08x, want %08x",
			ErrDamaged, e.offset, h.Name(), sum, e.crc)}
	}
	return buf, nil
}

func grow(buf []byte, n int) []byte {
	if cap(buf)-len(buf) >= n {
		return buf[:len(buf)+n]
	}
	b := make([]byte, len(buf)+n)
	copy(b, buf)
	return b
}

// openData opens a data file, once more after the missing-data hook.
func (n *Namespace) openData(ctx context.Context, id uint32) (*fileHandle, error) {
	h, err := n.data.acquire(id)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	if herr := n.fetch(ctx, id); herr != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMissing, n.DataPath(id), herr)
	}
	h, err = n.data.acquire(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrMissing, n.DataPath(id))
	}
	return h, err
}

// flights joins the readers that wait for the same missing file.
type flights struct {
	mu sync.Mutex
	m  map[uint32]*flight
}

type flight struct {
	done chan struct{}
	err  error
}

// fetch runs the missing-data hook for a file, one at a time however many
// readers ask; each waits as long as its own context allows, and the hook goes
// on for the others.
func (n *Namespace) fetch(ctx context.Context, id uint32) error {
	if n.srv.o.Hooks == nil {
		return errors.New("no hook brings it back")
	}
	return n.joined(ctx, &n.missing, id, func() error {
		return n.srv.hook(n.srv.reads, hooks.Event{Kind: hooks.MissingData, Data: n.DataPath(id)})
	})
}

// joined runs f for a file, unless it runs already, and waits for its end as long
// as ctx allows.
func (n *Namespace) joined(ctx context.Context, fs *flights, id uint32, do func() error) error {
	fs.mu.Lock()
	f := fs.m[id]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		if fs.m == nil {
			fs.m = map[uint32]*flight{}
		}
		fs.m[id] = f
		n.srv.tasks.Go(func() {
			f.err = do()
			fs.mu.Lock()
			delete(fs.m, id)
			fs.mu.Unlock()
			close(f.done)
		})
	}
	fs.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Where tells which data file holds the payload of key, and which index file its
// entry; backend.ErrNotFound where there is none.
func (n *Namespace) Where(key []byte) (dataFile, indexFile uint32, err error) {
	e, err := n.lookup(key)
	return e.dataFile, e.at.file, err
}
