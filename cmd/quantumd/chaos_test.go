//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/hooks"
	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// chaos is a system of the built program under faults: the test plays the
// service manager, which starts a daemon that ended, and nothing else.
type chaos struct {
	*user
	t       *testing.T
	rng     *rand.Rand
	dir     string // everything
	b       string // of the backends
	f       string // of the frontend
	m       string // the mount
	machine int
	stop    func(os.Signal) int
	files   *written
}

// written is what was fsynced, with its folder, under each name.
type written struct {
	mu     sync.Mutex
	sums   map[string][32]byte
	coming map[string][32]byte // what was about to take a file's place
}

// TestChaos is rounds of: write, one random fault, heal. After each every byte is
// there, nothing waits, a check finds nothing, and no hand was needed. Once per
// fault of its own, or 200 rounds with QUANTUMD_LONG=1; CHAOS_ROUNDS and CHAOS_SEED choose.
// Embedded is one daemon; External has zdb and zstor as programs beside it, which
// are killed too: the real ones that ZDB_BIN and ZSTOR_BIN name, else this program.
func TestChaos(t *testing.T) {
	t.Run("Embedded", func(t *testing.T) { runChaos(t, false) })
	t.Run("External", func(t *testing.T) { runChaos(t, true) })
}

func runChaos(t *testing.T, external bool) {
	needsFUSE(t)
	c := newChaos(t, external)
	faults := c.faults()
	if external {
		faults = append(c.externalFaults(), faults...)
	}
	rounds := len(faults)
	if external {
		rounds = 3 // those of its own
	}
	if os.Getenv("QUANTUMD_LONG") != "" {
		rounds = 200
	}
	if n, err := strconv.Atoi(os.Getenv("CHAOS_ROUNDS")); err == nil {
		rounds = n
	}
	c.start()
	count := map[string]int{}
	for round := range rounds {
		f := faults[round%len(faults)]
		if round >= len(faults) {
			f = faults[c.rng.IntN(len(faults))]
		}
		began := time.Now()
		c.round(round, f)
		count[f.name]++
		t.Logf("round %d: %s, healed after %s", round, f.name, time.Since(began).Round(time.Millisecond))
	}
	t.Logf("%d rounds: %v; %d files; generation %d", rounds, count, len(c.files.sums), c.status().Generation)
	require.Zero(t, c.stop(os.Interrupt))
}

