package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// place is a folder of the layout, and the nearest one that is there.
type place struct {
	what, path, there string
}

// places are the folders that a system writes to. Before a deploy the defaults.
func (x *examination) places() []place {
	var out []place
	for _, p := range []place{{what: "data", path: x.Layout.Root}, {what: "state", path: x.Layout.State}, {what: "database", path: filepath.Dir(x.Layout.Database)}} {
		if p.path == "" || p.path == "." {
			continue
		}
		p.there = existing(p.path)
		if !slices.ContainsFunc(out, func(q place) bool { return q.path == p.path }) {
			out = append(out, p)
		}
	}
	return out
}

func (p place) String() string { return p.what + ": " + p.path }

// disks asks something of the disk below each place.
func (x *examination) disks(ask func(p place, d disk) []Result) []Result {
	var out []Result
	for _, p := range x.places() {
		d, err := x.sys.statfs(p.there)
		switch {
		case errors.Is(err, errUnknown):
			return skip(err.Error())
		case err != nil:
			out = append(out, bad(Problem, p.String(), "", "the file system does not answer: "+reason(err), "look at the kernel's log (dmesg), and at the mounts")...)
		default:
			out = append(out, ask(p, d)...)
		}
	}
	return out
}

func diskWritable(_ context.Context, x *examination) []Result {
	return x.disks(func(p place, d disk) []Result {
		if d.readOnly {
			return bad(Problem, p.String(), d.kind+", read-only", "nothing can be written there", "mount it writable (`mount -o remount,rw`), or name another folder; after an error of the disk look at dmesg first")
		}
		f, err := os.CreateTemp(p.there, ".quantumd-doctor-")
		if err == nil {
			_, err = f.Write([]byte("x"))
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
		switch {
		case errors.Is(err, fs.ErrPermission) && x.Stage == Everything && x.sys.uid != 0 && !x.Below:
			return bad(Note, p.String(), "", "this user may not write there; the installed system runs as root", "")
		case err != nil:
			return bad(Problem, p.String(), "", reason(err), "make the folder writable for the user that runs the system, or name another one")
		}
		return ok(p.String(), "writable")
	})
}

// Free space below which a system cannot work, beside its data files.
const (
	leastState = 64 * mib
	goodState  = 512 * mib
)

func diskSpace(_ context.Context, x *examination) []Result {
	c := x.settings()
	return x.disks(func(p place, d disk) []Result {
		measured := fmt.Sprintf("%s of %s free", bytes(d.free), bytes(d.total))
		least, good, of := int64(leastState), int64(goodState), "the database and copies of index files"
		if p.what == "data" {
			least = 2*int64(c.ZdbDataSize) + leastState
			good = max(4*int64(c.ZdbDataSize), min(int64(c.CacheSize), d.total/4)) + leastState
			if x.status != nil {
				good = least + 2*int64(c.ZdbDataSize) // the cache is there already
			}
			of = fmt.Sprintf("data files of %s and a cache of up to %s", c.ZdbDataSize, c.CacheSize)
		}
		switch {
		case d.free < least:
			return bad(Problem, p.String(), measured, fmt.Sprintf("%s need at least %s", of, bytes(least)), "free some space, or name a folder on another disk")
		case d.free < good:
			return bad(Warning, p.String(), measured, fmt.Sprintf("%s would like %s", of, bytes(good)), "free some space, or lower cache_size")
		}
		return ok(p.String(), measured)
	})
}

func diskInodes(_ context.Context, x *examination) []Result {
	return x.disks(func(p place, d disk) []Result {
		if d.files == 0 {
			return ok(p.String(), d.kind+" does not count inodes")
		}
		measured := fmt.Sprintf("%d of %d inodes free", d.nodes, d.files)
		switch {
		case d.nodes < 256:
			return bad(Problem, p.String(), measured, "no more files can be made there", "remove files, or name a folder on another disk")
		case d.nodes < 10_000:
			return bad(Warning, p.String(), measured, "each data file and its index take two files", "remove files, or name a folder on another disk")
		}
		return ok(p.String(), measured)
	})
}

func diskType(_ context.Context, x *examination) []Result {
	return x.disks(func(p place, d disk) []Result {
		switch d.kind {
		case "tmpfs", "ramfs":
			return bad(Warning, p.String(), d.kind, "it is in memory, and gone with the next boot: what is not on the backends then is lost", "name a folder on a disk")
		case "overlay":
			return bad(Warning, p.String(), d.kind, "it is a container's own layer, and gone with the container", "give the container a volume for this folder")
		case "nfs", "smb", "smb2", "cifs", "9p", "ceph":
			return bad(Warning, p.String(), d.kind, "it is a network's: locks and fsync keep their promise only as far as its server does", "name a folder on a local disk")
		case "fuse":
			return bad(Warning, p.String(), d.kind, "it is a FUSE file system: whether fsync is durable depends on it", "name a folder on a local disk")
		case "vfat", "exfat":
			return bad(Problem, p.String(), d.kind, "it knows neither modes nor owners: secrets would be open to all", "name a folder on ext4, xfs, btrfs or zfs")
		case "squashfs":
			return bad(Problem, p.String(), d.kind, "it is read-only for ever", "name a folder on a disk")
		}
		return ok(p.String(), d.kind)
	})
}

// diskRename does what each careful write does: a file by another name, synced,
// renamed, the folder synced.
func diskRename(_ context.Context, x *examination) []Result {
	var out []Result
	for _, p := range x.places() {
		err := x.sys.durable(p.there)
		switch {
		case errors.Is(err, errUnknown):
			return skip(err.Error())
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			out = append(out, Result{Subject: p.String(), Severity: Skipped, Cause: "this user may not write there"})
		case err != nil:
			out = append(out, bad(Problem, p.String(), "", "a file cannot be replaced durably: "+reason(err), "name a folder on a local disk with ext4, xfs, btrfs or zfs")...)
		default:
			out = append(out, ok(p.String(), "replaced, synced")...)
		}
	}
	return out
}

// What a disk should do: an fsync of an application waits for one of the disk,
// and data is written once and read once on its way.
const (
	slowSync  = 50 * time.Millisecond
	slowWrite = 20.0 // MiB/s
)

func diskSpeed(ctx context.Context, x *examination) []Result {
	p := x.places()
	if len(p) == 0 {
		return skip("no folder is named")
	}
	data := p[0]
	d, err := x.sys.statfs(data.there)
	if err == nil && d.free < 4*trialSize {
		return skip("too little space to measure")
	}
	s, err := x.sys.measure(ctx, data.there)
	switch {
	case errors.Is(err, errUnknown):
		return skip(err.Error())
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return skip("this user may not write to " + data.there)
	case err != nil:
		return bad(Warning, data.String(), "", "could not be measured: "+reason(err), "see disk-writable and disk-space")
	}
	measured := fmt.Sprintf("fsync %s (median), %s (95 %%); %.0f MiB/s", s.p50.Round(10*time.Microsecond), s.p95.Round(10*time.Microsecond), s.write)
	switch {
	case s.p95 > slowSync:
		return bad(Warning, data.String(), measured, "syncing is slow: so is every program that calls fsync", "use an SSD, or a controller with a cache of its own, for zdb_root_path")
	case s.write < slowWrite:
		return bad(Warning, data.String(), measured, "writing is slow: uploads and the mount wait for it", "use a faster disk for zdb_root_path")
	}
	return ok(data.String(), measured)
}

const trialSize = 32 * mib

// diskHanding sees that a real zstor gets its files as hard links.
func diskHanding(_ context.Context, x *examination) []Result {
	if !x.external("zstor") {
		return skip("only a real zstor is handed files")
	}
	handing, data := existing(filepath.Join(x.Layout.Root, ".zstor")), existing(x.Layout.DataDir())
	a, err := x.sys.statfs(handing)
	b, err2 := x.sys.statfs(data)
	if err := errors.Join(err, err2); err != nil {
		return skip(reason(err))
	}
	if a.id != b.id {
		return bad(Problem, data, "another file system than "+handing, "files cannot be handed to the real zstor by hard links", "keep "+x.Layout.Root+" on one file system")
	}
	return ok(data, "one file system with "+handing)
}
