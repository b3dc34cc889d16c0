// Package tree keeps files and folders in records, in the format of zdbfs: a
// tree that zdbfs wrote opens here, and a tree that was written here mounts
// there. It knows neither FUSE nor a network; package mount shows a [Tree] to
// the kernel.
//
// The three calls that matter:
//
//	t, err := tree.Open(ctx, tree.Options{Meta: meta, Data: data})
//	n, err := t.WriteAt(ctx, ino, p, off)  // and the other operations, by inode number
//	err = t.Fsync(ctx, ino)                // what was written is durable when it returns
//
// # Durability
//
// Operations change memory. A commit, made every [Options.Interval], by
// [Tree.Fsync] and by [Tree.Sync], writes what changed: file blocks to the data
// namespace, which is synced, then inodes and folder buckets to the metadata
// namespace, which is synced too. Whatever touches several records goes through
// a redo record first, so that it is whole or not there after a crash. Blocks
// and inodes are deleted only after the metadata that dropped them is durable.
//
// The records must keep a prefix of the operations of each namespace when the
// process or the machine dies, not shorter than the last Sync.
//
// # Limits
//
// A file ends before 2^38 bytes (its block list has to fit in one record, which
// ends a little before); writing beyond is EFBIG. Names have at most 255 bytes,
// targets of links 4095. What the tree itself stamps are whole seconds; times
// that are set keep their nanoseconds, in an extension record, as ids above
// 65535 and extended attributes (user, trusted, security) do. Reading does not
// change access times. Fallocate reserves nothing.
//
// A tree that was not closed may be given to a real zdbfs only after it was
// opened and closed here: the redo record, and the files that were open without
// a name, mean nothing to that one. Blocks that were stored after the last
// commit before a crash stay behind as waste, which Check tells of where the
// records can list themselves ([Lister]).
//
// # Not for
//
// Two trees over the same records: there is no lock, and each would undo what
// the other did.
package tree