func newChaos(t *testing.T, external bool) *chaos {
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("CHAOS_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("CHAOS_SEED=%d", seed)
	dir := folder(t)
	c := &chaos{t: t, user: newUser(t, dir), dir: dir, rng: rand.New(rand.NewPCG(seed, 0)), b: filepath.Join(dir, "b"), m: filepath.Join(dir, "m"),
		files: &written{sums: map[string][32]byte{}, coming: map[string][32]byte{}}}
	c.env = append(c.env, "QUANTUMD_MIN_SHARDS=3", "QUANTUMD_EXPECTED_SHARDS=5", "QUANTUMD_ZDB_DATA_SIZE=1M", "QUANTUMD_RETRY_INTERVAL=2s",
		"QUANTUMD_ZDB_ROTATE_TIME=3s", "QUANTUMD_REPLACE={after: 2s, max_per_day: 0}")
	if external {
		c.env = append(c.env, "QUANTUMD_ENGINE={zdb: external, zstor: external}")
		if os.Getenv("ZDB_BIN") == "" || os.Getenv("ZSTOR_BIN") == "" {
			c.env = append(c.env, ownPrograms(t, dir)...)
		}
	}
	c.run(0, "deploy", "--local", "--dir", c.b)
	c.f = filepath.Join(dir, "f0")
	return c
}

func (c *chaos) start() {
	c.t.Helper()
	require.NoError(c.t, mount.CleanDead(c.m))
	c.stop = c.begin("up", "-c", filepath.Join(c.b, "config.yaml"), "--dir", c.f, "--mount", c.m, "--lease", "1s", "--log-level", "warn")
	c.run(0, "wait", "mount", "--dir", c.f, "--timeout", "50s")
}

func (c *chaos) client() *client.Client { return client.New(qsfs.LayoutBelow(c.f).ControlSocket()) }

func (c *chaos) status() *client.Status {
	c.t.Helper()
	st, err := c.client().Status(c.t.Context())
	require.NoError(c.t, err)
	return st
}

type fault struct {
	name string
	do   func()
	undo func() // nil: nothing comes back by itself
}

func (c *chaos) faults() []fault {
	var paused, pid int
	return []fault{
		{name: "kill -9 of the daemon", do: c.kill, undo: c.start},
		{name: "kill -9 of a backend", do: func() { c.killBackend(c.any("")) }},
		{name: "a backend is lost with its disk", do: func() { c.lose(c.any("")) }},
		{name: "SIGSTOP of a backend for a moment", do: func() {
			b := c.any("")
			paused = c.signal(b, syscall.SIGSTOP)
			c.until("it is seen", func(st *client.Status) bool { return stateOf(st, b.ID) != "up" })
		}, undo: func() { require.NoError(c.t, syscall.Kill(paused, syscall.SIGCONT)) }},
		{name: "SIGSTOP of a backend for good", do: func() { pid = c.signal(c.any(""), syscall.SIGSTOP) }, undo: func() {
			c.until("it is replaced", func(st *client.Status) bool {
				for _, b := range st.Backends {
					if b.PID == pid {
						return false
					}
				}
				return true
			})
		}},
		{name: "a data backend is full", do: func() { c.fill(c.any("data")) }},
		{name: "a metadata backend is full", do: func() { c.fill(c.any("meta")) }},
		{name: "the SQLite file is damaged", do: func() { c.kill(); c.damage() }, undo: c.start},
		{name: "the SQLite file is gone", do: func() {
			c.kill()
			for _, suffix := range []string{"", "-wal", "-shm"} {
				_ = os.Remove(qsfs.LayoutBelow(c.f).Database + suffix) // the second two may not be there
			}
		}, undo: c.start},
		{name: "events that never were, again and out of order", do: c.events},
		{name: "two backends are killed at once", do: func() {
			d, m := c.any("data"), c.any("meta")
			c.signal(d, syscall.SIGKILL)
			c.killBackend(m)
			c.gone(d)
		}},
		{name: "the machine is lost", do: c.loseMachine},
	}
}

// externalFaults are those of programs beside the daemon, which starts them again.
func (c *chaos) externalFaults() []fault {
	kill := func(name string) func() {
		return func() {
			story := &externalStory{user: c.user}
			old := story.pidOf(c.f, name)
			require.NoError(c.t, syscall.Kill(old, syscall.SIGKILL))
			require.Eventually(c.t, func() bool {
				pid := story.pidOf(c.f, name)
				return pid != 0 && pid != old && (name != "zdb" || story.serves(c.f)) // until then reads fail
			}, time.Minute, 20*time.Millisecond)
		}
	}
	return []fault{
		{name: "kill -9 of zdb", do: kill("zdb")},
		{name: "kill -9 of zstor", do: kill("zstor")},
		{name: "kill -9 of daemon, zdb and zstor", do: func() {
			c.kill()
			kill("zdb")()
			kill("zstor")()
		}, undo: c.start},
	}
}

// round writes, does the fault in the middle of it, reads everything that is
// there while the fault lasts, and waits until it is healed.
func (c *chaos) round(n int, f fault) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	var writing sync.WaitGroup
	seed := c.rng.Uint64()
	writing.Go(func() { c.files.write(ctx, c.m, seed, 20) })
	if n%2 == 0 {
		writing.Wait() // the fault hits what was just written
	}
	f.do()
	if f.undo != nil {
		f.undo()
	}
	writing.Wait()
	c.files.check(c.t, c.m, fmt.Sprintf("round %d, %s, before it is healed", n, f.name))
	c.healed()
	if n%3 == 0 {
		c.run(0, "evict", "--dir", c.f)
	}
	c.files.check(c.t, c.m, fmt.Sprintf("round %d, %s", n, f.name))
}

// healed waits until nothing is left to be done, and looks whether that is true.
func (c *chaos) healed() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	for { // uploads may pause for a moment
		_, err := c.client().Sync(ctx)
		if err == nil {
			break
		}
		require.NoError(c.t, ctx.Err(), "sync: %v\n%s", err, c.run(3, "status", "--dir", c.f))
	}
	c.until("it is healed", func(st *client.Status) bool {
		q := st.Queue
		if q.Pending+q.Uploading+q.Failed > 0 {
			return false
		}
		for _, p := range st.Replacements {
			if p.Step != client.ReplaceDone && p.Step != client.ReplaceCancelled {
				return false
			}
		}
		up := map[string]int{}
		for _, b := range st.Backends {
			if b.State == "up" {
				up[b.Role]++
			} else if b.State != "full" {
				return false
			}
		}
		return up["meta"] == 4 && up["data"] >= 5 && st.State == client.StateOK
	})
	report, err := c.client().Check(c.t.Context(), client.CheckRequest{})
	require.NoError(c.t, err)
	require.Equal(c.t, report.Files, report.OK, "%+v", report)
}

