package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/threefoldtech/quantumd/internal/glob"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/store"
)

// folderModes looks at the folders that hold data, state and sockets.
func folderModes(_ context.Context, x *examination) []Result {
	var out []Result
	n := 0
	for _, path := range []string{x.Layout.DataDir(), x.Layout.IndexDir(), x.Layout.State, filepath.Dir(x.Layout.ControlSocket()), x.Layout.Backends, filepath.Join(x.Layout.State, "secrets")} {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || path == "" {
			continue
		}
		n++
		if err != nil {
			out = append(out, bad(Warning, path, "", "cannot be looked at: "+reason(err), "run this as the user whose system it is, or as root")...)
			continue
		}
		owner, known := ownerOf(st)
		switch {
		case !st.IsDir():
			out = append(out, bad(Problem, path, st.Mode().String(), "this is no folder", "move it away")...)
		case st.Mode().Perm()&0o022 != 0:
			out = append(out, bad(Problem, path, mode(st.Mode()), "other users can change what is in it", "`chmod 700 "+path+"`")...)
		case st.Mode().Perm()&0o055 != 0:
			out = append(out, bad(Warning, path, mode(st.Mode()), "other users can look into it", "`chmod 700 "+path+"`")...)
		case known && owner != x.sys.uid && x.sys.uid != 0:
			out = append(out, bad(Note, path, fmt.Sprintf("owner %d", owner), "it belongs to another user, who runs the system", "")...)
		}
	}
	switch {
	case out != nil:
		return out
	case n == 0:
		return skip("there are none yet")
	}
	return ok("", fmt.Sprintf("%d folders, private", n))
}

// sockets looks at the sockets, and whether somebody listens there.
func sockets(_ context.Context, x *examination) []Result {
	var out []Result
	n := 0
	for _, path := range []string{x.Layout.ControlSocket(), x.Layout.HookSocket()} {
		st, err := os.Lstat(path)
		if err != nil {
			continue
		}
		n++
		if st.Mode()&fs.ModeSocket == 0 {
			out = append(out, bad(Problem, path, st.Mode().String(), "this is no socket: the start cannot listen there", "remove it")...)
			continue
		}
		if st.Mode().Perm()&0o077 != 0 {
			out = append(out, bad(Warning, path, mode(st.Mode()), "other users may speak to the system where the folder lets them in", "`quantumd restart` makes it anew")...)
		}
		if x.status == nil && !x.listening(path) {
			out = append(out, bad(Note, path, "", "nobody listens there: left by a process that was killed; the next start replaces it", "")...)
		}
	}
	switch {
	case out != nil:
		return out
	case n == 0:
		return skip("there are none: nothing runs")
	}
	return ok(filepath.Dir(x.Layout.ControlSocket()), fmt.Sprintf("%d sockets, private, somebody listens", n))
}

// listening says whether a process of this network namespace listens on a socket:
// connecting would tell too, and leave a line in its log.
func (x *examination) listening(path string) bool {
	const accepts = 1 << 16 // __SO_ACCEPTCON
	for line := range strings.SplitSeq(x.sys.fact("proc/net/unix"), "\n") {
		f := strings.Fields(line)
		if len(f) < 8 || f[7] != path {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 32); err == nil && flags&accepts != 0 {
			return true
		}
	}
	return false
}

// lock finds a process that holds the system's lock and does not answer.
func lock(_ context.Context, x *examination) []Result {
	path := filepath.Join(x.Layout.State, "lock")
	st, err := os.Stat(path)
	if err != nil {
		return skip("there is none")
	}
	pid := x.lockedBy(st)
	switch {
	case pid == 0 && x.status != nil && x.status.PID != 0:
		return bad(Note, path, "", "the running system's lock is not seen here: it runs in another container", "")
	case pid == 0:
		return ok(path, "free")
	case x.status == nil:
		return bad(Warning, path, fmt.Sprintf("held by process %d", pid), "a process holds the system and does not answer: it starts, ends, or hangs", fmt.Sprintf("wait a minute; then `quantumd logs`, and `kill %d`", pid))
	}
	return ok(path, fmt.Sprintf("held by process %d", pid))
}

// lockedBy finds who holds a flock, without trying to take it: a start just now
// would fail.
func (x *examination) lockedBy(st fs.FileInfo) int {
	inode, known := inodeOf(st)
	if !known {
		return 0
	}
	for line := range strings.SplitSeq(x.sys.fact("proc/locks"), "\n") {
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], ":"+strconv.FormatUint(inode, 10)) {
			pid, _ := strconv.Atoi(f[4]) // 0: of another namespace
			return pid
		}
	}
	return 0
}

// identity sees that data files are those of a frontend that knows itself.
func identity(_ context.Context, x *examination) []Result {
	path := filepath.Join(x.Layout.Root, "quantumd.json")
	id, err := epoch.LoadIdentity(path)
	switch {
	case err == nil:
		return ok(path, fmt.Sprintf("epoch %d", id.Epoch))
	case errors.Is(err, fs.ErrPermission):
		return skip("this user may not read " + path)
	case !errors.Is(err, fs.ErrNotExist):
		return bad(Problem, path, "", "the frontend's identity cannot be read: "+reason(err), "move "+x.Layout.Root+" away, then `quantumd restore`")
	}
	found, _ := filepath.Glob(filepath.Join(glob.Escape(x.Layout.DataDir()), "*", "d0")) // the pattern is good
	if len(found) > 0 {
		return bad(Warning, path, "", "there are data files and no identity: they are of an older installation, or of another frontend", "if they are an older installation's, the first start takes them over; else move "+x.Layout.Root+" away, then `quantumd restore`")
	}
	return skip("nothing ran here yet")
}

// database opens the database read-only and has SQLite check it.
func database(ctx context.Context, x *examination) []Result {
	path := x.Layout.Database
	st, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return skip("there is none yet")
		}
		return skip("cannot be looked at: " + reason(err))
	}
	ctx, cancel := context.WithTimeout(ctx, x.Limit*3/4)
	defer cancel()
	err = x.sys.database(ctx, path)
	var newer *store.NewerSchemaError
	switch {
	case err == nil:
		return ok(path, bytes(st.Size())+", quick_check: ok")
	case ctx.Err() != nil:
		return bad(Note, path, bytes(st.Size()), "too large to be checked in this time; a start checks it whole", "")
	case errors.As(err, &newer):
		return bad(Problem, path, "", reason(err), newer.Hint())
	case store.IsCorrupt(err):
		return bad(Problem, path, bytes(st.Size()), "the database is damaged: "+reason(err), "`quantumd restart`: the start sets it aside and fills a new one from the newest checkpoint; then look at the disk (dmesg, smartctl)")
	case errors.Is(err, fs.ErrPermission):
		return skip("this user may not read " + path)
	}
	return bad(Warning, path, bytes(st.Size()), "cannot be opened: "+reason(err), "see disk-writable and folder-modes")
}
