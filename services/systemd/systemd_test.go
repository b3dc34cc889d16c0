package systemd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services"
	"github.com/threefoldtech/quantumd/services/servicestest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "qsfs.target"} {
		t.Run("target="+target, func(t *testing.T) {
			t.Parallel()
			servicestest.Run(t, servicestest.Harness{
				Double: true, // TestMachine has the real one
				New:    func(t *testing.T) services.ServiceManager { return newFake(t).manager(target) },
				Service: func(t *testing.T, name string) services.Service {
					return services.Service{Name: name, Exec: []string{"/bin/sleep", "60"}}
				},
			})
		})
	}
}

// What belongs to the target is stopped with it, in one transaction; a part of
// it one after the other.
func TestStopInOrder(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := f.manager("qsfs.target")
	_, err := m.Apply(ctx, qsfs()[:4])
	require.NoError(t, err)
	names := []string{"qsfs-zdbfs", "qsfs-zstor", "qsfs-quantumd", "qsfs-zdb"}
	f.calls()
	require.NoError(t, m.Start(ctx, names...))
	require.Equal(t, []string{
		"start qsfs-zstor.service", "start qsfs-quantumd.service", "start qsfs-zdb.service", "start qsfs-zdbfs.service", "start qsfs.target",
	}, f.calls())
	require.NoError(t, m.Stop(ctx, names[1:]...))
	require.Equal(t, []string{"stop qsfs-zdb.service", "stop qsfs-quantumd.service", "stop qsfs-zstor.service"}, f.calls())
	require.NoError(t, m.Stop(ctx, names...))
	require.Equal(t, []string{
		"stop qsfs.target", "stop qsfs-zdbfs.service", "stop qsfs-zdb.service", "stop qsfs-quantumd.service", "stop qsfs-zstor.service",
	}, f.calls(), "the target first: that is the transaction; the others prove the end")
}

func TestApplyWritesPlainFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := f.manager("qsfs.target")
	_, err := m.Apply(ctx, qsfs()[:1])
	require.NoError(t, err)
	require.Equal(t, []string{"enable qsfs-zstor.service qsfs.target", "reload"}, f.calls())
	_, err = m.Apply(ctx, qsfs()[1:2])
	require.NoError(t, err)
	require.Equal(t, []string{"enable qsfs-quantumd.service", "reload"}, f.calls())
	for name, want := range map[string]string{"qsfs-zstor.service": "qsfs.target", "qsfs-quantumd.service": "qsfs.target", "qsfs.target": bootTarget} {
		st, err := os.Stat(filepath.Join(f.dir(), name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o644), st.Mode())
		require.Equal(t, []string{want}, f.links(name))
	}
	require.NoError(t, m.Remove(ctx, "qsfs-zstor"))
	require.FileExists(t, filepath.Join(f.dir(), "qsfs.target"))
	require.NoError(t, m.Remove(ctx, "qsfs-quantumd"))
	left, err := os.ReadDir(f.dir())
	require.NoError(t, err)
	require.Empty(t, left, "and the target goes with the last one")
}

// An Apply that finds everything in place changes nothing, and one that finds
// what an earlier one did not come to do does just that.
func TestApplyDoesOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "qsfs.target"} {
		ctx := t.Context()
		f := newFake(t)
		m := f.manager(target)
		wants := either(target, bootTarget)
		unit := filepath.Join(f.dir(), "qsfs-zstor.service")
		apply := func() []string {
			t.Helper()
			_, err := m.Apply(ctx, qsfs()[:1])
			require.NoError(t, err)
			return f.calls()
		}
		apply()
		before, err := os.Stat(unit)
		require.NoError(t, err)
		require.Empty(t, apply(), "nothing is to be done")
		after, err := os.Stat(unit)
		require.NoError(t, err)
		require.True(t, os.SameFile(before, after), "not even the same text again")

		f.units["qsfs-zstor.service"].text = "an older one" // a power cut before the reload
		require.Equal(t, []string{"reload"}, apply())
		f.units["qsfs-zstor.service"].links = nil // … or between enable and reload
		if target != "" {
			require.Equal(t, []string{"reload"}, apply())
		}
		require.NoError(t, os.Remove(filepath.Join(f.dir(), wants+".wants", "qsfs-zstor.service")))
		require.Equal(t, []string{"enable qsfs-zstor.service", "reload"}, apply())
		require.NoError(t, os.Remove(unit))
		require.Equal(t, []string{"reload"}, apply(), "the link was left")
	}
}

// The unit of an older installation had other targets: their links would be left.
func TestApplyOverSomebodyElsesUnit(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := f.manager("qsfs.target")
	path := filepath.Join(f.dir(), "quantumd.service")
	link := filepath.Join(f.dir(), bootTarget+".wants", "quantumd.service")
	require.NoError(t, os.MkdirAll(filepath.Dir(link), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("[Service]\nExecStart=/usr/local/bin/quantumd\n[Install]\nWantedBy=multi-user.target\n"), 0o644))
	require.NoError(t, os.Symlink("../quantumd.service", link))
	installed, err := m.Installed(ctx)
	require.NoError(t, err)
	require.Empty(t, installed, "it is not ours")
	_, err = m.Apply(ctx, []services.Service{{Name: "quantumd", Exec: []string{"/usr/local/bin/quantumd", "daemon"}}})
	require.NoError(t, err)
	require.Equal(t, []string{"disable quantumd.service", "enable quantumd.service qsfs.target", "reload"}, f.calls())
	require.Equal(t, []string{"qsfs.target"}, f.links("quantumd.service"))
}

