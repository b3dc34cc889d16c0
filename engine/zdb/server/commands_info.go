package server

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdb/segment"
	"github.com/threefoldtech/quantumd/internal/resp"
)

// lines builds the text of INFO and NSINFO.
type lines struct{ strings.Builder }

func (l *lines) add(key string, value any) { fmt.Fprintf(l, "%s: %v\n", key, value) }

func (l *lines) size(key string, n int64) {
	l.add(key+"_bytes", n)
	l.add(key+"_mb", mib(n))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

const revision = "v2.0.7" // the release whose behaviour this is

func cmdInfo(c *conn, _ [][]byte) {
	s := c.srv
	var l lines
	l.WriteString("# server\n")
	l.add("server_name", "0-db (zdb)")
	l.add("server_revision", revision)
	l.add("engine_revision", revision)
	l.add("instance_id", s.id)
	l.add("boot_time", s.boot.Unix())
	l.add("uptime", int64(time.Since(s.boot).Seconds()))
	l.WriteString("\n# clients\n")
	l.add("clients_lifetime", s.stats.clients.Load())
	l.WriteString("\n# internals\n")
	l.add("sequential_key_size", segment.SeqKeySize)
	l.add("data_version", 3)
	l.add("index_version", 4)
	l.WriteString("\n# stats\n")
	l.add("commands_executed", s.stats.executed.Load())
	l.add("commands_failed", s.stats.failed.Load())
	l.add("commands_unauthorized", s.stats.unauthorized.Load())
	l.add("index_disk_read_failed", s.stats.indexReadFailed.Load())
	l.add("index_disk_write_failed", s.stats.indexWriteFailed.Load())
	l.add("data_disk_read_failed", s.stats.dataReadFailed.Load())
	l.add("data_disk_write_failed", s.stats.dataWriteFailed.Load())
	l.size("index_disk_read", s.stats.indexRead.Load())
	l.size("index_disk_write", s.stats.indexWritten.Load())
	l.size("data_disk_read", s.stats.dataRead.Load())
	l.size("data_disk_write", s.stats.dataWritten.Load())
	l.size("network_rx", s.stats.received.Load())
	l.size("network_tx", s.stats.sent.Load())
	c.out = resp.AppendBulk(c.out, l.String())
}

func cmdNSInfo(c *conn, args [][]byte) {
	n := c.find(args, 2, "Namespace not found")
	if n == nil {
		return
	}
	c.out = resp.AppendBulk(c.out, n.describeFor(c.admin, c.master))
}

// describeFor is the text of NSINFO. A closed highest pair is shown as the
// empty next one, which a real zdb would have made already.
func (n *Namespace) describeFor(admin, master bool) string {
	i := n.Info()
	n.mu.RLock()
	id, open := n.pairLocked()
	end := int64(segment.DataHeaderSize)
	if open {
		end = n.dataOff
	}
	password, mode := n.desc.Password, n.index.mode
	n.mu.RUnlock()

	var l lines
	l.WriteString("# namespace\n")
	l.add("name", n.name)
	l.add("entries", i.Entries)
	l.add("public", yes(i.Public))
	l.add("worm", yes(i.Worm))
	l.add("locked", yes(i.Locked))
	l.add("password", yes(i.Password))
	l.size("data_size", i.Used)
	l.add("data_limits_bytes", i.Limit)
	l.add("index_size_bytes", i.IndexUsed)
	l.add("index_size_kb", fmt.Sprintf("%.2f", float64(i.IndexUsed)/1024))
	l.add("next_internal_id", formatID(i.NextID))
	l.add("mode", mode)
	for _, kind := range []string{"index", "data"} {
		l.add("stats_"+kind+"_io_errors", 0)
		l.add("stats_"+kind+"_io_error_last", 0)
		l.add("stats_"+kind+"_faults", 0)
	}
	if i.Limit > 0 {
		l.add("space_available", i.Limit-i.Used)
	}
	if free, err := freeSpace(n.indexDir); err == nil {
		l.size("index_disk_freespace", free)
	}
	if free, err := freeSpace(n.dataDir); err == nil {
		l.size("data_disk_freespace", free)
	}
	if master && password != "" {
		l.add("password_raw", password)
	}
	if admin {
		l.add("data_path", n.dataDir)
		l.add("data_active", n.DataPath(id))
		l.add("index_path", n.indexDir)
		l.add("index_active", n.IndexPath(id))
		l.add("data_current_id", id)
		l.add("data_current_offset", end)
	}
	return l.String()
}

// formatID prints an id as NSINFO does: its bytes reversed, in hex, padded to
// eight digits only.
func formatID(id uint64) string {
	var r uint64
	for range 8 {
		r, id = r<<8|id&0xff, id>>8
	}
	s := strconv.FormatUint(r, 16)
	return "0x" + strings.Repeat("0", max(0, 8-len(s))) + s
}
