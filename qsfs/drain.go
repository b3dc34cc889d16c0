package qsfs

import (
	"context"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/client"
)

// Drain brings what was written to the backends while the system of cl goes on,
// and tells observe, which may be nil, how far it is. It ends with nil once all
// that was written before is there.
func Drain(ctx context.Context, cl *client.Client, observe func(Progress)) error {
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		_, err := cl.Sync(ctx)
		done <- err
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for total := st.LossWindow.Bytes; ; {
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
		if observe == nil {
			continue
		}
		st, err := cl.Status(ctx)
		if err != nil {
			continue // what Sync says counts
		}
		total = max(total, st.LossWindow.Bytes) // more is written meanwhile
		observe(Progress{Op: "stop", Step: "bringing what was written to the backends", Done: total - st.LossWindow.Bytes, Total: total, Unit: "bytes"})
	}
}