// A Remove that did not come to its end is ended by the next one.
func TestRemoveGoesOn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := f.manager("qsfs.target")
	_, err := m.Apply(ctx, qsfs()[:1])
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(f.dir(), "qsfs-zstor.service")))
	require.NoError(t, m.Remove(ctx, "qsfs-zstor"))
	require.NoFileExists(t, filepath.Join(f.dir(), "qsfs.target"))
	f.calls()
	require.NoError(t, m.Remove(ctx, "qsfs-zstor"))
	require.Empty(t, f.calls())
}

func TestResultsOfJobs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := f.manager("")
	_, err := m.Apply(ctx, qsfs()[2:4])
	require.NoError(t, err)
	var failed *services.FailedError
	var job *JobError

	f.result["qsfs-zdb.service"] = "failed"
	require.ErrorAs(t, m.Start(ctx, "qsfs-zdb"), &failed)
	require.Equal(t, services.Failed, failed.Status.State)
	require.Equal(t, "exit-code", failed.Status.Detail)
	require.NotEmpty(t, failed.Hint())
	require.ErrorAs(t, m.WaitReady(ctx, "qsfs-zdb"), &failed)

	f.result["qsfs-zdbfs.service"] = "dependency"
	err = m.Start(ctx, "qsfs-zdbfs")
	require.ErrorAs(t, err, &job)
	require.ErrorAs(t, err, &failed)
	require.Equal(t, "qsfs-zdb", failed.Status.Name, "the one that is to blame")

	f.result["qsfs-zdb.service"] = "timeout"
	require.ErrorAs(t, m.Start(ctx, "qsfs-zdb"), &failed)

	for _, r := range []string{"canceled", "skipped", "invalid"} {
		f.result["qsfs-zdb.service"] = r
		require.ErrorAs(t, m.Start(ctx, "qsfs-zdb"), &job, r)
		require.Equal(t, JobError{Verb: "start", Name: "qsfs-zdb", Result: r}, *job)
		require.NotEmpty(t, job.Hint())
		require.Contains(t, job.Error(), r)
		require.ErrorAs(t, m.Stop(ctx, "qsfs-zdb"), &job, r)
	}
}

// The end of a job whose signal went astray is seen nevertheless.
func TestJobWithoutASignal(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	m := f.manager("")
	_, err := m.Apply(t.Context(), qsfs()[:1])
	require.NoError(t, err)
	f.mute = true
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, m.Start(t.Context(), "qsfs-zstor"))
		require.NoError(t, m.Stop(t.Context(), "qsfs-zstor"))
		f.result["qsfs-zstor.service"] = "failed"
		var failed *services.FailedError
		require.ErrorAs(t, m.Start(t.Context(), "qsfs-zstor"), &failed)
		ctx, cancel := context.WithTimeout(t.Context(), jobLook/2)
		defer cancel()
		require.ErrorIs(t, m.Start(ctx, "qsfs-zstor"), context.DeadlineExceeded)
	})
}

func TestStates(t *testing.T) {
	t.Parallel()
	for active, want := range map[string]services.State{
		"active": services.Active, "reloading": services.Active, "refreshing": services.Active, "activating": services.Starting,
		"deactivating": services.Stopping, "failed": services.Failed, "inactive": services.Inactive, "": services.Inactive,
	} {
		require.Equal(t, want, properties{"LoadState": "loaded", "ActiveState": active}.state(), active)
	}
	require.Equal(t, services.Missing, properties{"LoadState": "not-found", "ActiveState": "inactive"}.state())
	require.Equal(t, services.Status{Name: "a", State: services.Inactive}, properties{
		"MainPID": "1", "NRestarts": nil, "ExecMainStatus": 1.5, "StateChangeTimestamp": []string{"x"}, "Result": 1, "ActiveState": true,
	}.status("a"), "what is of another type is not taken for something")
}

func TestErrorsOfSystemd(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	var hint interface{ Hint() string }
	require.ErrorAs(t, refused(ctx, "enable x", errDenied), &hint)
	require.Contains(t, hint.Hint(), "root")
	require.ErrorAs(t, refused(ctx, "enable x", errDenied), &dbus.Error{})
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, refused(ended, "x", dbus.ErrClosed), context.Canceled)

	m := New(Options{Root: f.root, Dial: func(context.Context) (Bus, error) {
		return nil, &ConnectError{Err: errors.Join(errors.New("no bus"), errors.New("no socket"))}
	}})
	_, err := m.Apply(ctx, qsfs()[:1])
	require.ErrorAs(t, err, &hint)
	require.NotEmpty(t, hint.Hint())
	require.NotContains(t, err.Error(), "\n")
	require.NoDirExists(t, f.dir(), "nothing was written")
	_, err = m.Status(ctx, "a")
	require.Error(t, err)
}

func TestLogs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFake(t)
	m := f.manager("")
	_, err := m.Apply(ctx, qsfs()[:1])
	require.NoError(t, err)
	var out bytes.Buffer
	f.calls()
	require.NoError(t, m.Logs(ctx, "qsfs-zstor", services.LogOptions{Lines: 7, Follow: true}, &out))
	require.Contains(t, out.String(), "ready")
	require.Equal(t, []string{"journalctl --unit=qsfs-zstor.service --lines=7 --output=short-iso --no-pager --quiet --follow"}, f.calls())
}

func TestProgramsTellWhatWentWrong(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, "/bin/sh", "-c", "echo $LC_ALL"))
	require.Equal(t, "C\n", out.String())
	err := run(t.Context(), &out, "/bin/sh", "-c", "echo No journal files. >&2; exit 5")
	require.ErrorContains(t, err, "No journal files.")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 5, exit.ExitCode())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	began := time.Now()
	require.Error(t, run(ctx, &out, "/bin/sh", "-c", "sleep 20 & wait"))
	require.Less(t, time.Since(began), 10*time.Second, "not as long as what it started")
	require.False(t, strings.Contains(out.String(), "No journal"))
}
