package qsfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/threefoldtech/quantumd/qsfs/client"
)

// Every degraded state has a note in words, and is degraded; what is well has
// none.
func TestNoteRules(t *testing.T) {
	t.Parallel()
	well := func() *client.Status {
		return &client.Status{State: client.StateOK, Disk: client.Disk{FreeBytes: 50 << 30, TotalBytes: 100 << 30}, Cache: client.Cache{Bytes: 1 << 30, Limit: 10 << 30},
			Backends: []client.Backend{{ID: "data0", Role: "data", State: "up"}, {ID: "data1", Role: "data", State: "up"}, {ID: "meta0", Role: "meta", State: "up"},
				{ID: "spare0", Role: "data", State: "up", Spare: true}},
			Redundancy: []client.Redundancy{{Role: "data", Needed: 3, Shards: 5, Tolerated: 2, Full: 2}, {Role: "meta", Needed: 2, Shards: 4, Tolerated: 2, Full: 2}},
			Namespaces: []client.Namespace{{Name: "zdbfs-meta", IDs: 1 << 31, Limit: idLimit}, {Name: "zdbfs-data", IDs: 7, Limit: idLimit}}}
	}
	st := well()
	ruleNotes(st)
	assert.Empty(t, st.Notes)
	assert.Equal(t, client.StateOK, st.State)

	tested := map[string]bool{}
	for _, c := range []struct {
		rule   string
		change func(*client.Status)
		want   string
	}{
		{"data backends down", func(s *client.Status) { s.Backends[0].State = "down" }, "1 data backend does not work; data stays readable while 3 of 5 shards are"},
		{"data backends down", func(s *client.Status) { s.Backends[0].State, s.Backends[1].State = "down", "replacing" }, "2 data backends do not work"},
		{"metadata backends down", func(s *client.Status) { s.Backends[2].State = "down" }, "1 of 4 metadata backends do not work; two are enough to read, three to store"},
		{"backends full", func(s *client.Status) { s.Backends[1].State = "full" }, "1 backends are full: what they hold can be read"},
		{"spares down", func(s *client.Status) { s.Backends[3].State = "down" }, "1 spare backends do not work"},
		{"data at its limit", func(s *client.Status) { s.Redundancy[0].Down, s.Redundancy[0].Tolerated = 2, 0 }, "with one more lost data backend, content is lost"},
		{"data at its limit", func(s *client.Status) { s.Redundancy[0].Down, s.Redundancy[0].Tolerated = 3, -1 }, "3 data backends are lost, and 2 may be: some content may be out of reach"},
		{"metadata at its limit", func(s *client.Status) { s.Redundancy[1].Down, s.Redundancy[1].Tolerated = 2, 0 }, "with one more lost metadata backend, content is lost"},
		{"disk almost full", func(s *client.Status) { s.Disk.FreeBytes = 300 << 20 }, "the disk of the frontend has 300 MiB left"},
		{"cache over its limit", func(s *client.Status) { s.Cache.Bytes = 12 << 30 }, "the cache is 2048 MiB over its limit"},
		{"ids", func(s *client.Status) { s.Namespaces[1].IDs = 3 << 30 }, "75 % of the record ids of zdbfs-data are used up"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			st := well()
			c.change(st)
			ruleNotes(st)
			assert.Equal(t, client.StateDegraded, st.State)
			assert.Len(t, st.Notes, 1)
			assert.Contains(t, strings.Join(st.Notes, "\n"), c.want)
		})
		tested[c.rule] = true
	}
	for _, r := range noteRules {
		assert.True(t, tested[r.name], "the note %q has no test", r.name)
	}
	fenced := well()
	fenced.State = client.StateFenced
	fenced.Backends[0].State = "down"
	ruleNotes(fenced)
	assert.Equal(t, client.StateFenced, fenced.State, "a worse state stays")
}
