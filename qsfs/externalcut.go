package qsfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
	"github.com/threefoldtech/quantumd/store"
)

// HookMissingError says that an external zdb went on to its next files, and its
// hook did not reach this daemon.
type HookMissingError struct{ Namespace string }

func (e *HookMissingError) Error() string {
	return fmt.Sprintf("zdb switched the files of %s without telling: its index files could not be copied while it stands still", e.Namespace)
}

// Hint names the remedy.
func (*HookMissingError) Hint() string {
	return "run zdb with --hook PATH-OF-quantumd-hook, and see that QUANTUMD_HOOK_SOCKET, or the file quantumd-hook.socket beside it, names the daemon's hook socket"
}

// jumping is a cut that waits for the jump-index hook, and what it copies there.
type jumping struct {
	request cutRequest
	from    uint32 // the pair that was active before
	done    bool
	closed  uint32
	copies  []cutFile
	stamps  map[uint32]stamp
	err     error
}

// copy copies every index file up to closed that is not stored as it is. The
// last call counts: zdb may have closed a full pair just before.
func (j *jumping) copy(x *externalSpace, closed uint32) error {
	j.discard()
	j.done, j.closed, j.stamps = true, closed, map[uint32]stamp{}
	j.err = j.copyAll(x)
	return j.err
}

func (j *jumping) copyAll(x *externalSpace) error {
	ids, err := numbered(x.index, 'i')
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id > j.closed {
			break
		}
		st, err := os.Stat(x.IndexPath(id))
		if err != nil {
			return err
		}
		now := stampOf(st)
		if _, ok := j.request.stored(store.KindIndex, id); ok && x.stamps[id] == now {
			continue
		}
		if err := copyTo(x.IndexPath(id), j.request.copyOf('i', id), now.length); err != nil {
			return err
		}
		j.copies = append(j.copies, cutFile{ID: id, Length: now.length, Copied: true})
		j.stamps[id] = now
	}
	return nil
}

// discard removes what was copied.
func (j *jumping) discard() {
	for _, c := range j.copies {
		_ = os.Remove(j.request.copyOf('i', c.ID)) // the staging folder is cleared at the next start
	}
	j.copies = nil
}

// Cut is described at the interface. zdb may run or not: when it does not, its
// open pair is taken as well, as a copy, for it goes on with it when it starts.
func (x *externalSpace) Cut(ctx context.Context, r cutRequest) (*cutFiles, error) {
	if err := x.prime(ctx, r.stored); err != nil {
		return nil, err
	}
	// A zdb that ends, or starts, holds its lock and does not answer; and hooks of
	// the real one, which inherit the lock, outlive it for a moment.
	for began := time.Now(); ; {
		lock, err := x.notRunning()
		if err != nil {
			return nil, err
		}
		if lock != nil {
			defer lock.Close()
			return x.cutStopped(ctx, r)
		}
		cut, err := x.cutLive(ctx, r)
		var away *backend.UnreachableError
		if !errors.As(err, &away) || time.Since(began) > startPatience || !wait(ctx, 50*time.Millisecond) {
			return cut, err
		}
	}
}

// cutLive is a cut while zdb runs.
func (x *externalSpace) cutLive(ctx context.Context, r cutRequest) (*cutFiles, error) {
	j, err := x.cutRunning(ctx, r)
	if err != nil {
		return nil, err
	}
	if j == nil {
		return &cutFiles{}, nil
	}
	cut, err := x.cutOf(ctx, r, j)
	if err != nil {
		j.discard()
		return nil, err
	}
	return cut, nil
}

// cutTries bounds how often a cut is made again because zdb wrote meanwhile.
const cutTries = 5

func (x *externalSpace) cutRunning(ctx context.Context, r cutRequest) (*jumping, error) {
	for range cutTries {
		active, entries, ok, err := x.activeNow(ctx)
		if err != nil || !ok {
			return nil, err
		}
		if entries {
			return x.jumpAndCopy(ctx, r, active)
		}
		if active == 0 {
			return nil, nil // nothing was ever written
		}
		// An NSJUMP would leave an empty pair behind, whose first id the real zdb
		// cannot find. As long as the active index is empty no slot was overwritten:
		// zdb appends first.
		j := &jumping{request: r}
		x.mu.Lock()
		err = j.copy(x, active-1)
		x.mu.Unlock()
		now, entries, _, activeErr := x.activeNow(ctx)
		if err := errors.Join(err, activeErr); err != nil {
			j.discard()
			return nil, err
		}
		if now == active && !entries {
			return j, nil
		}
		j.discard()
	}
	return nil, fmt.Errorf("zdb wrote to %s each time that a cut was made", x.name)
}

func (x *externalSpace) jumpAndCopy(ctx context.Context, r cutRequest, active uint32) (*jumping, error) {
	j := &jumping{request: r, from: active}
	x.mu.Lock()
	x.jump = j
	x.mu.Unlock()
	err := x.admin.Jump(ctx, x.name, "")
	x.log.Debug("zdb was told to go on to its next pair", "active", active, "err", err)
	x.mu.Lock()
	x.jump = nil
	x.mu.Unlock()
	if err == nil {
		err = j.err
	}
	if err == nil && !j.done {
		err = x.copyClosed(j, active)
	}
	if err != nil {
		j.discard()
		return nil, err
	}
	return j, nil
}

