package qsfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// records shows a sequential namespace of the embedded zdb to the tree, without
// a network between: keys are 8-byte little-endian ids.
type records struct {
	ns    *server.Namespace
	touch func() error // asked before each change
}

var (
	_ tree.Records   = records{}
	_ tree.Existence = records{}
	_ tree.Lister    = records{}
)

func (r records) Get(ctx context.Context, id uint64) ([]byte, error) {
	return r.ns.Get(ctx, key(id))
}

func (r records) Insert(ctx context.Context, value []byte) (uint64, error) {
	if err := r.touch(); err != nil {
		return 0, err
	}
	k, err := r.ns.Set(ctx, nil, value)
	if err != nil {
		return 0, err
	}
	if len(k) != 8 {
		return 0, fmt.Errorf("namespace %s: a key of %d bytes: not in sequential mode", r.ns.Name(), len(k))
	}
	return binary.LittleEndian.Uint64(k), nil
}

func (r records) Update(ctx context.Context, id uint64, value []byte) error {
	if err := r.touch(); err != nil {
		return err
	}
	_, err := r.ns.Set(ctx, key(id), value)
	return err
}

func (r records) Delete(ctx context.Context, id uint64) error {
	if err := r.touch(); err != nil {
		return err
	}
	return r.ns.Delete(ctx, key(id))
}

// Exists and EachID let a check of the tree find missing blocks, and records
// that nothing leads to.
func (r records) Exists(ctx context.Context, id uint64) (bool, error) {
	_, err := r.ns.Stat(ctx, key(id))
	if errors.Is(err, backend.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (r records) EachID(ctx context.Context, fn func(id uint64) error) error {
	return eachID(ctx, r.ns.Scan, fn)
}

func eachID(ctx context.Context, scan func(context.Context, []byte) ([]backend.Entry, []byte, error), fn func(id uint64) error) error {
	for cursor := []byte(nil); ; {
		entries, next, err := scan(ctx, cursor)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := fn(binary.LittleEndian.Uint64(e.Key)); err != nil {
				return err
			}
		}
		cursor = next
	}
}

func (r records) Sync(ctx context.Context) error { return r.ns.Sync(ctx) }

func (r records) Stats() (entries, bytes, limit int64) {
	i := r.ns.Info()
	return i.Entries, i.Used, i.Limit
}

func key(id uint64) []byte { return binary.LittleEndian.AppendUint64(nil, id) }

// ConnRecords shows a sequential namespace of a zdb that is reached through a
// connection, the real one included, to a tree. Sync does nothing: such a zdb
// promises no more than its own settings (`--sync`) do.
func ConnRecords(c backend.Conn) tree.Records {
	return connRecords{c, func() error { return nil }}
}

type connRecords struct {
	conn  backend.Conn
	touch func() error // asked before each change
}

var (
	_ tree.Records   = connRecords{}
	_ tree.Existence = connRecords{}
	_ tree.Lister    = connRecords{}
)

func (r connRecords) Get(ctx context.Context, id uint64) ([]byte, error) {
	return r.conn.Get(ctx, key(id))
}

func (r connRecords) Insert(ctx context.Context, value []byte) (uint64, error) {
	if err := r.touch(); err != nil {
		return 0, err
	}
	k, err := r.conn.Set(ctx, nil, value)
	if err != nil {
		return 0, err
	}
	if len(k) != 8 {
		return 0, fmt.Errorf("a key of %d bytes: %w", len(k), backend.ErrMode)
	}
	return binary.LittleEndian.Uint64(k), nil
}

func (r connRecords) Update(ctx context.Context, id uint64, value []byte) error {
	if err := r.touch(); err != nil {
		return err
	}
	_, err := r.conn.Set(ctx, key(id), value)
	return err
}

func (r connRecords) Delete(ctx context.Context, id uint64) error {
	if err := r.touch(); err != nil {
		return err
	}
	return r.conn.Delete(ctx, key(id))
}

// Exists and EachID are those of records.
func (r connRecords) Exists(ctx context.Context, id uint64) (bool, error) {
	_, err := r.conn.Stat(ctx, key(id))
	if errors.Is(err, backend.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (r connRecords) EachID(ctx context.Context, fn func(id uint64) error) error {
	return eachID(ctx, r.conn.Scan, fn)
}

func (connRecords) Sync(context.Context) error { return nil }

// statsTimeout bounds the question that statfs waits for.
const statsTimeout = 5 * time.Second

func (r connRecords) Stats() (entries, bytes, limit int64) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	i, err := r.conn.Info(ctx)
	if err != nil {
		return 0, 0, 0 // statfs has no better answer
	}
	return i.Entries, i.Used, i.Limit
}
