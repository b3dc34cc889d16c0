package qsfs_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// childEnv has the test binary run a System instead of tests: a process that
// can be killed. It holds configuration, folder and mountpoint, separated by
// newlines.
const childEnv = "QSFS_TEST_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(child(spec))
	}
	os.Exit(m.Run())
}

func child(spec string) int {
	var cfgFile, dir, mountpoint string
	if _, err := fmt.Sscanf(spec, "%s %s %s", &cfgFile, &dir, &mountpoint); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := config.Load(cfgFile)
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 2
	}
	opts := []qsfs.Option{qsfs.Below(dir), qsfs.WithLease(2 * time.Second), qsfs.WithDrainTime(10 * time.Second)}
	if os.Getenv("QSFS_TEST_LOG") != "" {
		opts = append(opts, qsfs.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	}
	if mountpoint == "-" {
		opts = append(opts, qsfs.WithoutMount())
	} else {
		cfg.QSFSMountpoint = mountpoint
	}
	sys, err := qsfs.Open(ctx, cfg, opts...)
	if err == nil {
		err = sys.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}
