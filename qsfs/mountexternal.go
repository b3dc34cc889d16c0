package qsfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/internal/boottime"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// snapshotRounds: the real zdbfs ends a flush after the first file that had
// changes in memory, so it is asked again for the others. One that has none
// costs nothing.
const snapshotRounds = 16

// snapshotPatience bounds how long a cut waits for it: a zdbfs whose zdb hangs
// never answers.
const snapshotPatience = time.Minute

// externalFS says whether a zdbfs in another process shows the tree.
func (s *System) externalFS() bool { return s.cfg.Engine.Zdbfs == config.External }

// cutTree runs cut while nothing changes: under the tree's lock. A zdbfs in
// another process cannot be held; it is asked to write out what it has.
func (s *System) cutTree(ctx context.Context, cut func(context.Context) error) (uint64, error) {
	if !s.externalFS() {
		return s.tree.Cut(ctx, cut)
	}
	if err := s.snapshot(ctx); err != nil {
		s.log.Warn("zdbfs did not write out what it holds; the checkpoint has what it stored before", "err", err)
	}
	err := cut(ctx)
	return s.check.nextSeq.Load(), err
}

// snapshot asks an external zdbfs to write out what it holds. Where it does not
// run, nothing holds anything.
func (s *System) snapshot(ctx context.Context) error { return FlushZdbfs(ctx, s.cfg.QSFSMountpoint) }

// unsafeFor is how long ago the oldest change was made that no checkpoint holds.
// Of a zdbfs in another process only the time since the newest checkpoint is known.
func (s *System) unsafeFor() time.Duration {
	if !s.externalFS() {
		return s.check.dirty.age()
	}
	return boottime.Now() - time.Duration(s.check.committedAt.Load())
}

// mountExternal starts the zdbfs, or leaves that to whoever runs it.
func (s *System) mountExternal(ctx context.Context, stops *stopStack) error {
	if err := s.startProgram(ctx, zdbfsService, stops); err != nil || s.opts.manager == nil {
		return err
	}
	stops.push(func() error { return s.unmount(ctx) })
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !mountedAs(s.cfg.QSFSMountpoint, "fuse.zdbfs") {
		if !wait(ctx, 50*time.Millisecond) {
			return fmt.Errorf("zdbfs has not mounted %s: see its log: %w", s.cfg.QSFSMountpoint, ctx.Err())
		}
	}
	return nil
}

// unmountExternal ends the zdbfs, after it wrote out what it holds: at its end
// it may leave some of that.
func (s *System) unmountExternal(ctx context.Context) error {
	if s.opts.manager == nil {
		return nil // somebody else's
	}
	ctx = context.WithoutCancel(ctx)
	err := s.snapshot(ctx)
	if err != nil {
		err = fmt.Errorf("zdbfs: write out before the end: %w", err)
	}
	return errors.Join(err, s.stopProgram(ctx, zdbfsService))
}

// wakeZdbfs keeps applications from seeing what a real zdbfs answers to the first
// command on each of its connections after zdb was away: that a file is not
// there. A listing that is interrupted so can even be stored without some names.
// The size of the file system is asked of both namespaces, and costs nothing.
func (s *System) wakeZdbfs(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.zdbBack:
		}
		if !mountedAs(s.cfg.QSFSMountpoint, "fuse.zdbfs") || dials(ctx, s.layout.ZdbSocket(), startPatience) != nil {
			continue
		}
		asked := make(chan error, 1)
		go func() { asked <- askSize(s.cfg.QSFSMountpoint) }() // ends with the kernel's answer
		select {
		case err := <-asked:
			if err != nil {
				s.log.Warn("zdbfs does not find its zdb again", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// askSize asks until each connection was used once.
func askSize(path string) (err error) {
	for range 4 {
		var st syscall.Statfs_t
		if err = syscall.Statfs(path, &st); err == nil {
			return nil
		}
	}
	return err
}

// zdbIsBack tells that a zdb serves that was away.
func (s *System) zdbIsBack() {
	if !s.externalFS() {
		return
	}
	select {
	case s.zdbBack <- struct{}{}:
	default: // told already
	}
}

// fenced is called once when another frontend has taken over: a zdbfs in
// another process is unmounted, for it cannot be made read-only.
func (s *System) fenced(ctx context.Context) {
	if !s.externalFS() {
		return
	}
	stop := s.opts.stopZdbfs
	switch {
	case s.opts.manager != nil:
		stop = func(ctx context.Context) error { return s.stopProgram(ctx, zdbfsService) }
	case stop == nil:
		s.log.Error("another frontend has taken over: stop zdbfs, what it writes is stored nowhere", "mount", s.cfg.QSFSMountpoint)
		return
	}
	if err := stop(ctx); err != nil {
		s.log.Error("another frontend has taken over, and the file system could not be unmounted", "mount", s.cfg.QSFSMountpoint, "err", err)
	}
}

// mountedAs says whether a file system of this type is mounted on path. It asks
// the kernel's table, for a look at the path may hang.
func mountedAs(path, kind string) bool {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close() // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) > 4 && len(types) > 0 && unescapeMount(fields[4]) == filepath.Clean(path) && types[0] == kind {
			return true
		}
	}
	return false
}

// unescapeMount reads a path of the mount table, which writes blanks in octal.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
