package sdkprocess_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
)

const phrase = "legal winner thank year wave sausage worth useful legal winner thank yellow"

// TestMain lets the test's own binary be the child.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		child(os.Args[2])
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the children: else each sleeps a second before it ends
	os.Exit(m.Run())
}

func child(mode string) {
	frame := func(n uint32, text string) {
		_, _ = os.Stdout.Write(append(binary.BigEndian.AppendUint32(nil, n), text...))
		select {}
	}
	switch mode {
	case "dead":
		fmt.Fprintln(os.Stderr, "no such account: "+phrase)
		os.Exit(7)
	case "mute":
		select {}
	case "garbage":
		frame(4, "nope")
	case "huge":
		frame(1<<31, "")
	case "deaf": // it answers the opening and never reads again
		text := `{"id":1}`
		frame(uint32(len(text)), text)
	}
	err := sdkprocess.Main(func(_ context.Context, o sdkprocess.Options) (grid.Client, error) {
		if mode == "refuse" {
			return nil, &grid.Error{Kind: grid.ErrMnemonic, Msg: "it was " + o.Mnemonic.Reveal(), Remedy: "another"}
		}
		return fake{o}, nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// fake does what a node's number asks for.
type fake struct{ o sdkprocess.Options }

const (
	panics = iota + 1
	hangs
	waits
	isDown
	talks
)

func (f fake) Account(context.Context) (grid.Account, error) {
	return grid.Account{Twin: uint32(os.Getpid()), Address: strings.Join(append([]string{f.o.Network, f.o.RelayURL, f.o.ProxyURL, f.o.RMBTimeout.String()}, f.o.SubstrateURLs...), " "),
		TFT: float64(len(f.o.Mnemonic.Reveal()))}, nil
}

func (f fake) Read(ctx context.Context, node uint32, contract uint64) (grid.Zdb, error) {
	switch node {
	case panics:
		done := make(chan struct{})
		go func() { // as the SDK does
			var none []uint64
			_ = none[contract]
			close(done)
		}()
		<-done
	case hangs:
		select {}
	case waits:
		<-ctx.Done()
		return grid.Zdb{}, fmt.Errorf("asking: %w", ctx.Err())
	case isDown:
		return grid.Zdb{}, fmt.Errorf("read: %w", &grid.Error{Kind: grid.ErrNodeDown, Msg: "node 4", Remedy: "wait"})
	case talks:
		fmt.Println("printed by a library: " + f.o.Mnemonic.Reveal())
		f.o.Logger.Error("logged", "secret", f.o.Mnemonic.Reveal())
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<16-20)+f.o.Mnemonic.Reveal())
		return grid.Zdb{}, errors.New("with " + f.o.Mnemonic.Reveal())
	}
	return grid.Zdb{Name: "z", Role: backend.Meta, Namespace: "ns", Size: int64(contract), Addresses: []netip.Addr{netip.MustParseAddr("400::1")}, Port: 9900}, nil
}

func (f fake) Deploy(ctx context.Context, list []grid.Request) ([]grid.Deployed, error) {
	var out []grid.Deployed
	for _, r := range list {
		switch {
		case r.Node == panics:
			panic("deploy")
		case r.Node == waits: // what it made is given back once it is told to end
			<-ctx.Done()
			out = append(out, grid.Deployed{Err: ctx.Err()})
		case r.Password == "":
			out = append(out, grid.Deployed{Err: &grid.Error{Kind: grid.ErrCapacity, Msg: r.Name}})
		default:
			out = append(out, grid.Deployed{Contract: uint64(len(r.Password.Reveal()))})
		}
	}
	return out, errors.Join(&grid.Error{Kind: grid.ErrInterrupted, Msg: "a"}, &grid.Error{Kind: grid.ErrFunds, Msg: "b"})
}

func (f fake) Nodes(_ context.Context, x grid.NodeFilter) ([]grid.Node, error) {
	return []grid.Node{{ID: x.IDs[0], Farm: x.Farms[0], Country: x.Features[0], FreeHDD: x.FreeHDD, Certified: x.Certified, Up: x.Up}}, nil
}

func (f fake) Contracts(context.Context) ([]grid.Contract, error) {
	return []grid.Contract{{ID: 1, Node: 2, Name: "n", Project: "p", Grace: true, Created: time.Unix(3, 0).UTC()}}, nil
}

func (f fake) OnNode(_ context.Context, node uint32) ([]grid.Contract, error) {
	return []grid.Contract{{Node: node}}, nil
}

func (f fake) Cancel(_ context.Context, ids ...uint64) error {
	if len(ids) == 2 && ids[0] == 7 && ids[1] == 8 {
		return nil
	}
	return fmt.Errorf("%v", ids)
}

func (f fake) Price(_ context.Context, size int64, certified bool) (float64, error) {
	if certified {
		return float64(2 * size), nil
	}
	return float64(size), nil
}

func (f fake) Close() error { return nil }

func begin(t *testing.T, mode string, change ...func(*sdkprocess.Options)) (grid.Client, *logged, error) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	l := &logged{}
	o := sdkprocess.Options{Mnemonic: phrase, Network: "dev", RelayURL: "r", ProxyURL: "p", SubstrateURLs: []string{"s", "t"}, RMBTimeout: 3 * time.Second,
		Logger: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := sdkprocess.Start(ctx, []string{self, "child", mode}, o)
	if err == nil {
		t.Cleanup(func() { require.NoError(t, c.Close()) })
	}
	return c, l, err
}

func start(t *testing.T) (grid.Client, *logged) {
	t.Helper()
	c, l, err := begin(t, "good")
	require.NoError(t, err)
	return c, l
}

type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestCalls: what goes in and out of each call is the same on both sides.
func TestCalls(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	a, err := c.Account(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, uint32(os.Getpid()), a.Twin)
	require.Equal(t, "dev r p 3s s t", a.Address)
	require.EqualValues(t, len(phrase), a.TFT)

	f := grid.NodeFilter{IDs: []uint32{5}, Farms: []uint64{6}, FreeHDD: 7, Features: []string{"zdb"}, Certified: true, Up: true}
	nodes, err := c.Nodes(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, []grid.Node{{ID: 5, Farm: 6, Country: "zdb", FreeHDD: 7, Certified: true, Up: true}}, nodes)

	list, err := c.Contracts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []grid.Contract{{ID: 1, Node: 2, Name: "n", Project: "p", Grace: true, Created: time.Unix(3, 0).UTC()}}, list)
	list, err = c.OnNode(t.Context(), 99)
	require.NoError(t, err)
	require.Equal(t, []grid.Contract{{Node: 99}}, list)

	z, err := c.Read(t.Context(), 100, 1<<40)
	require.NoError(t, err)
	require.Equal(t, grid.Zdb{Name: "z", Role: backend.Meta, Namespace: "ns", Size: 1 << 40, Addresses: []netip.Addr{netip.MustParseAddr("400::1")}, Port: 9900}, z)

	require.NoError(t, c.Cancel(t.Context(), 7, 8))
	require.EqualError(t, c.Cancel(t.Context(), 8), "[8]")
	usd, err := c.Price(t.Context(), 5, true)
	require.NoError(t, err)
	require.InDelta(t, 10, usd, 0)

	// Passwords cross the pipe; answers keep their order; a joined error keeps all kinds.
	done, err := c.Deploy(t.Context(), []grid.Request{{Name: "a", Node: 100, Password: "four"}, {Name: "b", Node: 100}})
	require.Equal(t, uint64(4), done[0].Contract)
	require.NoError(t, done[0].Err)
	require.ErrorIs(t, done[1].Err, grid.ErrCapacity)
	require.ErrorIs(t, err, grid.ErrInterrupted)
	require.ErrorIs(t, err, grid.ErrFunds)

	_, err = c.Read(t.Context(), isDown, 1)
	var known *grid.Error
	require.ErrorAs(t, err, &known)
	require.ErrorIs(t, err, grid.ErrNodeDown)
	require.Equal(t, "wait", known.Hint())
	require.EqualError(t, err, "read: grid: the node does not answer: node 4")
}

