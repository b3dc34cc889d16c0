package qsfs

import (
	"context"
	"errors"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/epoch"
	"github.com/threefoldtech/quantumd/store"
)

// OfflineStatus says of a system that does not run what its files and its
// database say: they are only read. Of the backends nothing is known. It fails
// where there is no database: then nothing ever ran here.
func OfflineStatus(ctx context.Context, l Layout) (*client.Status, error) {
	db, err := store.Open(ctx, l.Database, store.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer db.Close() //nolint:errcheck // read only
	st := &client.Status{Schema: client.SchemaVersion, State: client.StateFailed, Backends: []client.Backend{}, Replacements: []client.Replacement{},
		Namespaces: []client.Namespace{}, Redundancy: []client.Redundancy{},
		Services: []client.Service{{Name: ServiceName, State: "stopped"}},
		Notes:    []string{"quantumd is not running: this is what its database and files say"}}
	queue, err := db.Queue().Stats(ctx)
	if err != nil {
		return nil, err
	}
	st.Queue = queueOf(queue)
	if c, err := db.LatestCommitted(ctx); err == nil {
		st.Checkpoint = client.Checkpoint{Seq: uint64(c.Seq), AgeSeconds: time.Since(c.Committed).Seconds()}
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if id, err := epoch.LoadIdentity(l.identity()); err == nil {
		st.Epoch = id.Epoch
	}
	unsynced, err := unsyncedSoon(ctx, l, db)
	if err != nil {
		return nil, err
	}
	if st.LossWindow.Bytes = unsynced.Bytes; unsynced.Bytes > 0 {
		statusNote(st, "%v; they are brought there when it runs again", unsynced)
	}
	return st, nil
}

func queueOf(q store.Stats) client.Queue {
	return client.Queue{Pending: int64(q.Pending), Uploading: int64(q.Uploading), Failed: int64(q.Failed),
		Stored: int64(q.Stored), BytesPending: q.BytesPending,
		OldestSeconds: q.OldestAge.Seconds()}
}
