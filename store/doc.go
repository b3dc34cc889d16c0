// Package store remembers what a QSFS has to upload and what it has uploaded:
// the queue of files on their way to the backends, the files and checkpoints
// that are known, the generations of the set of backends, and what happened.
// It lives in one SQLite database.
//
// It is a to-do list and a log, never the truth: the truth is the local files
// and the metadata on the backends. A lost or damaged database is replaced by
// an empty one (see [Store.Replaced]), and the caller finds the difference
// again. It holds no file contents and no secrets.
//
// The calls that matter:
//
//	s, err := store.Open(ctx, path, store.Options{})
//	err = s.BeginCheckpoint(ctx, cut, items, files)  // one transaction
//	for s.Queue().Wait(ctx) == nil {
//		lease, ok, err := s.Queue().Claim(ctx, "worker 1", 5*time.Minute)
//		// … upload lease.Item, then one of
//		err = s.MarkStored(ctx, lease.Item.Path, lease.Item.Version, store.Stored{ObjectPath: object, Checksum: sum, State: store.FileStored})
//		err = s.Queue().Fail(ctx, lease, cause)      // tried again later, for ever
//	}
//	err = s.CommitCheckpoint(ctx, cut.Seq)           // when PendingFor says zero
//
// A program that needs only the queue, in a database of its own, uses
// [NewRetryQueue].
//
// # Clocks
//
// What is stored is wall time in milliseconds since 1970. A clock that jumps
// back delays a retry by at most Options.RetryInterval, and one that jumps
// ahead only brings it forward; leases of the running process are measured
// with the monotonic clock.
package store