// TestConcurrent: calls do not wait for one another.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Read(ctx, waits, 1)
		waiting <- err
	}()
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			z, err := c.Read(t.Context(), 100, uint64(i))
			if err != nil || z.Size != int64(i) {
				t.Errorf("%d: %v %v", i, z, err)
			}
		})
	}
	all.Wait()
	cancel()
	require.ErrorIs(t, <-waiting, context.Canceled)
}

// TestCrash: a panic ends the child alone, the call says so, and the next one works.
func TestCrash(t *testing.T) {
	t.Parallel()
	c, l := start(t)
	before, err := c.Account(t.Context())
	require.NoError(t, err)
	_, err = c.Read(t.Context(), panics, 3)
	require.ErrorIs(t, err, grid.ErrCrashed)
	require.ErrorContains(t, err, "panic: runtime error: index out of range [3]")
	after, err := c.Account(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, before.Twin, after.Twin)
	require.Contains(t, l.String(), "another is started")

	done, err := c.Deploy(t.Context(), []grid.Request{{Node: 100}, {Node: panics}})
	require.ErrorIs(t, err, grid.ErrCrashed)
	require.Len(t, done, 2)
	require.ErrorIs(t, done[0].Err, grid.ErrCrashed)
	require.ErrorIs(t, done[1].Err, grid.ErrCrashed)
	_, err = c.Account(t.Context())
	require.NoError(t, err)
}

