package services

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	list := []Service{
		{Name: "zdbfs", Requires: []string{"zdb"}}, {Name: "zdb", After: []string{"quantumd", "zstor"}},
		{Name: "quantumd", After: []string{"zstor", "elsewhere"}}, {Name: "zstor"},
	}
	got, err := Order(list)
	require.NoError(t, err)
	var names []string
	for _, s := range got {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"zstor", "quantumd", "zdb", "zdbfs"}, names)
	got, err = Order([]Service{{Name: "daemon"}, {Name: "new", Before: []string{"daemon", "elsewhere"}}})
	require.NoError(t, err)
	require.Equal(t, []Service{{Name: "new", Before: []string{"daemon", "elsewhere"}}, {Name: "daemon"}}, got)
	_, err = Order([]Service{{Name: "a", Before: []string{"b"}}, {Name: "b", Before: []string{"a"}}})
	require.ErrorContains(t, err, "after itself")
	_, err = Order([]Service{{Name: "a", After: []string{"b"}}, {Name: "b", Requires: []string{"a"}}})
	require.ErrorContains(t, err, "after itself")
	_, err = Order([]Service{{Name: "a"}, {Name: "a"}})
	require.ErrorContains(t, err, "twice")
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := Service{Name: "qsfs-zdb@1", Exec: []string{"/bin/zdb", "--x"}, Env: []string{"A=b c"}, Writable: []string{"/opt/zdb"}, RuntimeDir: "qsfs"}
	require.NoError(t, good.Validate())
	for name, change := range map[string]func(*Service){
		"no name":          func(s *Service) { s.Name = "" },
		"name as a flag":   func(s *Service) { s.Name = "-f" },
		"name with slash":  func(s *Service) { s.Name = "../zdb" },
		"hidden name":      func(s *Service) { s.Name = ".zdb" },
		"no program":       func(s *Service) { s.Exec = nil },
		"relative program": func(s *Service) { s.Exec = []string{"zdb"} },
		"relative waiter":  func(s *Service) { s.WaitExec = []string{"true"} },
		"relative stopper": func(s *Service) { s.StopExec = []string{"true"} },
		"line in argument": func(s *Service) { s.Exec = []string{"/bin/zdb", "x\nExecStartPre=/bin/rm"} },
		"line in env":      func(s *Service) { s.Env = []string{"A=b\nUser=x"} },
		"line in text":     func(s *Service) { s.Description = "x\n[Service]" },
		"NUL":              func(s *Service) { s.Exec = []string{"/bin/zdb", "\x00"} },
		"env without =":    func(s *Service) { s.Env = []string{"A"} },
		"env name":         func(s *Service) { s.Env = []string{"A B=c"} },
		"relative folder":  func(s *Service) { s.Writable = []string{"opt"} },
		"relative mount":   func(s *Service) { s.Mountpoint = "mnt" },
		"runtime folder":   func(s *Service) { s.RuntimeDir = "../etc" },
		"kill mode":        func(s *Service) { s.Kill = "all" },
		"after":            func(s *Service) { s.After = []string{"a b"} },
		"before":           func(s *Service) { s.Before = []string{"a b"} },
		"credential name":  func(s *Service) { s.Credentials = []Credential{{Name: "a/b", Path: "/x"}} },
		"credential path":  func(s *Service) { s.Credentials = []Credential{{Name: "a", Path: "x"}} },
	} {
		s := good
		change(&s)
		require.Error(t, s.Validate(), name)
	}
}

func TestDetect(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.Equal(t, Child, DetectAt(root))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "run/systemd/system"), 0o755))
	require.Equal(t, Systemd, DetectAt(root))
}
