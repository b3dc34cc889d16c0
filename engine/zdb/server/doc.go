// Package server is a zdb: namespaces of keys and payloads in append-only
// files that a real 0-db 2.0.7 can take over, with its protocol and its
// events, and with what that one does not promise: a Sync that means it, and
// an Open that replays.
//
//	s, err := server.Open(ctx, server.Options{DataDir: "data", IndexDir: "index"})
//	n, err := s.CreateNamespace(ctx, "ns", server.NamespaceOptions{Mode: server.Sequential})
//	id, err := n.Set(ctx, nil, payload); err = n.Sync(ctx)
//
// A program uses [Namespace] directly; other processes come through
// [Server.Serve]. It is not a client (engine/zdb), and does not know what the
// payloads are.
//
// # Durability
//
// The data file is the write-ahead log: Sync is one fdatasync of it, shared by
// all who wait. Index files are a function of data files ([Reindex]). Below
// the lengths that the last checkpoint names they do not change between
// checkpoints: entries that are appended, and slots that are changed in place,
// wait in memory. A checkpoint syncs the data file, then the appended entries,
// then puts a small file of ours in place that carries the changes in place,
// and only then applies these. So after a crash Open cuts the index files to
// the checkpoint, applies its changes again, and replays what the data file
// has behind its offset: entries whose previous field chains, whose lengths
// fit, whose checksum matches and whose key follows. The first that does not
// ends the log and is cut off. A failed fsync stops all writes to the
// namespace until the next Open, for a later success would prove nothing.
//
// # Files
//
// Pairs of a data and an index file are switched by size ([Options.DataSize]),
// by time ([Options.Rotate]) and by [Namespace.Jump]. The next pair is made by
// the first write to it, so there is never an empty one on disk but the first.
// A closed data file may be missing ([Namespace.DropData]): a read raises the
// missing-data event, once for all readers of the file, and nobody else waits.
// [Namespace.CopyIndex] gives an index file as of one moment while writes go
// on. [InstallClosed] prepares a restored namespace for Open.
//
// # Differences from the real one
//
// No empty pairs: NSJUMP without entries does nothing, and NSINFO shows the
// pair that the next write makes. FLUSH empties, and needs write right. GET
// checks the checksum and answers `-Internal Error` for damage. HISTORY reads
// the right file. Command names must be complete. The list of dirty index
// files survives restarts. Malformed requests, negative lengths and requests
// above 9 MiB end the connection. Refused writes do not switch files.
package server
