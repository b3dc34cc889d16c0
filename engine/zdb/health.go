package zdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Health looks at a backend: does it answer, does it accept the password, is
// its namespace in the mode of its role, is there space.
func Health(ctx context.Context, d backend.Dialer, b backend.Backend) backend.Health {
	began := time.Now()
	h := backend.Health{State: backend.Down}
	conn, err := d.Dial(ctx, b)
	if err != nil {
		h.Err = err
		return h
	}
	defer conn.Close() //nolint:errcheck // only asked
	info, err := conn.Info(ctx)
	h.Latency = time.Since(began)
	if err == nil && info.Sequential != (b.Role == backend.Data) {
		err = fmt.Errorf("%s: %w", b, backend.ErrMode)
	}
	if err != nil {
		h.Err = err
		return h
	}
	h.Used, h.Limit, h.Free, h.Entries = info.Used, info.Limit, info.Free, info.Entries
	h.State = backend.Up
	if full(info) {
		h.State, h.Err = backend.Full, errFull
	}
	return h
}

// lowSpace is what has to be left: one shard of a large data file.
const lowSpace = 64 << 20

var errFull = errors.New("less than 64 MiB are left")

func full(i backend.NamespaceInfo) bool {
	return i.Limit > 0 && i.Limit-i.Used < lowSpace || i.Limit == 0 && i.Free > 0 && i.Free < lowSpace
}