// TestCrashIdle: a child that ended between two calls is noticed.
func TestCrashIdle(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	for range 3 {
		a, err := c.Account(t.Context())
		require.NoError(t, err)
		p, err := os.FindProcess(int(a.Twin))
		require.NoError(t, err)
		require.NoError(t, p.Kill())
		require.Eventually(t, func() bool { // a call at this very moment may find it dying
			b, err := c.Account(t.Context())
			return err == nil && b.Twin != a.Twin
		}, 10*time.Second, time.Millisecond)
	}
}

// TestCancel: the end of a context ends a call, and a child that does not listen.
func TestCancel(t *testing.T) {
	t.Parallel()
	c, _, err := begin(t, "good", func(o *sdkprocess.Options) { o.AfterCancel = 100 * time.Millisecond })
	require.NoError(t, err)
	a, err := c.Account(t.Context())
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done, err := c.Deploy(ctx, []grid.Request{{Node: waits}})
	require.ErrorIs(t, done[0].Err, context.Canceled, "it had its time to give back")
	require.ErrorIs(t, err, grid.ErrInterrupted, "the child's own answer")
	same, err := c.Account(t.Context())
	require.NoError(t, err)
	require.Equal(t, a.Twin, same.Twin)

	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = c.Read(ctx, hangs, 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "killed")
	require.Less(t, time.Since(began), 15*time.Second)
	other, err := c.Account(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, a.Twin, other.Twin)

	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Account(over)
	require.ErrorIs(t, err, context.Canceled)
}

// TestSecrets: the mnemonic is in no argument, variable, log or error.
func TestSecrets(t *testing.T) {
	t.Setenv("MNEMONIC", phrase)
	t.Setenv("OTHER", "x "+phrase)
	t.Setenv("SENTRY_DSN", "https://key@example.org/1")
	c, l := start(t)
	a, err := c.Account(t.Context())
	require.NoError(t, err)
	for _, file := range []string{"environ", "cmdline"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", a.Twin, file))
		if errors.Is(err, os.ErrNotExist) {
			continue // no such files on this system
		}
		require.NoError(t, err)
		require.NotEmpty(t, text)
		require.NotContains(t, string(text), "winner")
		require.NotContains(t, string(text), "SENTRY_DSN")
	}
	_, err = c.Read(t.Context(), talks, 1)
	require.EqualError(t, err, "with [hidden]")
	_, err = c.Account(t.Context())
	require.NoError(t, err, "what is printed does not disturb")
	require.Eventually(t, func() bool { return strings.Contains(l.String(), "a line of more than") }, 10*time.Second, time.Millisecond)
	require.Contains(t, l.String(), `msg=logged secret=[hidden]`)
	require.Contains(t, l.String(), `printed by a library: [hidden]`)
	require.NotContains(t, l.String(), "winner")
}

// TestBadChildren: whatever a program answers, Start ends with an error and leaves no
// process.
func TestBadChildren(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		"dead": "exit status 7: no such account: [hidden]", "garbage": "is no message", "huge": "says that it has",
		"refuse": "grid: the mnemonic is not valid, or of no account on this network: it was [hidden]",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			_, _, err := begin(t, mode)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "winner")
			if mode == "refuse" {
				require.ErrorIs(t, err, grid.ErrMnemonic)
			} else {
				require.ErrorIs(t, err, grid.ErrCrashed)
			}
		})
	}
	t.Run("mute", func(t *testing.T) {
		t.Parallel()
		self, err := os.Executable()
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = sdkprocess.Start(ctx, []string{self, "child", "mute"}, sdkprocess.Options{Mnemonic: phrase})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("deaf", func(t *testing.T) {
		t.Parallel()
		c, _, err := begin(t, "deaf", func(o *sdkprocess.Options) { o.AfterCancel = time.Millisecond })
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = c.Deploy(ctx, []grid.Request{{Name: "a"}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("absent", func(t *testing.T) {
		t.Parallel()
		_, err := sdkprocess.Start(t.Context(), []string{"/nonexistent/quantumd"}, sdkprocess.Options{})
		require.ErrorIs(t, err, os.ErrNotExist)
		_, err = sdkprocess.Start(t.Context(), nil, sdkprocess.Options{})
		require.Error(t, err)
	})
}

// TestOrphan: a child whose parent is gone ends at once, also in the middle of a
// call, and does not end what it does first.
func TestOrphan(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "child", "good")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	send := func(text string) {
		_, err := in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
		require.NoError(t, err)
	}
	send(`{"id":1,"open":{"mnemonic":"x","network":"dev"}}`)
	_, err = out.Read(make([]byte, 100)) // it is there
	require.NoError(t, err)
	send(`{"id":2,"call":"Deploy","args":[{"node":3}]}`)
	send(`{"id":3,"call":"Account"}`)
	_, err = out.Read(make([]byte, 1000)) // it works on both
	require.NoError(t, err)
	require.NoError(t, in.Close())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		require.NoError(t, cmd.Process.Kill())
		t.Fatal("it did not end")
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err := c.Account(t.Context())
	require.ErrorContains(t, err, "closed")
}