// until waits for a condition of the status.
func (c *chaos) until(what string, ok func(*client.Status) bool) {
	c.t.Helper()
	var last *client.Status
	for began := time.Now(); time.Since(began) < 2*time.Minute; {
		st, err := c.client().Status(c.t.Context())
		if err == nil && ok(st) {
			return
		}
		last = st
		timer := time.NewTimer(50 * time.Millisecond)
		<-timer.C
	}
	text, err := json.MarshalIndent(last, "", " ")
	require.NoError(c.t, err)
	events, _ := c.client().Events(c.t.Context(), "", 40)
	c.t.Fatalf("waiting until %s: %s\n%v", what, text, events)
}

func stateOf(st *client.Status, id string) string {
	for _, b := range st.Backends {
		if b.ID == id {
			return b.State
		}
	}
	return "gone"
}

// any chooses a backend of a role, or of any, that works.
func (c *chaos) any(role string) client.Backend {
	c.t.Helper()
	var some []client.Backend
	for _, b := range c.status().Backends {
		if (role == "" || b.Role == role) && b.State == "up" && b.PID > 0 {
			some = append(some, b)
		}
	}
	require.NotEmpty(c.t, some)
	return some[c.rng.IntN(len(some))]
}

func (c *chaos) signal(b client.Backend, s syscall.Signal) int {
	c.t.Helper()
	require.NoError(c.t, syscall.Kill(b.PID, s), b.ID)
	return b.PID
}

// killBackend waits until it was noticed: a look that is old says that all is
// well.
func (c *chaos) killBackend(b client.Backend) {
	c.t.Helper()
	c.signal(b, syscall.SIGKILL)
	c.gone(b)
}

// gone waits until a process is not among those of the backends any more.
func (c *chaos) gone(b client.Backend) {
	c.t.Helper()
	c.until(b.ID+" is known to be gone", func(st *client.Status) bool {
		for _, now := range st.Backends {
			if now.PID == b.PID {
				return false
			}
		}
		return true
	})
}

func (c *chaos) lose(b client.Backend) {
	c.t.Helper()
	c.signal(b, syscall.SIGKILL)
	require.NoError(c.t, os.Rename(b.Dir, filepath.Join(c.dir, fmt.Sprintf("lost-%s", b.ID))))
	c.gone(b)
}

// fill leaves a backend less room than it needs.
func (c *chaos) fill(b client.Backend) {
	c.t.Helper()
	secret, err := os.ReadFile(filepath.Join(b.Dir, "admin"))
	require.NoError(c.t, err)
	admin := zdb.DialAdmin(b.Address, backend.Secret(strings.TrimSpace(string(secret))), zdb.Options{Timeout: 5 * time.Second})
	defer admin.Close() //nolint:errcheck // a test's
	info, err := admin.Info(c.t.Context(), b.Namespace)
	require.NoError(c.t, err)
	require.NoError(c.t, admin.SetMaxSize(c.t.Context(), b.Namespace, info.Used+200_000))
	c.until(b.ID+" is seen to be full", func(st *client.Status) bool { return stateOf(st, b.ID) != "up" })
}

func (c *chaos) kill() {
	c.stop(os.Kill)
	require.NoError(c.t, mount.CleanDead(c.m))
}

// damage writes over a part of the SQLite file.
func (c *chaos) damage() {
	c.t.Helper()
	path := qsfs.LayoutBelow(c.f).Database
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(c.t, err)
	st, err := f.Stat()
	require.NoError(c.t, err)
	junk := make([]byte, 64<<10)
	for i := range junk {
		junk[i] = byte(c.rng.Uint32())
	}
	_, err = f.WriteAt(junk, c.rng.Int64N(st.Size()))
	require.NoError(c.t, errors.Join(err, f.Close()))
	if c.rng.IntN(2) == 0 {
		require.NoError(c.t, os.Truncate(path, c.rng.Int64N(st.Size())))
	}
}

