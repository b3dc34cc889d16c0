package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// frontend is a running system: a child process that can be killed as a
// machine can be lost.
type frontend struct {
	cmd    *exec.Cmd
	dir    string
	mount  string // empty: without
	client *client.Client
	calls  io.WriteCloser // without a mount: requests
	out    *bufio.Reader  // and answers
	ended  chan struct{}  // closed when the process is gone
	err    error
}

// request asks a frontend without a mount to write or to verify.
type request struct {
	Op     string `json:"op"` // write or verify
	Source string `json:"source,omitempty"`
	Sums   string `json:"sums"` // file with the list
}

type response struct {
	Err string `json:"err,omitempty"`
}

// start runs `quantumd up`, or the hidden command that serves without a mount.
func (d *demo) start(ctx context.Context, dir string) (*frontend, error) {
	f := &frontend{dir: dir, client: client.New(qsfs.LayoutBelow(dir).ControlSocket()), ended: make(chan struct{})}
	args := []string{"up", "-c", d.config, "--dir", dir, "--lease", lease.String(), "--stop-timeout", "20s", "--mount", d.mountpoint}
	if !d.useMount {
		args = []string{"demo-frontend", "-c", d.config, "--dir", dir}
	} else {
		f.mount = d.mountpoint
	}
	f.cmd = exec.Command(d.opts.Program, args...)
	f.cmd.SysProcAttr = ownSession()
	log, err := os.OpenFile(dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the child has its own descriptor
	f.cmd.Stderr = log
	if !d.useMount {
		if err := f.pipes(); err != nil {
			return nil, err
		}
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	d.children = append(d.children, f)
	go func() {
		f.err = f.cmd.Wait()
		close(f.ended)
	}()
	return f, f.waitReady(ctx)
}

func (f *frontend) pipes() error {
	in, err := f.cmd.StdinPipe()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe() // not StdoutPipe: Wait would close it under the reader
	if err != nil {
		return err
	}
	f.cmd.Stdout = w
	f.calls, f.out = in, bufio.NewReader(r)
	return nil
}

func (f *frontend) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ready := make(chan error, 1)
	go func() { ready <- f.client.WaitReady(ctx) }()
	select {
	case err := <-ready:
		return err
	case <-f.ended:
		cancel()
		<-ready
		return fmt.Errorf("the system ended at its start: %w%s", errors.Join(f.err), lastLine(f.dir+".log"))
	}
}

// lastLine quotes the end of a log.
func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return ""
	}
	return fmt.Sprintf("; its log ends with %q", text[max(0, len(text)-300):])
}

// write and verify work through the mount, or have the child do the same
// through its tree.
func (f *frontend) write(ctx context.Context, source, sumsFile string) ([]sum, error) {
	if f.mount == "" {
		if err := f.call(ctx, request{Op: "write", Source: source, Sums: sumsFile}); err != nil {
			return nil, err
		}
		return loadSums(sumsFile)
	}
	sums, err := write(ctx, mounted(f.mount), source)
	if err != nil {
		return nil, err
	}
	return sums, saveSums(sumsFile, sums)
}

func (f *frontend) verify(ctx context.Context, sumsFile string, sums []sum) error {
	if f.mount == "" {
		return f.call(ctx, request{Op: "verify", Sums: sumsFile})
	}
	return verify(ctx, mounted(f.mount), sums)
}

func (f *frontend) call(ctx context.Context, r request) error {
	if err := json.NewEncoder(f.calls).Encode(r); err != nil {
		return err
	}
	answered := make(chan error, 1)
	go func() {
		var a response
		line, err := f.out.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &a)
		}
		if err == nil && a.Err != "" {
			err = errors.New(a.Err)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-f.ended:
		return fmt.Errorf("the frontend ended: %w", errors.Join(f.err))
	}
}

// stop ends the system clean.
func (f *frontend) stop() error {
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-f.ended:
		return f.err
	case <-time.After(time.Minute):
		return errors.Join(errors.New("the system did not end within a minute"), f.kill())
	}
}

// kill ends it as a power cut does, and clears the dead mount.
func (f *frontend) kill() error {
	if err := f.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-f.ended
	if f.mount == "" {
		return nil
	}
	return mount.CleanDead(f.mount)
}

// Serve answers requests of a demo about a tree, until in ends: the other side
// of a frontend without a mount.
func Serve(ctx context.Context, t *tree.Tree, in io.Reader, out io.Writer) error {
	target := newInTree(t)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var r request
		err := json.Unmarshal(lines.Bytes(), &r)
		if err == nil {
			err = serveOne(ctx, target, r)
		}
		var a response
		if err != nil {
			a.Err = err.Error()
		}
		if err := json.NewEncoder(out).Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

func serveOne(ctx context.Context, t target, r request) error {
	if r.Op == "write" {
		sums, err := write(ctx, t, r.Source)
		if err != nil {
			return err
		}
		return saveSums(r.Sums, sums)
	}
	sums, err := loadSums(r.Sums)
	if err != nil {
		return err
	}
	return verify(ctx, t, sums)
}

// Lease is the lease of a demonstration's epochs: short, so that a takeover
// does not wait long.
func Lease() time.Duration { return lease }

const lease = 3 * time.Second

func sumsPath(dir string) string { return filepath.Join(dir, "sums.json") }
