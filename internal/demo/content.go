package demo

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// What is written: a tree of real source files, or generated ones, and random
// data that does not compress.

const (
	randomFiles = 4
	randomSize  = 50 << 20 // each
	leastFiles  = 1000
	generated   = 2000
	writers     = 4
	readers     = 4
)

// sum is what a file must hash to.
type sum struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 []byte `json:"sha256"`
}

func newHash() hash.Hash { return sha256.New() }

// item is one file to be written.
type item struct {
	path string
	open func() (io.ReadCloser, error)
}

// ErrTooFew says that the source is no tree worth showing.
var ErrTooFew = errors.New("fewer than 1000 files in the source")

// items lists what is written: the regular files below source, links followed;
// without a source, generated ones; and the random files.
func items(source string) ([]item, error) {
	var out []item
	if source == "" {
		for i := range generated {
			out = append(out, made(fmt.Sprintf("files/%02d/%04d.txt", i%50, i), uint64(i), 500+(i*7919)%60_000))
		}
	} else {
		found, err := walk(source)
		if err != nil {
			return nil, err
		}
		if len(found) < leastFiles {
			return nil, fmt.Errorf("%s: %d files: %w", source, len(found), ErrTooFew)
		}
		out = found
	}
	for i := range randomFiles {
		out = append(out, made(fmt.Sprintf("random/%d", i), uint64(1<<32+i), randomSize))
	}
	return out, nil
}

func walk(source string) ([]item, error) {
	root, err := filepath.EvalSymlinks(source) // GOROOT may be a link
	if err != nil {
		return nil, err
	}
	var out []item
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		st, err := os.Stat(path) // follows a link
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
			return nil // a dangling link, or one to a folder
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		out = append(out, item{path: filepath.Join("source", rel), open: func() (io.ReadCloser, error) { return os.Open(path) }})
		return nil
	})
	return out, err
}

// made is a file of pseudo-random bytes that follow from its number.
func made(path string, seed uint64, size int) item {
	return item{path: path, open: func() (io.ReadCloser, error) {
		var key [32]byte
		for i := range 8 {
			key[i] = byte(seed >> (8 * i))
		}
		return io.NopCloser(io.LimitReader(rand.NewChaCha8(key), int64(size))), nil
	}}
}

// write puts everything into a target, and gives what each file must hash to.
func write(ctx context.Context, t target, source string) ([]sum, error) {
	list, err := items(source)
	if err != nil {
		return nil, err
	}
	made := map[string]bool{}
	for _, i := range list {
		if dir := filepath.Dir(i.path); !made[dir] {
			if err := t.mkdir(ctx, dir); err != nil {
				return nil, err
			}
			made[dir] = true
		}
	}
	sums := make([]sum, len(list))
	err = all(ctx, writers, len(list), func(ctx context.Context, i int) error {
		s, err := writeOne(ctx, t, list[i])
		if err != nil {
			return fmt.Errorf("write %s: %w", list[i].path, err)
		}
		sums[i] = s
		return nil
	})
	return sums, err
}

func writeOne(ctx context.Context, t target, i item) (sum, error) {
	in, err := i.open()
	if err != nil {
		return sum{}, err
	}
	defer in.Close() //nolint:errcheck // read only
	h := newHash()
	counted := &counter{r: io.TeeReader(in, h)}
	if err := t.write(ctx, i.path, counted); err != nil {
		return sum{}, err
	}
	return sum{Path: i.path, Size: counted.n, SHA256: h.Sum(nil)}, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// verify reads everything back. Every file that is not what it was is counted;
// the error tells of the first ones.
func verify(ctx context.Context, t target, sums []sum) error {
	var wrong atomic.Int64
	var mu sync.Mutex
	var first []error
	err := all(ctx, readers, len(sums), func(ctx context.Context, i int) error {
		ok, err := equal(ctx, t, sums[i])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && !ok {
			err = errors.New("its content is not what was written")
		}
		if err != nil {
			wrong.Add(1)
			mu.Lock()
			defer mu.Unlock()
			if len(first) < 5 {
				first = append(first, fmt.Errorf("%s: %w", sums[i].Path, err))
			}
		}
		return nil
	})
	if n := wrong.Load(); n > 0 {
		return fmt.Errorf("%d of %d files are wrong: %w", n, len(sums), errors.Join(first...))
	}
	return err
}

func total(sums []sum) (bytes int64) {
	for _, s := range sums {
		bytes += s.Size
	}
	return bytes
}

func saveSums(path string, sums []sum) error {
	text, err := json.Marshal(sums)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

func loadSums(path string) ([]sum, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var sums []sum
	return sums, json.Unmarshal(text, &sums)
}
