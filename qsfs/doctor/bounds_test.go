package doctor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// Forty backends that never answer, and a mount that hangs: the whole run ends
// within ten seconds, and says which they are.
func TestRunIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatient(t)
		for i := range 33 {
			p.o.Config.Backends = append(p.o.Config.Backends, config.Backend{Role: backend.Data, Address: fmt.Sprintf("[400::1:%d]:9900", i+1), Namespace: "n", Password: secret})
		}
		p.o.Dialer = backend.DialerFunc(func(ctx context.Context, _ backend.Backend) (backend.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		hangs, leave := context.WithCancel(context.Background())
		p.sys.trialMount = func(context.Context) error { <-hangs.Done(); return nil }
		p.o.system, p.o.Limit = p.sys, 0
		p.stopped()
		began := time.Now()
		r, err := Run(t.Context(), p.o)
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), 10*time.Second)
		n := map[string]int{}
		for _, one := range r.Problems(Warning) {
			sound(t, one)
			n[one.Check]++
		}
		assert.Equal(t, 40, n["backend-answers"])
		assert.Equal(t, 1, n["fuse-mount"])
		leave()
	})
}

// Whatever the kernel's files say: no panic, and sound results.
func FuzzFacts(f *testing.F) {
	names := []string{"proc/meminfo", "proc/self/cgroup", "proc/self/limits", "proc/self/mountinfo", "proc/locks", "proc/net/if_inet6", "proc/net/ipv6_route", "proc/net/unix"}
	for i, text := range []string{"MemTotal: 1 kB", "0::foo\n1:memory:", "Max open files a b", `1 1 1:1 / /a\040b\0 rw - fuse x`, "1: FLOCK A W -1 1:1:1", "zz 1 1 1 1 1", "00 80", "a b c 10000 1 1 1 /x"} {
		f.Add(uint8(i), text)
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		name := names[int(which)%len(names)]
		if strings.ContainsRune(text, 0) {
			return
		}
		p := newPatient(t)
		p.facts(map[string]string{name: text})
		for _, check := range []string{"memory", "memory-cgroup", "swap", "open-files", "processes-limit", "mountpoint", "lock", "sockets", "network-ipv6", "network-mycelium"} {
			for _, r := range p.ask(check) {
				require.NotEmpty(t, r.Check)
			}
		}
	})
}
