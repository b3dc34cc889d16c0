package qsfs

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// The services of each mix: their order, what runs before and after, and what
// each may write.
func TestComponentServices(t *testing.T) {
	t.Parallel()
	const em, ex = config.Embedded, config.External
	for _, c := range []struct {
		engine config.Engine
		order  []string
		drains string // the command that brings everything to the backends before the first stop
		by     string // whose it is
	}{
		{config.Engine{Zdb: em, Zstor: em, Zdbfs: em}, []string{"quantumd"}, "", ""},
		{config.Engine{Zdb: ex, Zstor: em, Zdbfs: em}, []string{"quantumd", "qsfs-zdb"}, "drain", "qsfs-zdb"},
		{config.Engine{Zdb: em, Zstor: ex, Zdbfs: em}, []string{"qsfs-zstor", "quantumd"}, "", ""},
		{config.Engine{Zdb: ex, Zstor: ex, Zdbfs: em}, []string{"qsfs-zstor", "quantumd", "qsfs-zdb"}, "drain", "qsfs-zdb"},
		{config.Engine{Zdb: ex, Zstor: em, Zdbfs: ex}, []string{"quantumd", "qsfs-zdb", "qsfs-zdbfs"}, "sync", "qsfs-zdbfs"},
		{config.Engine{Zdb: ex, Zstor: ex, Zdbfs: ex}, []string{"qsfs-zstor", "quantumd", "qsfs-zdb", "qsfs-zdbfs"}, "sync", "qsfs-zdbfs"},
	} {
		cfg := config.Default()
		cfg.Engine = c.engine
		s := &System{cfg: cfg, layout: SystemLayout("", cfg), log: slog.New(slog.DiscardHandler)}
		list, err := s.serviceList(SetupOptions{Daemon: []string{"--config", "/etc/x.yaml"}}, "/usr/local/bin/quantumd")
		require.NoError(t, err)
		slices.Reverse(list) // the order comes from what each says
		sorted, err := services.Order(list)
		require.NoError(t, err)
		var names []string
		mounts := 0
		for _, one := range sorted {
			require.NoError(t, one.Validate())
			names = append(names, one.Name)
			assert.False(t, one.Unconfined)
			assert.True(t, one.RuntimeDir == "qsfs" || one.Name == ZdbfsServiceName, "the sockets' folder has to be there")
			assert.NotContains(t, strings.Join(one.Exec, " "), "--rotate")
			if one.Mountpoint != "" {
				mounts++
			}
			want := ""
			if one.Name == c.by {
				want = c.drains
				assert.Greater(t, one.StopTimeout, drainLimit)
			}
			if want == "" {
				assert.Empty(t, one.StopExec, one.Name)
			} else {
				assert.Equal(t, []string{"/usr/local/bin/quantumd", want, "--timeout", "9m0s", "--config", "/etc/x.yaml", "--log-level", "error"}, one.StopExec)
			}
			switch one.Name {
			case ZdbServiceName:
				assert.Equal(t, services.KillProcess, one.Kill)
				assert.Equal(t, []int{143, 130}, one.SuccessExit)
				assert.Contains(t, one.Writable, "/var/lib/quantumd/spool", "its hooks write there")
				assert.Equal(t, []string{"wait", "zdb", "--at", "/run/qsfs/zdb.sock"}, one.WaitExec[1:5])
			case ZdbfsServiceName:
				assert.Equal(t, []string{"wait", "mount", "--at", "/mnt/qsfs"}, one.WaitExec[1:5])
				assert.Empty(t, one.Requires, "it finds the next zdb")
			case ZstorServiceName:
				assert.Empty(t, one.WaitExec, "backends that are away keep nobody from starting")
				assert.NotZero(t, one.ReloadSignal)
			case ServiceName:
				assert.True(t, one.Notify)
			}
		}
		assert.Equal(t, c.order, names)
		assert.Equal(t, 1, mounts, "one mounts, and is left unconfined so that others see it")
	}
}

// A zdb that has ended, and whose hooks have its lock for a moment longer, does
// not answer: a cut waits until one of both is known.
func TestExternalEndingZdb(t *testing.T) {
	t.Parallel()
	z, k := newBesideZdb(t), newKept(t)
	z.set("first")
	k.cut(z)
	z.set("second")
	gone := &goneZdb{asked: make(chan struct{}, 100)}
	z.x.admin = gone
	go func() {
		<-gone.asked
		<-gone.asked
		z.stop()
	}()
	cut, err := z.x.Cut(t.Context(), k.request())
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, ids(cut.Data))

	// One that never comes back is told of.
	z.x.admin = z
	z.start()
	z.x.admin = gone
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = z.x.Cut(ctx, k.request())
	var away *backend.UnreachableError
	require.ErrorAs(t, err, &away)
	require.NotContains(t, err.Error(), "invalid AddrPort")
}

// goneZdb does not answer.
type goneZdb struct{ asked chan struct{} }

func (g *goneZdb) Info(context.Context, string) (backend.NamespaceInfo, error) {
	select {
	case g.asked <- struct{}{}:
	default:
	}
	return backend.NamespaceInfo{}, &backend.UnreachableError{Err: errors.New("connection reset by peer")}
}

func (g *goneZdb) Jump(context.Context, string, backend.Secret) error {
	return &backend.UnreachableError{Err: errors.New("connection reset by peer")}
}
