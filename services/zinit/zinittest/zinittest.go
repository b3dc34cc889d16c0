// Package zinittest is a zinit for tests, of both generations: it reads service
// files, runs programs, tests them, starts them again, and answers on a socket
// as zinit 0.2.14 and 0.2.28 were recorded to do. Its own test sends it every
// request of these records. It is not for running anything in earnest.
//
//	d := zinittest.Start(t, zinittest.Options{Generation: zinit.JSONRPC, Dir: dir, Socket: socket})
package zinittest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/services/zinit"
)

// Options says which zinit it is.
type Options struct {
	Generation zinit.Generation
	Dir        string        // the service files
	Socket     string        //
	Pause      time.Duration // before a service is started again, and between tests; zero: 2 s, as zinit's
	Env        []string      // of all services; nil: this process's
}

// Daemon is a zinit that runs. It ends with its test, and all its services with
// it.
type Daemon struct {
	o        Options
	listener net.Listener
	done     chan struct{} // closed when it is to end
	work     sync.WaitGroup

	mu       sync.Mutex
	table    map[string]*service
	changed  chan struct{} // closed, and made anew, when a service has become ready
	shutting bool
	ended    bool
	conns    map[net.Conn]bool
	log      ring
}

// Start starts a zinit with what is in its folder.
func Start(t testing.TB, o Options) *Daemon {
	t.Helper()
	if o.Pause == 0 {
		o.Pause = 2 * time.Second
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	d := &Daemon{o: o, done: make(chan struct{}), table: map[string]*service{}, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
	_ = os.Remove(o.Socket) // as it does; it may not be there
	var err error
	d.listener, err = net.Listen("unix", o.Socket)
	require.NoError(t, err)
	d.listener.(*net.UnixListener).SetUnlinkOnClose(false) // the file stays behind, as with zinit
	entries, err := os.ReadDir(o.Dir)
	require.NoError(t, err)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if !ok || !e.Type().IsRegular() {
			continue
		}
		if c, err := load(filepath.Join(o.Dir, e.Name())); err == nil { // others are skipped, with a line in its own log
			require.NoError(t, d.monitor(name, c))
		}
	}
	d.work.Add(1)
	go d.accept()
	t.Cleanup(d.Kill)
	return d
}

func (d *Daemon) accept() {
	defer d.work.Done()
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		if d.ended {
			d.mu.Unlock()
			_ = conn.Close() // it has ended
			return
		}
		d.conns[conn] = true
		d.work.Add(1)
		d.mu.Unlock()
		go func() {
			defer d.work.Done()
			defer func() {
				_ = conn.Close() // the client sees the end of it
				d.mu.Lock()
				delete(d.conns, conn)
				d.mu.Unlock()
			}()
			if d.o.Generation == zinit.LineProtocol {
				d.serveLine(conn)
			} else {
				d.serveRPC(conn)
			}
		}()
	}
}

// Kill ends it at once, and all processes of its services. It is idempotent.
func (d *Daemon) Kill() {
	d.mu.Lock()
	if !d.ended {
		d.ended, d.shutting = true, true
		close(d.done)
		_ = d.listener.Close() // nobody can connect any more
		for c := range d.conns {
			_ = c.Close()
		}
		for _, s := range d.table {
			s.up = false
			s.kill(killSignal)
		}
	}
	d.mu.Unlock()
	d.work.Wait()
}

// Shutdown ends it as SIGTERM does when it was started with `--container`:
// services that none comes after first. One that does not end in its time goes
// on with 0.2.14; with 0.2.28 all are killed soon.
func (d *Daemon) Shutdown() {
	d.mu.Lock()
	d.shutting = true
	left := map[string]*service{}
	for n, s := range d.table {
		if s.state == running || s.state == spawned {
			left[n] = s
		}
	}
	d.mu.Unlock()
	for len(left) > 0 {
		var stage []*service
		for n, s := range left {
			if !slices.ContainsFunc(values(left), func(o *service) bool { return slices.Contains(o.config.After, n) }) {
				stage = append(stage, s)
			}
		}
		if len(stage) == 0 {
			stage = values(left) // a circle
		}
		var wait sync.WaitGroup
		for _, s := range stage {
			delete(left, s.name)
			wait.Go(func() {
				d.stop(s)
				limit := time.After(time.Duration(s.config.ShutdownTimeout) * time.Second)
				for d.pid(s) != 0 {
					select {
					case <-limit:
						return
					case <-time.After(10 * time.Millisecond):
					}
				}
			})
		}
		wait.Wait()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	d.ended = true
	close(d.done)
	_ = d.listener.Close() // its process is gone
	for c := range d.conns {
		_ = c.Close()
	}
}

func values(m map[string]*service) []*service {
	var out []*service
	for _, s := range m {
		out = append(out, s)
	}
	return out
}

func (d *Daemon) pid(s *service) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return s.pid
}

