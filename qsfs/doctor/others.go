package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/internal/glob"
)

// olderFiles are what installations of before leave: of the shell scripts, and of
// the first quantumd. The names of our services are others.
var olderFiles = []struct{ pattern, what string }{
	{"/etc/systemd/system/zdb.service", "a service of an older installation"},
	{"/etc/systemd/system/zstor.service", "a service of an older installation"},
	{"/etc/systemd/system/zdbfs.service", "a service of an older installation"},
	{"/etc/systemd/system/zdb-back*.service", "a local backend of an older installation"},
	{"/etc/systemd/system/retry-uploads.service", "the upload script's service"},
	{"/etc/zinit/zdb.yaml", "a service of an older installation"},
	{"/etc/zinit/zstor.yaml", "a service of an older installation"},
	{"/etc/zinit/zdbfs.yaml", "a service of an older installation"},
	{"/etc/zinit/zdb-back*.yaml", "a local backend of an older installation"},
	{"/etc/zinit/retry-uploads.yaml", "the upload script's service"},
	{"/etc/zstor-default.toml", "the scripts' zstor configuration"},
	{"/data/uploaded_data_files", "the scripts' list of uploaded files"},
	{"/data/data/zdbfs-data", "data files of the scripts' installation"},
	{"/var/lib/zdb/data/zdbfs-data", "data files of an older installation"},
	{"/usr/local/bin/retry-uploads.sh", "the upload script"},
}

// otherFiles finds older installations.
func otherFiles(_ context.Context, x *examination) []Result {
	if x.Below {
		return skip("a system below a folder shares nothing with an installed one")
	}
	var out []Result
	for _, o := range olderFiles {
		found, _ := filepath.Glob(x.root(o.pattern)) // the pattern is good
		for _, path := range found {
			if strings.HasPrefix(path, x.Layout.DataDir()+"/") {
				continue // the one that is in use
			}
			s, remedy := Warning, "`quantumd upgrade` takes it over, data in place; where this system is installed already, stop what is older and remove its files: two programs must never work on the same data"
			if x.Layout.Legacy == path {
				s, remedy = Note, "" // imported by itself
			}
			out = append(out, bad(s, path, "", o.what, remedy)...)
		}
	}
	if out != nil {
		return out
	}
	return ok("", "no older installation")
}

// components are programs that work on a frontend's files.
var components = []string{"zdb", "zstor", "zstor_v2", "zdbfs"}

// otherProcesses finds programs that run and are not this system's.
func otherProcesses(_ context.Context, x *examination) []Result {
	found, _ := filepath.Glob(filepath.Join(glob.Escape(x.sys.facts), "proc", "[0-9]*", "comm")) // the pattern is good
	var out []Result
	for _, path := range found {
		comm, err := os.ReadFile(path)
		name := strings.TrimSpace(string(comm))
		if err != nil || !slices.Contains(components, name) {
			continue // ended, or something else
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		if x.ours(args) {
			continue
		}
		subject := fmt.Sprintf("%s, process %s", name, filepath.Base(filepath.Dir(path)))
		if x.sameFiles(args) {
			out = append(out, bad(Problem, subject, "", "it works on this system's files, and is not this system's", "end it and its service before the next start: two programs on the same files damage them")...)
			continue
		}
		out = append(out, bad(Note, subject, "", "it runs beside this system, on other files", "")...)
	}
	if out != nil {
		return out
	}
	return ok("", "no other zdb, zstor or zdbfs runs")
}

// ours says whether a program was started for this system: it uses a socket or
// file of its private folders.
func (x *examination) ours(args []string) bool {
	for _, a := range args {
		for _, dir := range []string{x.Layout.Run, filepath.Dir(x.Layout.ControlSocket()), x.Layout.State, x.Layout.Backends} {
			if dir != "" && strings.Contains(a, dir+"/") {
				return true
			}
		}
	}
	return false
}

func (x *examination) sameFiles(args []string) bool {
	dirs := []string{x.Layout.Root, x.settings().QSFSMountpoint}
	for _, a := range args {
		for _, dir := range dirs {
			if dir != "" && (a == dir || strings.HasPrefix(a, dir+"/") || strings.HasSuffix(a, "="+dir)) {
				return true
			}
		}
	}
	return false
}
