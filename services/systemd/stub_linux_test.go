package systemd

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/threefoldtech/quantumd/services"
)

// stub is a program for services: this test binary with the first argument
// `stub`. What it does it writes, line by line, to a log.
type stub struct {
	log, name string
	notify    bool
	drain     time.Duration // between SIGTERM and the end
	exit      int           // the code at the end
	fail      bool          // at once
	ignore    bool          // SIGTERM
	hang      string        // a file; once it is there, no sign of life is given
	dir       string        // a FUSE file system is mounted there
	listen    string        // a socket; what comes is written to the log
	hooks     bool          // run programs as a zdb does
	call      string        // a socket that hooks call
	sleep     time.Duration // a helper: do nothing for so long
	say       string        // to standard output
	write     string        // paths, parted by commas: may files be made there?
	secret    string        // name of a credential
	manage    string        // install and start a service of this name
}

const linger = 400 * time.Millisecond // of a hook

func runStub(args []string) int {
	var s stub
	f := flag.NewFlagSet("stub", flag.ContinueOnError)
	f.StringVar(&s.log, "log", "", "")
	f.StringVar(&s.name, "name", "", "")
	f.BoolVar(&s.notify, "notify", false, "")
	f.DurationVar(&s.drain, "drain", 0, "")
	f.IntVar(&s.exit, "exit", 0, "")
	f.BoolVar(&s.fail, "fail", false, "")
	f.BoolVar(&s.ignore, "ignore", false, "")
	f.StringVar(&s.hang, "hang", "", "")
	f.StringVar(&s.dir, "mount", "", "")
	f.StringVar(&s.listen, "listen", "", "")
	f.BoolVar(&s.hooks, "hooks", false, "")
	f.StringVar(&s.call, "call", "", "")
	f.DurationVar(&s.sleep, "sleep", 0, "")
	f.StringVar(&s.say, "say", "", "")
	f.StringVar(&s.write, "write", "", "")
	f.StringVar(&s.secret, "secret", "", "")
	f.StringVar(&s.manage, "manage", "", "")
	if err := f.Parse(args); err != nil {
		return 2
	}
	if err := s.run(); err != nil {
		s.tell("error %v", err)
		return 1
	}
	return s.exit
}

func (s *stub) tell(format string, args ...any) {
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(out, s.name+" "+format+"\n", args...)
		err = errors.Join(err, out.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "log:", err)
	}
}

func (s *stub) run() error {
	if s.sleep > 0 {
		return s.helper()
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	s.tell("start")
	if s.fail {
		return errors.New("as asked")
	}
	if s.say != "" {
		fmt.Println(s.say)
	}
	unmount, err := s.mount()
	if err != nil {
		return err
	}
	if err := s.serve(); err != nil {
		return err
	}
	s.probe()
	if s.hooks {
		if err := s.hook("running", linger).Start(); err != nil {
			return err
		}
	}
	if s.notify {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			return err
		}
		go s.live()
	}
	s.tell("ready")
	for sig := range signals {
		switch {
		case sig == syscall.SIGUSR1:
			s.tell("reload")
		case !s.ignore:
			s.tell("TERM")
			return errors.Join(s.end(), unmount())
		}
	}
	return nil
}

// helper ends after a while, as a hook does.
func (s *stub) helper() error {
	time.Sleep(s.sleep)
	if s.call != "" {
		conn, err := net.Dial("unix", s.call)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(conn, "call of", s.name); err != nil {
			return err
		}
		return conn.Close()
	}
	s.tell("done")
	return nil
}

func (s *stub) hook(name string, d time.Duration) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "stub", "-log", s.log, "-name", s.name+"-"+name, "-sleep", d.String(), "-call", s.call)
	cmd.Stderr = os.Stderr
	return cmd
}

// end is what a zdb does at its end: hook close, waited for, then
// namespace-closing, not waited for.
func (s *stub) end() error {
	if s.hooks {
		if err := s.hook("close", linger).Run(); err != nil {
			s.tell("close failed: %v", err)
		}
		if err := s.hook("closing", 2*linger).Start(); err != nil {
			return err
		}
	}
	time.Sleep(s.drain)
	s.tell("END")
	return nil
}

func (s *stub) live() {
	for {
		if _, err := os.Stat(s.hang); s.hang == "" || err != nil {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) // else it is killed: that is seen
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *stub) mount() (func() error, error) {
	if s.dir == "" {
		return func() error { return nil }, nil
	}
	root := &fs.Inode{}
	server, err := fs.Mount(s.dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "stub", AllowOther: true},
		OnAdd: func(ctx context.Context) {
			root.AddChild("file", root.NewPersistentInode(ctx, &fs.MemRegularFile{Data: []byte("seen\n"), Attr: fuse.Attr{Mode: 0o644}}, fs.StableAttr{}), false)
		},
	})
	if err != nil {
		return nil, err
	}
	return server.Unmount, nil
}

func (s *stub) serve() error {
	if s.listen == "" {
		return nil
	}
	_ = os.Remove(s.listen) // of an earlier life
	l, err := net.Listen("unix", s.listen)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			s.tell("got %q %v", line, err)
			_ = conn.Close()
		}
	}()
	return nil
}

// probe tells what the sandbox lets it do.
func (s *stub) probe() {
	for _, dir := range strings.FieldsFunc(s.write, func(r rune) bool { return r == ',' }) {
		f, err := os.Create(filepath.Join(dir, "made-by-"+s.name))
		if err == nil {
			err = f.Close()
		}
		s.tell("write %s %v", dir, err)
	}
	if s.write != "" {
		self, err := os.Executable()
		if err != nil {
			s.tell("error %v", err)
		}
		s.tell("chown %v", errors.Is(os.Chown(s.log, 1, 1), syscall.EPERM))
		s.tell("nice %v", errors.Is(syscall.Setpriority(syscall.PRIO_PROCESS, 0, -5), syscall.EPERM))
		s.tell("mount %v", errors.Is(syscall.Mount("none", "/mnt", "tmpfs", 0, ""), syscall.EPERM))
		_, err = os.Stat(self)
		s.tell("self %v", err)
	}
	if s.secret != "" {
		text, err := os.ReadFile(filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), s.secret))
		s.tell("secret of %d bytes %v", len(text), err)
	}
	if s.manage != "" {
		s.tell("manage %v", s.managed())
	}
}

// managed does what a daemon does that replaces a local backend.
func (s *stub) managed() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m := New(Options{Target: "qsfs-" + s.name + ".target"})
	one := services.Service{Name: s.manage, Exec: []string{os.Args[0], "stub", "-log", s.log, "-name", s.manage}, Writable: []string{filepath.Dir(s.log)}}
	if _, err := m.Apply(ctx, []services.Service{one}); err != nil {
		return err
	}
	return errors.Join(m.Start(ctx, s.manage), m.WaitReady(ctx, s.manage))
}