// failure is an error that a client is told.
type failure struct {
	code    int    // of JSON-RPC
	name    string // of the code
	service string
	line    string // the text of the line protocol
	rpc     string // the text of JSON-RPC, after the action
}

func (f *failure) Error() string { return f.line }

func unknown(name string) error {
	return &failure{-32000, "ServiceNotFound", name, fmt.Sprintf("service name %q unknown", name), fmt.Sprintf("service '%s' not found", name)}
}

var errShutting = &failure{-32006, "ShuttingDown", "", "zinit is shutting down", "system is shutting down"}

func (d *Daemon) get(name string) (*service, error) {
	s := d.table[name]
	if s == nil {
		return nil, unknown(name)
	}
	return s, nil
}

func (d *Daemon) list() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]string{}
	for n, s := range d.table {
		out[n] = s.state
	}
	return out
}

// view is what is told about one service.
type view struct {
	Name   string            `json:"name"`
	PID    int               `json:"pid"`
	State  string            `json:"state"`
	Target string            `json:"target"`
	After  map[string]string `json:"after"`
}

func (d *Daemon) status(name string) (view, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.get(name)
	if err != nil {
		return view{}, err
	}
	v := view{Name: name, PID: s.pid, State: s.state, Target: "Down", After: map[string]string{}}
	if s.up {
		v.Target = "Up"
	}
	for _, n := range s.config.After {
		v.After[n] = "Unknown"
		if o := d.table[n]; o != nil {
			v.After[n] = o.state
		}
	}
	return v, nil
}

func (d *Daemon) start(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shutting {
		return errShutting
	}
	s, err := d.get(name)
	if err != nil {
		return err
	}
	s.up = true
	d.watch(s)
	return nil
}

func (d *Daemon) stopNamed(name string) error {
	d.mu.Lock()
	s, err := d.get(name)
	d.mu.Unlock()
	if err == nil {
		d.stop(s)
	}
	return err
}

// rpcSettle is how long 0.2.28 looks at a service's processes before it signals
// them, and again before it kills them.
const rpcSettle = 500 * time.Millisecond

func (d *Daemon) stop(s *service) {
	d.mu.Lock()
	s.up = false
	pid := s.pid
	if pid == 0 || d.o.Generation == zinit.LineProtocol {
		s.kill(s.config.stopSignal)
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	children := descendants(pid)
	d.sleep(rpcSettle)
	signalGroup(pid, s.config.stopSignal)
	d.sleep(rpcSettle)
	if alive(pid) {
		signalGroup(pid, killSignal)
	}
	for _, c := range children {
		signalOne(c, killSignal)
	}
	for range 5 {
		if !alive(pid) && !slices.ContainsFunc(children, alive) {
			return
		}
		d.sleep(100 * time.Millisecond)
	}
}

func (d *Daemon) sleep(t time.Duration) {
	select {
	case <-time.After(t):
	case <-d.done:
	}
}

// monitorFile has a service file read. A name may lead out of the folder, as
// with 0.2.14; 0.2.28 has checked it before.
func (d *Daemon) monitorFile(name string) error {
	c, err := load(filepath.Join(d.o.Dir, name+".yaml"))
	if err != nil {
		return &failure{-32005, "ConfigError", name, "failed to load service config", fmt.Sprintf("failed to load '%s.yaml'", name)}
	}
	return d.monitor(filepath.Base(name), c)
}

func (d *Daemon) monitor(name string, c config) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shutting {
		return errShutting
	}
	if d.table[name] != nil {
		return &failure{-32001, "ServiceAlreadyMonitored", name, fmt.Sprintf("service %q already monitored", name), fmt.Sprintf("service '%s' already monitored", name)}
	}
	s := &service{name: name, config: c, state: "Unknown", up: true}
	d.table[name] = s
	d.watch(s)
	return nil
}

func (d *Daemon) forget(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.get(name)
	if err != nil {
		return err
	}
	if s.up || s.pid != 0 {
		return &failure{-32002, "ServiceIsUp", name, fmt.Sprintf("service %q is up", name), fmt.Sprintf("service '%s' is up", name)}
	}
	delete(d.table, name)
	return nil
}

func (d *Daemon) killNamed(name, signal string) error {
	number := signalNumber(signal)
	if number == 0 {
		return &failure{-32004, "InvalidSignal", name, "EINVAL: Invalid argument", ""}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.get(name)
	if err != nil {
		return err
	}
	if s.pid == 0 {
		return down(name)
	}
	s.kill(number)
	return nil
}

func down(name string) error {
	return &failure{-32003, "ServiceIsDown", name, fmt.Sprintf("service %q is down", name), fmt.Sprintf("service '%s' is down", name)}
}
