package local

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Files are for their owner only, whatever the umask, and passwords are neither
// among a process's arguments nor in its environment nor in any log.
func TestNothingShows(t *testing.T) {
	t.Setenv("MNEMONIC", "abandon abandon about")
	t.Setenv("QUANTUMD_ENCRYPTION_KEY", "00112233")
	for name := range kinds {
		t.Run(name, func(t *testing.T) {
			var logged buffer
			logger := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			launcher := kinds[name](t)
			if name == "InProcess" {
				launcher = InProcess(logger)
			}
			p := open(t, filepath.Join(t.TempDir(), "backends"), launcher, WithLogger(logger))
			all := provision(t, p, specs()...)
			wrong := all[0]
			wrong.Password = "wrong password"
			require.Error(t, p.Health(t.Context(), wrong).Err)
			secrets := []string{"abandon about", "00112233", "wrong password"}
			shown := &strings.Builder{}
			for _, b := range all {
				i, err := load(filepath.Join(p.dir, b.ID))
				require.NoError(t, err)
				secrets = append(secrets, i.Admin.Reveal(), i.Password.Reveal())
				fmt.Fprintf(shown, "%v %+v %#v", i, i, i)
				h := p.Health(t.Context(), b)
				require.Equal(t, backend.Up, h.State)
				require.Positive(t, h.PID)
				if name == "Command" {
					for _, file := range []string{"cmdline", "environ"} {
						text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", h.PID, file))
						require.NoError(t, err)
						shown.Write(text)
					}
					text, err := os.ReadFile(i.path(logFile))
					require.NoError(t, err)
					require.NotEmpty(t, text)
					shown.Write(text)
				}
			}
			services, err := p.Services("quantumd", "/usr/bin/quantumd", "zdb")
			require.NoError(t, err)
			require.Len(t, services, len(all))
			fmt.Fprintf(shown, "%+v", services)
			shown.WriteString(logged.String())
			require.Contains(t, logged.String(), "backend started")
			for _, s := range secrets {
				assert.NotContains(t, shown.String(), s)
			}
			private(t, p.dir)
		})
	}
}

func private(t *testing.T, dir string) {
	t.Helper()
	files := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		assert.Equal(t, want, info.Mode().Perm(), path)
		files++
		return nil
	}))
	require.Greater(t, files, 10)
}

func TestDescriptionsFromDisk(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "cut off": `{"schema":1,"id":"data0"`, "noise": "\x00\x01", "array": "[]", "huge": strings.Repeat(" ", maxDescription+1),
		"newer":    `{"schema":2,"id":"data0","role":"data","address":"127.0.0.1:1"}`,
		"other id": `{"schema":1,"id":"data9","role":"data","address":"127.0.0.1:1"}`,
		"no role":  `{"schema":1,"id":"data0","role":"","address":"127.0.0.1:1"}`,
		"no port":  `{"schema":1,"id":"data0","role":"data","address":"127.0.0.1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := open(t, t.TempDir(), InProcess(nil))
			all := provision(t, p, specs()[:2]...)
			require.NoError(t, p.Stop(t.Context()))
			file := filepath.Join(p.dir, "data0", descriptionFile)
			good, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))

			list, err := p.List(t.Context())
			require.Error(t, err)
			assert.Equal(t, all[:1], list, "the others can be used")
			_, err = p.Plan(t.Context(), specs()[1:2])
			require.Error(t, err)
			results, err := p.Provision(t.Context(), specs()[:2])
			require.NoError(t, err)
			require.NoError(t, results[0].Err)
			require.Error(t, results[1].Err)
			require.Error(t, p.Retire(t.Context(), "data0"), "what it is cannot be told")
			left, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, text, string(left))

			require.NoError(t, os.WriteFile(file, good, 0o600))
			assert.Equal(t, all, provision(t, p, specs()[:2]...))
		})
	}
}

func FuzzDescription(f *testing.F) {
	f.Add([]byte(`{"schema":1,"id":"data0","role":"data","address":"127.0.0.1:9900","namespace":"n","password":"p","admin":"a","size":1,"group":""}`))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := filepath.Join(t.TempDir(), "data0")
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, descriptionFile), text, 0o600))
		i, err := load(dir)
		if err != nil {
			return
		}
		require.NoError(t, i.save())
		again, err := load(dir)
		require.NoError(t, err)
		require.Equal(t, i, again)
	})
}

// A description that is gone while the data is there: a new one would have
// another address and another password than those that objects name.
func TestLostDescription(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), InProcess(nil))
	provision(t, p, specs()[0])
	require.NoError(t, p.Stop(t.Context()))
	file := filepath.Join(p.dir, "meta0", descriptionFile)
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.Remove(file))
	results, err := p.Provision(t.Context(), specs()[:1])
	require.NoError(t, err)
	require.ErrorIs(t, results[0].Err, ErrDescription)
	require.NoFileExists(t, file)
	require.NoError(t, os.WriteFile(file, good, 0o600))
	provision(t, p, specs()[0])
}

func TestSpecsThatCannotBe(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir(), InProcess(nil))
	good := backend.Spec{ID: "data0", Role: backend.Data, Password: "first"}
	provision(t, p, good)
	for name, change := range map[string]func(*backend.Spec){
		"id above":        func(s *backend.Spec) { s.ID = ".." },
		"id with folder":  func(s *backend.Spec) { s.ID = "a/b" },
		"hidden id":       func(s *backend.Spec) { s.ID = ".lock" },
		"empty id":        func(s *backend.Spec) { s.ID = "" },
		"id with newline": func(s *backend.Spec) { s.ID = "a\nb" },
		"namespace":       func(s *backend.Spec) { s.ID, s.Namespace = "new", "a/b" },
		"default":         func(s *backend.Spec) { s.ID, s.Namespace = "new", "default" },
		"password":        func(s *backend.Spec) { s.ID, s.Password = "new", backend.Secret(strings.Repeat("p", 64)) },
		"no password":     func(s *backend.Spec) { s.ID, s.Password = "new", "*" },
		"size":            func(s *backend.Spec) { s.ID, s.Size = "new", -1 },
		"other password":  func(s *backend.Spec) { s.Password = "second" },
		"other namespace": func(s *backend.Spec) { s.Namespace = "second" },
	} {
		s := good
		change(&s)
		_, err := p.Plan(t.Context(), []backend.Spec{s})
		require.ErrorIs(t, err, ErrSpec, name)
		results, err := p.Provision(t.Context(), []backend.Spec{s})
		require.NoError(t, err, name)
		require.ErrorIs(t, results[0].Err, ErrSpec, name)
		require.NotContains(t, results[0].Err.Error(), "second password")
	}
	require.NoError(t, p.Retire(t.Context(), "..", "", "a/b"))
	list, err := p.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1, "nothing was left behind")
}

// What a crash leaves of a backend that was being retired is no backend, and
// goes with the next one.
func TestHalfRetired(t *testing.T) {
	t.Parallel()
	p := open(t, filepath.Join(t.TempDir(), "has [brackets] *"), InProcess(nil))
	provision(t, p, specs()...)
	half := filepath.Join(p.dir, retiredPrefix+"data0-00")
	require.NoError(t, os.Mkdir(half, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(half, descriptionFile), nil, 0o600))
	list, err := p.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.NoError(t, p.Retire(t.Context(), "data1"))
	require.NoDirExists(t, half)
	rest, err := os.ReadDir(p.dir)
	require.NoError(t, err)
	require.Len(t, rest, 4, "two backends, the lock and the list of the retired")
}
