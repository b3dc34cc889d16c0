// Package remote stores, brings back and rebuilds objects through the daemon of
// the real zstor, or any that speaks its socket protocol (see package monitor).
//
//	r, err := remote.New(engine, remote.Options{Daemon: zstor.DaemonConfig{Socket: "/run/zstor.sock"}, …})
//	obj, err := r.StoreFile(ctx, "/data/zdb/data/ns/d17@1.4096", "/data/zdb/data/ns/d17")
//	err = r.RetrieveObjectFile(ctx, obj, "/data/zdb/data/ns/d17")
//
// It has the methods of [zstor.Engine] that move whole files, and the same
// promises, which the daemon alone does not give: what was stored is looked up
// and compared, what is brought back is compared and synced before it is shown,
// and a rebuild is verified. For that, and for what the socket cannot do, it
// keeps an Engine over the same backends with the same key.
//
// It starts no daemon, and repeats nothing by itself.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
	"github.com/threefoldtech/quantumd/internal/durable"
)

// Options says where the daemon is.
type Options struct {
	// Daemon is written to ConfigFile at a Reload; its Socket is needed.
	Daemon zstor.DaemonConfig
	// ConfigFile is the file that the daemon was started with; empty: Reload
	// cannot tell the daemon.
	ConfigFile string
	// Staging is a folder, best on the file system of what is stored, for the
	// names under which files are handed to the daemon.
	Staging string
	// Timeout bounds one request, for the daemon itself has no end; zero: 30 min.
	// It works one request after the other, so it has to cover those before it.
	Timeout time.Duration
	Logger  *slog.Logger // nil discards
}

// Remote is safe for concurrent use. Its engine is the caller's to close.
type Remote struct {
	engine *zstor.Engine
	client *monitor.Client
	opts   Options
	log    *slog.Logger
	busy   locks
}

// New makes a Remote; it does not connect yet.
func New(engine *zstor.Engine, o Options) (*Remote, error) {
	if o.Daemon.Socket == "" || o.Staging == "" {
		return nil, errors.New("zstor remote: socket and staging folder are needed")
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Staging, 0o700); err != nil {
		return nil, err
	}
	return &Remote{engine: engine, client: monitor.NewClient(o.Daemon.Socket), opts: o, log: o.Logger.With("component", "zstor-remote")}, nil
}

// DaemonError says that the daemon does not answer: not there, or not in time.
// It says nothing of what became of the request.
type DaemonError struct {
	Socket string
	Op     string
	Err    error
}

func (e *DaemonError) Error() string {
	return fmt.Sprintf("zstor daemon at %s: %s: %v", e.Socket, e.Op, e.Err)
}

func (e *DaemonError) Unwrap() error { return e.Err }

// Hint names the remedy.
func (e *DaemonError) Hint() string {
	if errors.Is(e.Err, context.DeadlineExceeded) {
		return "the zstor daemon hangs or has much to do: look at its log, and restart it if nothing moves"
	}
	return "start the zstor daemon (`zstor -c FILE monitor`), or see that its config names this socket"
}

// ask runs one request under the timeout.
func (r *Remote) ask(ctx context.Context, op string, f func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	err := f(limited)
	var answered *monitor.RemoteError
	switch {
	case err == nil, ctx.Err() != nil:
		return errors.Join(ctx.Err(), err)
	case errors.As(err, &answered):
		return fmt.Errorf("%s: %w", op, err)
	}
	return &DaemonError{Socket: r.opts.Daemon.Socket, Op: op, Err: err}
}

// StoreFile stores the file under path, and finds out what was stored: the
// daemon only says that it is done.
func (r *Remote) StoreFile(ctx context.Context, path, file string) (zstor.Object, error) {
	cfg := r.engine.Config()
	dir, name, err := daemonPath(&cfg, path)
	if err != nil {
		return zstor.Object{}, err
	}
	defer r.busy.lock(path)()
	sum, size, err := sumOf(ctx, file)
	if err != nil {
		return zstor.Object{}, err
	}
	before, err := r.engine.Lookup(ctx, path)
	known := err == nil && before.Checksum == sum
	staged, err := r.stage(file, name)
	if err != nil {
		return zstor.Object{}, err
	}
	defer os.RemoveAll(filepath.Dir(staged)) // a leftover only takes room, and New's caller sweeps it
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return zstor.Object{}, err
	}
	err = r.ask(ctx, "store "+path, func(ctx context.Context) error {
		return r.client.Store(ctx, monitor.Store{File: staged, KeyPath: dir})
	})
	if err != nil {
		return zstor.Object{}, err
	}
	if known {
		// The daemon skips content that it knows, also when its shards are gone.
		if _, err := r.RebuildKey(ctx, before.Key, zstor.RebuildOptions{}); err != nil {
			return zstor.Object{}, err
		}
	}
	obj, err := r.engine.Lookup(ctx, path)
	if err != nil {
		return obj, fmt.Errorf("the daemon stored %s, but: %w", path, err)
	}
	if obj.Checksum != sum {
		return obj, fmt.Errorf("%w: %s is stored with the checksum %x, the file had %x", zstor.ErrDamaged, path, obj.Checksum, sum)
	}
	if obj.Size < 0 {
		obj.Size = size // its checksum says so
	}
	return obj, nil
}

