package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/engine/zstor"
	"github.com/threefoldtech/quantumd/engine/zstor/monitor"
	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

// Handler serves the daemon's requests with an Engine. Wait is called when its
// server has ended.
type Handler struct {
	Engine *zstor.Engine

	later sync.WaitGroup
}

var _ monitor.Handler = (*Handler)(nil)

// lateTries and lateDelay: a non-blocking store is tried so often, with growing
// pauses. The original tries for ever and without a pause.
const lateTries = 5

var lateDelay = time.Second

// Store stores a file, or each regular file directly in a folder. A non-blocking
// one goes on after the answer; what it cannot do after five tries is left undone,
// and a caller who must know checks.
func (h *Handler) Store(ctx context.Context, r monitor.Store) error {
	if !r.NonBlocking {
		return h.store(ctx, r)
	}
	h.later.Go(func() {
		delay := lateDelay
		for range lateTries {
			if h.store(ctx, r) == nil {
				return
			}
			select {
			case <-time.After(delay):
				delay *= 4
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// Wait waits for non-blocking stores; they end with the server's context.
func (h *Handler) Wait() { h.later.Wait() }

func (h *Handler) store(ctx context.Context, r monitor.Store) error {
	st, err := os.Stat(r.File)
	if err != nil {
		return fmt.Errorf("error during accessing local storage for %s: %w", r.File, err)
	}
	files := []string{r.File}
	if st.IsDir() {
		if files, err = regularFiles(r.File); err != nil {
			return err
		}
	}
	for _, f := range files {
		path, err := objectPath(f, r.KeyPath)
		if err != nil {
			return fmt.Errorf("error during accessing local storage for %s: %w", f, err)
		}
		if _, err := h.Engine.StoreFileWith(ctx, path, f, zstor.StoreOptions{SkipUnchanged: true}); err != nil {
			return fmt.Errorf("error during storage: %w", err)
		}
		if r.Delete {
			if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("stored, but not removed: %w", err)
			}
		}
	}
	return nil
}

// regularFiles lists those directly in dir; links and folders are left out.
func regularFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// objectPath is the path under which file is stored: in keyPath or its own folder,
// absolute and without links. The folder must exist, the file there need not.
func objectPath(file, keyPath string) (string, error) {
	dir := filepath.Dir(file)
	if keyPath != "" {
		dir = keyPath
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	p := filepath.Join(dir, filepath.Base(file))
	resolved, err := filepath.EvalSymlinks(p)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	return resolved, err
}

// Retrieve writes the file back to where it came from: its path below the root of
// the config, or the absolute path itself.
func (h *Handler) Retrieve(ctx context.Context, r monitor.Retrieve) error {
	dst := r.File
	if root := h.Engine.Config().Root; root != "" && !filepath.IsAbs(dst) {
		dst = filepath.Join(root, dst)
	}
	if _, err := h.Engine.Lookup(ctx, r.File); err != nil {
		return fmt.Errorf("error during metadata: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return err
	}
	if _, err := h.Engine.RetrieveFile(ctx, r.File, dst); err != nil {
		return fmt.Errorf("error during storage: %w", err)
	}
	return nil
}

// Rebuild rebuilds by file or key. A record that comes with the request is not
// used: who may write to the socket must not choose what is written.
func (h *Handler) Rebuild(ctx context.Context, r monitor.Rebuild) error {
	var err error
	switch {
	case r.Key != "":
		_, err = h.Engine.RebuildKey(ctx, r.Key, zstor.RebuildOptions{Deep: true})
	case r.File != "":
		_, err = h.Engine.Rebuild(ctx, r.File, zstor.RebuildOptions{Deep: true})
	default:
		err = errors.New("a record without file or key is not accepted")
	}
	return err
}

// Check gives the stored checksum.
func (h *Handler) Check(ctx context.Context, path string) (record.Checksum, bool, error) {
	return h.Engine.Check(ctx, path)
}
