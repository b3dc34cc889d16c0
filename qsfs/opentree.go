package qsfs

import (
	"context"
	"errors"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
)

// openTree opens the tree. Where the file that begins it was dropped from the
// disk, and the backends are away, it waits for them: nothing can be served
// before, and everything can as soon as they are there.
func (s *System) openTree(ctx context.Context, o tree.Options) (*tree.Tree, error) {
	for pause, told := time.Second, false; ; pause = min(2*pause, 10*time.Second) {
		t, err := tree.Open(ctx, o)
		if !errors.Is(err, server.ErrMissing) || errors.Is(err, ErrLost) {
			return t, err
		}
		if !told {
			s.log.Warn("the start waits for the backends: what begins the file system is only there", "err", err)
			told = true
		}
		if !wait(ctx, pause) {
			return nil, err
		}
	}
}
