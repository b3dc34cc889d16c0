package remote

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/crypto/blake2b"

	"github.com/threefoldtech/quantumd/engine/zstor/record"
)

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sumOf gives the whole-file checksum and length.
func sumOf(ctx context.Context, path string) (record.Checksum, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return record.Checksum{}, 0, err
	}
	defer f.Close() // read only
	h, err := blake2b.New(16, nil)
	if err != nil {
		return record.Checksum{}, 0, err
	}
	n, err := io.Copy(h, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return f.Read(p)
	}))
	return record.Checksum(h.Sum(nil)), n, err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // read only
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Sync(), f.Close())
}
