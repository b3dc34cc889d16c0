package binaries

import (
	"maps"
	"slices"
)

// Pin is one program of the table.
type Pin struct {
	Name    string
	Version string
	Reports []string          // versions that this release says of itself: not each was given its own number
	URLs    map[string]string // by GOARCH; a release has no program for the others
	args    []string          // that make it print its version
}

// table is the one place where versions are pinned.
var table = []Pin{
	{
		Name: "zdb", Version: "2.0.8", Reports: []string{"2.0.8", "2.0.7"}, args: []string{"--version"},
		URLs: map[string]string{"amd64": releases + "0-db/releases/download/v2.0.8/zdb-2.0.8-linux-amd64-static"},
	},
	{
		Name: "zstor", Version: "0.5.0-rc.1", Reports: []string{"0.5.0-rc.1", "0.5.0", "0.4.0"}, args: []string{"--version"},
		URLs: map[string]string{"amd64": releases + "0-stor_v2/releases/download/v0.5.0-rc.1/zstor_v2-x86_64-linux-musl"},
	},
	{
		Name: "zdbfs", Version: "0.1.11", Reports: []string{"0.1.11"}, args: []string{"--version"},
		URLs: map[string]string{"amd64": releases + "0-db-fs/releases/download/v0.1.11/zdbfs-0.1.11-amd64-linux-static"},
	},
}

const releases = "https://github.com/threefoldtech/"

// Table gives a copy of the table.
func Table() []Pin {
	out := slices.Clone(table)
	for i := range out {
		out[i].Reports, out[i].URLs, out[i].args = slices.Clone(out[i].Reports), maps.Clone(out[i].URLs), slices.Clone(out[i].args)
	}
	return out
}

// find gives the program of a name; nil where the table has none.
func find(name string) *Pin {
	if i := slices.IndexFunc(table, func(p Pin) bool { return p.Name == name }); i >= 0 {
		return &table[i]
	}
	return nil
}