// copyClosed is for a jump that raised no hook. Our own zdb has nothing to switch
// where the highest pair is closed already, and its index files on disk are those
// of that moment until it closes another; any other one has a hook that does not
// reach us.
func (x *externalSpace) copyClosed(j *jumping, active uint32) error {
	if now, _, _, err := x.active(); err != nil || now != active {
		return errors.Join(err, &HookMissingError{Namespace: x.name})
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return j.copy(x, active)
}

// cutStopped takes everything while zdb cannot start.
func (x *externalSpace) cutStopped(ctx context.Context, r cutRequest) (*cutFiles, error) {
	active, entries, ok, err := x.active()
	if err != nil {
		return nil, err
	}
	if !ok || !entries && active == 0 {
		return &cutFiles{}, nil // nothing was ever written
	}
	if !entries {
		active--
	}
	j := &jumping{request: r}
	x.mu.Lock()
	err = j.copy(x, active)
	x.mu.Unlock()
	if err != nil {
		j.discard()
		return nil, err
	}
	cut, err := x.cutOf(ctx, r, j)
	if err != nil {
		j.discard()
		return nil, err
	}
	for i, d := range cut.Data {
		if d.ID != active {
			continue
		}
		dst := r.copyOf('d', d.ID)
		if err := copyTo(x.DataPath(d.ID), dst, d.Length); err != nil {
			j.discard()
			return nil, errors.Join(err, durable.RemoveIfThere(dst))
		}
		cut.Data[i].Copied = true
	}
	return cut, nil
}

// cutOf lists what of the closed pairs is not stored.
func (x *externalSpace) cutOf(ctx context.Context, r cutRequest, j *jumping) (*cutFiles, error) {
	files, err := x.files(j.closed, true)
	if err != nil {
		return nil, err
	}
	cut := &cutFiles{Index: j.copies, stamps: j.stamps, Slots: files.Slots}
	for _, d := range files.Data {
		ref, ok := r.stored(store.KindData, d.ID)
		switch {
		case !d.Present && !ok:
			cut.Missing = append(cut.Missing, d.ID)
		case !d.Present, ok && d.Length == ref.Length:
		case ok: // it grew, or is damaged
			good, _, err := goodPrefix(ctx, x.DataPath(d.ID), ref, 0)
			if err == nil && !good {
				err = r.mend(ctx, d.ID, ref)
			}
			if err != nil {
				return nil, fmt.Errorf("data file %d: %w", d.ID, err)
			}
			if d.Length < ref.Length {
				continue // the whole of it is back
			}
			fallthrough
		default:
			cut.Data = append(cut.Data, cutFile{ID: d.ID, Length: d.Length})
		}
	}
	return cut, nil
}

// Committed: what was copied is stored now, as it was then.
func (x *externalSpace) Committed(cut *cutFiles) {
	if cut == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, s := range cut.stamps {
		if st, err := os.Stat(x.IndexPath(id)); err == nil && stampOf(st) == s {
			x.keep(id, s)
		}
	}
}

// keep remembers the state that is stored, unless a change in the same tick of
// the clock could look the same: then the checksum tells at the next cut.
func (x *externalSpace) keep(id uint32, s stamp) {
	if time.Now().UnixNano()-s.mod > int64(settled) {
		x.stamps[id] = s
	}
}

// prime finds by their checksums which index files are stored as they are, where
// nothing is known of them.
func (x *externalSpace) prime(ctx context.Context, stored func(store.Kind, uint32) (manifest.Ref, bool)) error {
	ids, err := numbered(x.index, 'i')
	if err != nil {
		return err
	}
	for _, id := range ids {
		x.mu.Lock()
		_, known := x.stamps[id]
		x.mu.Unlock()
		ref, ok := stored(store.KindIndex, id)
		if known || !ok {
			continue
		}
		st, err := os.Stat(x.IndexPath(id))
		if err != nil {
			return err
		}
		if st.Size() != ref.Length || time.Now().UnixNano()-st.ModTime().UnixNano() <= int64(settled) {
			continue
		}
		same, _, err := goodPrefix(ctx, x.IndexPath(id), ref, 0)
		if err != nil {
			return err
		}
		if same {
			x.mu.Lock()
			x.stamps[id] = stampOf(st)
			x.mu.Unlock()
		}
	}
	return nil
}

// copyTo copies the first length bytes; blocks are shared where the file system
// can.
func copyTo(from, to string, length int64) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // read only
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, length))
	if err == nil && n != length {
		err = fmt.Errorf("%s: %d bytes, want %d", from, n, length)
	}
	return errors.Join(err, out.Close())
}

var _ namespace = (*externalSpace)(nil)
var _ namespace = embeddedSpace{}