// stage gives the file a name in a folder of its own, whose last part is that
// of the object's path: of it the daemon makes the key. It is a hard link, for
// the daemon follows symbolic ones, or a copy from another file system. It is
// never at a path that the daemon writes to: that truncates in place, and a
// request that we gave up may come late.
func (r *Remote) stage(file, name string) (string, error) {
	dir, err := os.MkdirTemp(r.opts.Staging, "store-")
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	staged := filepath.Join(dir, name)
	if err = os.Link(file, staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = copyFile(file, staged)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return staged, nil
}

// RetrieveObjectFile brings an object to dst, mode 0600. dst appears, or
// changes, only when the whole content is there, verified and synced.
func (r *Remote) RetrieveObjectFile(ctx context.Context, obj zstor.Object, dst string) error {
	if obj.Path == "" { // the socket takes paths only
		return r.engine.RetrieveObjectFile(ctx, obj, dst)
	}
	cfg := r.engine.Config()
	dir, name, err := daemonPath(&cfg, obj.Path)
	if err != nil {
		return err
	}
	landing := filepath.Join(dir, name) // where the daemon puts it
	if same, err := sameName(landing, dst); err != nil || same {
		return errors.Join(err, r.engine.RetrieveObjectFile(ctx, obj, dst)) // it would be written in place
	}
	defer r.busy.lock(obj.Path)()
	if err := removeFile(landing); err != nil {
		return err
	}
	err = r.ask(ctx, "retrieve "+obj.Path, func(ctx context.Context) error {
		return r.client.Retrieve(ctx, monitor.Retrieve{File: landing})
	})
	if err != nil {
		return errors.Join(err, removeFile(landing))
	}
	if err := r.install(ctx, obj, landing, dst); err != nil {
		return errors.Join(err, removeFile(landing))
	}
	return nil
}

// install shows what the daemon brought, once it is what it should be.
func (r *Remote) install(ctx context.Context, obj zstor.Object, landing, dst string) error {
	sum, _, err := sumOf(ctx, landing)
	if err != nil {
		return err
	}
	if sum != obj.Checksum {
		return fmt.Errorf("%w: the daemon brought %s with the checksum %x, want %x", zstor.ErrDamaged, obj.Path, sum, obj.Checksum)
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return err
	}
	if err := syncFile(landing); err != nil {
		return err
	}
	if err := os.Rename(landing, dst); err != nil { // another file system
		temp := dst + ".~"
		if err := copyFile(landing, temp); err != nil {
			return errors.Join(err, removeFile(temp))
		}
		err := syncFile(temp)
		if err == nil {
			err = os.Rename(temp, dst)
		}
		if err != nil {
			return errors.Join(err, removeFile(temp))
		}
		if err := removeFile(landing); err != nil {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(dst))
}

// Check gives the checksum of the content stored for path, as the daemon knows
// it.
func (r *Remote) Check(ctx context.Context, path string) (record.Checksum, bool, error) {
	cfg := r.engine.Config()
	dir, name, err := daemonPath(&cfg, path)
	if err != nil {
		return record.Checksum{}, false, err
	}
	var sum record.Checksum
	var found bool
	err = r.ask(ctx, "check "+path, func(ctx context.Context) error {
		var err error
		sum, found, err = r.client.Check(ctx, filepath.Join(dir, name))
		return err
	})
	if err != nil || found {
		return sum, found, err
	}
	// The daemon says so also when nobody answered it.
	return r.engine.Check(ctx, path)
}

// Rebuild is RebuildKey by path.
func (r *Remote) Rebuild(ctx context.Context, path string, opts zstor.RebuildOptions) (zstor.Report, error) {
	cfg := r.engine.Config()
	key, err := cfg.ObjectKey(path)
	if err != nil {
		return zstor.Report{}, err
	}
	report, err := r.RebuildKey(ctx, key, opts)
	report.Object.Path = path
	return report, err
}

// RebuildKey has the daemon rebuild an object, verifies what came of it, and
// does itself what the daemon does not: objects whose shard numbers are not
// those of the config (the daemon would destroy them), shards that are to leave
// living backends, metadata while one backend is away.
func (r *Remote) RebuildKey(ctx context.Context, key string, opts zstor.RebuildOptions) (zstor.Report, error) {
	if opts.LeaveUnreachable { // the daemon knows no such thing
		return r.engine.RebuildKey(ctx, key, opts)
	}
	defer r.busy.lock(key)()
	before, err := r.engine.VerifyKey(ctx, key, zstor.VerifyOptions{Deep: opts.Deep})
	if err != nil {
		return before, err
	}
	if done(before, opts) {
		return before, nil
	}
	cfg := r.engine.Config()
	if before.Object.K != cfg.MinimalShards || before.Object.N != cfg.ExpectedShards {
		return r.engine.RebuildKey(ctx, key, opts)
	}
	err = r.ask(ctx, "rebuild "+key, func(ctx context.Context) error {
		return r.client.Rebuild(ctx, monitor.Rebuild{Key: key})
	})
	if err != nil {
		r.log.Warn("the daemon did not rebuild an object; it is done without it", "key", key, "err", err)
		if ctx.Err() != nil {
			return before, err
		}
		report, own := r.engine.RebuildKey(ctx, key, opts)
		if own != nil {
			own = errors.Join(own, err)
		}
		return report, own
	}
	after, err := r.engine.VerifyKey(ctx, key, zstor.VerifyOptions{Deep: true})
	if err != nil {
		return after, err
	}
	if !done(after, opts) {
		report, err := r.engine.RebuildKey(ctx, key, opts)
		report.Rebuilt = append(moved(before, report), report.Rebuilt...)
		report.MetaWritten = true
		return report, err
	}
	after.Rebuilt, after.MetaWritten = moved(before, after), true
	return after, nil
}

// done says whether nothing is left that these options would repair.
func done(r zstor.Report, opts zstor.RebuildOptions) bool {
	if r.Healthy() {
		return true
	}
	for _, m := range r.Meta {
		if m.State != zstor.Good {
			return false
		}
	}
	for _, s := range r.Shards {
		if s.State != zstor.Good && (s.State != zstor.Stray || opts.Evacuate) {
			return false
		}
	}
	return len(r.Shards) == r.Object.N && r.Object.N > 0
}

// moved lists the shards that have other places than before.
func moved(before, after zstor.Report) []int {
	old := map[int]string{}
	for _, s := range before.Object.Shards {
		old[s.Index] = place(s)
	}
	var out []int
	for _, s := range after.Object.Shards {
		if old[s.Index] != place(s) {
			out = append(out, s.Index)
		}
	}
	return out
}

func place(s zstor.Shard) string {
	return fmt.Sprintf("%v/%s/%x", s.Backend.Address, s.Backend.Namespace, s.Keys)
}

// daemonPath is where the daemon knows path: folder and name, without symbolic
// links, which it resolves before it makes the key, and below the root as its
// config names it.
func daemonPath(cfg *zstor.Config, path string) (dir, name string, err error) {
	hashed, err := cfg.HashedPath(path)
	if err != nil {
		return "", "", err
	}
	full := hashed
	if cfg.Root != "" {
		root, err := filepath.EvalSymlinks(cfg.Root)
		if err != nil {
			return "", "", err
		}
		full = filepath.Join(root, hashed)
	}
	if !filepath.IsAbs(full) || strings.HasSuffix(full, "/") {
		return "", "", fmt.Errorf("zstor remote: %q is not the absolute path of a file", path)
	}
	return filepath.Dir(full), filepath.Base(full), nil
}

// DaemonRoot is what root has to be in the daemon's config: without symbolic
// links, as far as it is there.
func DaemonRoot(root string) (string, error) {
	if root == "" {
		return "", nil
	}
	resolved, err := filepath.EvalSymlinks(root)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Clean(root), nil
	}
	return resolved, err
}

// sameName says whether b is the file a, whose folder has no symbolic links.
func sameName(a, b string) (bool, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(b))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return filepath.Join(dir, filepath.Base(b)) == a, err
}

// locks has one request at a time for a path or key.
type locks struct {
	mu   sync.Mutex
	held map[string]*entry
}

type entry struct {
	sync.Mutex
	users int
}

// lock returns what unlocks.
func (l *locks) lock(name string) func() {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*entry{}
	}
	e := l.held[name]
	if e == nil {
		e = &entry{}
		l.held[name] = e
	}
	e.users++
	l.mu.Unlock()
	e.Lock()
	return func() {
		e.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(l.held, name)
		}
	}
}
