package zdb

import (
	"context"
	"log/slog"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Options configure a Client.
type Options struct {
	PoolSize    int           // connections to one backend, default 4
	Timeout     time.Duration // of one call without a nearer deadline, default 30 s
	DialTimeout time.Duration // default 5 s
	Logger      *slog.Logger
}

// Dial gives a client of b. It connects at the first call.
func Dial(ctx context.Context, b backend.Backend, o Options) (backend.Conn, error) { panic("soon") }

// NewDialer dials with o.
func NewDialer(o Options) backend.Dialer { panic("soon") }
