package zstor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Retrieve writes the content stored for path to w. Every byte that w gets was
// authenticated; that it is the whole content is known only at the end, from the
// error. RetrieveFile shows nothing before that.
func (e *Engine) Retrieve(ctx context.Context, path string, w io.Writer) (Object, error) {
	return e.retrieve(ctx, path, nil, w)
}

// RetrieveObject is Retrieve without a look-up.
func (e *Engine) RetrieveObject(ctx context.Context, obj Object, w io.Writer) error {
	_, err := e.retrieve(ctx, obj.Path, &obj, w)
	return err
}

// RetrieveFile puts the content stored for path into the file dst, mode 0600. dst
// appears, or changes, only when the whole content is there, verified and synced.
func (e *Engine) RetrieveFile(ctx context.Context, path, dst string) (Object, error) {
	return e.retrieveFile(dst, func(w io.Writer) (Object, error) { return e.retrieve(ctx, path, nil, w) })
}

// RetrieveObjectFile is RetrieveFile without a look-up.
func (e *Engine) RetrieveObjectFile(ctx context.Context, obj Object, dst string) error {
	_, err := e.retrieveFile(dst, func(w io.Writer) (Object, error) { return e.retrieve(ctx, obj.Path, &obj, w) })
	return err
}

func (e *Engine) retrieveFile(dst string, get func(io.Writer) (Object, error)) (obj Object, err error) {
	dir := filepath.Dir(dst)
	f, err := os.CreateTemp(dir, "."+filepath.Base(dst)+".*.part") // mode 0600
	if err != nil {
		return obj, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // err is the reason
			_ = os.Remove(f.Name()) // a leftover is only a file named .part
		}
	}()
	if obj, err = get(f); err != nil {
		return obj, err
	}
	if err = f.Sync(); err != nil {
		return obj, err
	}
	if err = f.Close(); err != nil {
		return obj, err
	}
	if err = os.Rename(f.Name(), dst); err != nil {
		return obj, err
	}
	return obj, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // read only
	return d.Sync()
}

func (e *Engine) retrieve(ctx context.Context, path string, known *Object, w io.Writer) (obj Object, err error) {
	key := ""
	if known != nil {
		key = known.Key
	}
	ctx, o, err := e.begin(ctx, "retrieve", path, key)
	if err != nil {
		return obj, err
	}
	defer o.finish(&err)
	if known != nil {
		obj = *known
	} else if obj, err = o.find(ctx, true); err != nil {
		return obj, err
	}
	f, packed, err := o.open(ctx, &obj, byTag)
	if errors.Is(err, errTag) { // some shard lied: find out which
		f, packed, err = o.open(ctx, &obj, byChecksum)
	}
	if err != nil {
		return obj, err
	}
	defer f.free()
	if err := o.decode(&obj, packed, w); err != nil {
		return obj, err
	}
	o.event.Bytes = obj.Size
	o.stats.retrieved.Add(1)
	return obj, nil
}

// find reads the record of the operation's key.
func (o *op) find(ctx context.Context, quick bool) (Object, error) {
	st, err := o.readMeta(ctx, o.event.Key, quick)
	if err != nil {
		return Object{}, err
	}
	g, err := st.newest()
	if err != nil {
		return Object{}, err
	}
	return o.objectAt(g, st), nil
}

// errTag: shards were fetched, and together they are not the sealed object.
var errTag = fmt.Errorf("%w: sealed object", ErrDamaged)

// open fetches the object and decrypts it where it is; the caller frees fetched.
func (o *op) open(ctx context.Context, obj *Object, p proof) (*fetched, []byte, error) {
	f, err := o.fetch(ctx, obj, nil, p)
	if err != nil {
		return nil, nil, err
	}
	sealed, err := f.set.code.Unpad(f.all)
	if err == nil {
		var packed []byte
		if packed, err = obj.DataKey.OpenInPlace(sealed); err == nil {
			return f, packed, nil
		}
	}
	f.free()
	return nil, nil, fmt.Errorf("%w: %w", errTag, err)
}

// decode decompresses the content and compares it with its record.
func (o *op) decode(obj *Object, packed []byte, w io.Writer) error {
	limit := o.opts.MaxObject
	if obj.Size >= 0 {
		limit = obj.Size
	}
	n, sum, err := unpack(bytes.NewReader(packed), w, limit)
	if err != nil {
		return err
	}
	if sum != obj.Checksum || obj.Size >= 0 && n != obj.Size {
		return checksumError(sum, obj.Checksum)
	}
	obj.Size = n
	return nil
}