// events are what a zdb could say, in any order and again and again.
func (c *chaos) events() {
	c.t.Helper()
	layout := qsfs.LayoutBelow(c.f)
	to := &hooks.Client{Socket: layout.HookSocket()}
	for range 100 {
		ns := []string{"zdbfs-data", "zdbfs-meta", "zdbfs-temp", "other"}[c.rng.IntN(4)]
		id := c.rng.IntN(30)
		data := filepath.Join(layout.DataDir(), ns, fmt.Sprintf("d%d", id))
		index := filepath.Join(layout.IndexDir(), ns, fmt.Sprintf("i%d", id))
		e := []hooks.Event{
			{Kind: hooks.JumpData, Data: data, NextData: data + "1"},
			{Kind: hooks.JumpIndex, Index: index, NextIndex: index + "1", Dirty: []uint32{0, uint32(id)}},
			{Kind: hooks.NamespaceUpdated, Namespace: ns},
			{Kind: hooks.NamespaceDeleted, Namespace: ns},
			{Kind: hooks.NamespaceClosing, Namespace: ns, Data: data, Index: index},
			{Kind: hooks.Close}, {Kind: hooks.Ready}, {Kind: hooks.Crash},
			{Kind: hooks.NamespacesInit, IndexRoot: layout.IndexDir(), DataRoot: layout.DataDir()},
		}[c.rng.IntN(9)]
		e.Instance = "tcp://127.0.0.1:9900"
		ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
		err := to.HandleHook(ctx, e) // what is nonsense may be refused
		require.NotErrorIs(c.t, err, hooks.ErrUnavailable)
		require.NoError(c.t, ctx.Err())
		cancel()
	}
}

// loseMachine loses the frontend with its folder. What said of itself that it is
// safe is there after the restore.
func (c *chaos) loseMachine() {
	c.t.Helper()
	safe := map[string][32]byte{}
	c.files.mu.Lock()
	for name, sum := range c.files.sums {
		if safeNow(filepath.Join(c.m, name)) {
			safe[name] = sum
		}
	}
	c.files.mu.Unlock()
	c.kill()
	clear(c.f) // programs beside it
	require.NoError(c.t, os.RemoveAll(c.f))
	c.machine++
	c.f = filepath.Join(c.dir, fmt.Sprintf("f%d", c.machine))
	for began := time.Now(); ; { // its lease has to end first
		err := c.command(c.t.Context(), "restore", "-c", filepath.Join(c.b, "config.yaml"), "--dir", c.f, "--lease", "1s").Run()
		if err == nil {
			break
		}
		require.Less(c.t, time.Since(began), time.Minute)
		timer := time.NewTimer(100 * time.Millisecond)
		<-timer.C
	}
	c.start()
	c.files.mu.Lock()
	defer c.files.mu.Unlock()
	for name, sum := range safe {
		data, err := os.ReadFile(filepath.Join(c.m, name))
		require.NoError(c.t, err, "it was called safe")
		if got := sha256.Sum256(data); got != sum {
			require.Equal(c.t, c.files.coming[name], got, "%s was called safe", name)
		}
	}
	// The rest is lost as the loss window says: what is there is what was written.
	for name := range c.files.sums {
		data, err := os.ReadFile(filepath.Join(c.m, name))
		if errors.Is(err, fs.ErrNotExist) {
			delete(c.files.sums, name)
			continue
		}
		require.NoError(c.t, err)
		c.files.sums[name] = sha256.Sum256(data)
	}
}

// safeNow asks a file whether it is safe.
func safeNow(path string) bool {
	value := make([]byte, 32)
	n, err := syscall.Getxattr(path, "user.qsfs.safe", value)
	return err == nil && string(value[:max(n, 0)]) == "safe"
}

// write makes n files below root as careful programs do.
func (w *written) write(ctx context.Context, root string, seed uint64, n int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < n && ctx.Err() == nil; i++ {
		name := fmt.Sprintf("d%d/f%d", rng.IntN(4), rng.IntN(50))
		data := make([]byte, rng.IntN(200_000))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		w.mu.Lock()
		w.coming[name] = sha256.Sum256(data)
		w.mu.Unlock()
		path := filepath.Join(root, name)
		if os.MkdirAll(filepath.Dir(path), 0o755) != nil || durable.WriteFile(path, data, 0o644) != nil {
			return // the file system is gone
		}
		w.mu.Lock()
		w.sums[name] = sha256.Sum256(data)
		w.mu.Unlock()
	}
}

// check reads everything back. A file that was being replaced when the fault
// came may be the old or the new one.
func (w *written) check(t *testing.T, root, when string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, want := range w.sums {
		data, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err, "%s: fsynced, and gone", when)
		if got := sha256.Sum256(data); got == w.coming[name] {
			w.sums[name] = got
		} else {
			require.Equal(t, want, got, "%s: %s is not what was fsynced (%d bytes)", when, name, len(data))
		}
	}
}
