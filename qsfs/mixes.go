package qsfs

import (
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// checkMix refuses mixes of embedded and external components that cannot work.
func checkMix(cfg *config.Config) error {
	e := cfg.Engine
	if e.Zdbfs == config.External && e.Zdb != config.External {
		return &config.Error{File: cfg.File(), Key: "engine.zdbfs", Msg: "a real zdbfs needs a real zdb: the embedded one listens on no socket",
			Remedy: "write `engine: {zdb: external, zdbfs: external}`, or leave zdbfs embedded"}
	}
	return nil
}

// Promise is one thing that a system may be trusted with, and whether it holds
// with the components that a configuration chooses.
type Promise struct {
	Name  string `json:"name"`
	Holds bool   `json:"holds"`
	Text  string `json:"text"` // what holds, or why it does not, in words
}

// Promises says which promises hold for a mix of components.
func Promises(e config.Engine) []Promise {
	zdb, zstor, zdbfs := e.Zdb == config.External, e.Zstor == config.External, e.Zdbfs == config.External
	pick := func(name string, broken bool, holds, not string) Promise {
		if broken {
			return Promise{name, false, not}
		}
		return Promise{name, true, holds}
	}
	fsync := pick("fsync", zdbfs || zdb, "what was fsynced survives a power failure",
		"fsync is not durable: the real zdb runs with --sync, but replays nothing after a crash, and does not sync index entries that it changes in place")
	if zdbfs {
		fsync.Text = "fsync is not durable: the real zdbfs answers it at once and does nothing"
	}
	cut := pick("consistent checkpoints", zdbfs, "a checkpoint shows the whole tree as it was at one moment",
		"a checkpoint is consistent for each namespace, not across the tree: the real zdbfs writes while it is made")
	window := pick("loss window", zdbfs, "status knows how much would be lost with this machine",
		"the loss window is unknown while files are open: the real zdbfs keeps changes in memory, and stores a folder that is in use all the time never")
	sync := pick("sync", zdbfs, "when sync returns, everything written before is on the backends",
		"sync is best effort: the real zdbfs is asked to write out what it holds, and may leave some of it while files are open")
	fence := pick("fencing", zdbfs, "a frontend that was replaced becomes read-only",
		"a frontend that was replaced stops its uploads, and its file system is unmounted; until then the real zdbfs goes on writing to local files that are stored nowhere")
	lease := pick("leases", zstor, "nothing is written to the backends without a lease that is valid",
		"the lease is looked at before each request to the real zstor, which may work on it after the lease has ended; objects of another epoch are never read")
	verified := pick("verified shards", zstor, "length and checksum of every shard are compared with what was sent",
		"the real zstor does not record what it sent: backends check their shards against their own checksums only")
	rebuild := pick("repair", zstor, "only missing or damaged shards are made anew, with what is left of the backends",
		"objects are rebuilt by the real zstor, one key after the other, and verified; while a metadata backend is away it can store nothing")
	empty := pick("space", zdb, "a data file takes the space that it fills",
		"the real zdb reserves a whole data file for each namespace; what is left is given back when the file is closed")
	return []Promise{fsync, sync, cut, window, fence, lease, verified, rebuild, empty}
}

// promiseNotes tells in status what does not hold, in words.
func (s *System) promiseNotes(st *client.Status) {
	for _, p := range Promises(s.cfg.Engine) {
		if !p.Holds {
			statusNote(st, "%s: %s", p.Name, p.Text)
		}
	}
}
