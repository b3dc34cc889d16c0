package binaries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	probeLimit  = 10 * time.Second // for a program to print its version
	probeOutput = 64 << 10         // bytes of it that are kept
)

// colours are the control sequences that programs colour their output with.
var colours = regexp.MustCompile("\x1b\\[[0-9;?]*[ -/]*[@-~]")

// number is a version. What stands before it is no part of another number.
var number = regexp.MustCompile(`(?:^|[^0-9A-Za-z.])v?([0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}(?:-(?:alpha|beta|rc)[.0-9]{0,8})?)`)

// ParseVersion finds the version of a program of the table in what it prints;
// empty where there is none. Only lines that name the program count, for some
// print the versions of libraries as well.
func ParseVersion(name, output string) string {
	names := map[string][]string{"zdb": {"0-db server", "zdb"}, "zstor": {"zstor"}, "zdbfs": {"zdbfs"}}[name]
	if names == nil {
		names = []string{name}
	}
	for _, n := range names {
		for _, line := range strings.Split(colours.ReplaceAllString(output, ""), "\n") {
			if _, rest, ok := strings.Cut(line, n); ok {
				if m := number.FindStringSubmatch(rest); m != nil {
					return strings.TrimRight(m[1], ".")
				}
			}
		}
	}
	return ""
}

// Probe runs a program for its version, within a time limit, in an empty folder
// and without this process's environment. The version is empty where it runs
// but does not tell; an error is a [*ProbeError].
func Probe(ctx context.Context, name, path string) (string, error) {
	return probe(ctx, probeLimit, name, path)
}

func probe(ctx context.Context, limit time.Duration, name, path string) (string, error) {
	args := []string{"--version"}
	if p := find(name); p != nil {
		args = p.args
	}
	out, err := runBriefly(ctx, limit, name, path, args)
	if version := ParseVersion(name, out); version != "" {
		return version, nil // whatever its exit code says: zdbfs ends with 1
	}
	if err != nil {
		return "", &ProbeError{Name: name, Path: path, Output: lastLine(out), Err: err}
	}
	return "", nil
}

func runBriefly(ctx context.Context, limit time.Duration, name, path string, args []string) (string, error) {
	dir, err := os.MkdirTemp("", "quantumd-probe-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // nothing of value is in it
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for try := 0; ; try++ {
		var out bounded
		cmd := exec.CommandContext(limited, path, args...)
		cmd.Args[0] = name // it is not in place yet, and its name may mean something
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		// Another thread may have forked while the file was open for writing; its
		// child closes it as soon as it runs something.
		if errors.Is(err, syscall.ETXTBSY) && try < 50 {
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-limited.Done():
			}
		}
		if limited.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("it does not end within %v", limit)
		}
		return out.String(), err
	}
}

// bounded keeps the first bytes that are written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, probeOutput-b.Len()))])
	return len(p), nil
}

// lastLine is the last line that is not empty, in short.
func lastLine(out string) string {
	lines := strings.FieldsFunc(colours.ReplaceAllString(out, ""), func(r rune) bool { return r == '\n' || r == '\r' })
	for _, l := range slices.Backward(lines) {
		if l = strings.TrimSpace(strings.ToValidUTF8(l, "?")); l != "" {
			return l[:min(len(l), 300)]
		}
	}
	return ""
}

// checkVersion runs what was fetched and trusted.
func (in *Installer) checkVersion(ctx context.Context, d *download) error {
	version, err := probe(ctx, in.probeLimit, d.want.Name, d.tempFile.Name())
	if err != nil {
		return err
	}
	if d.version != "" && !slices.Contains(d.Reports, version) {
		return &VersionError{Name: d.want.Name, URL: d.from.shown, Want: d.version, Got: version}
	}
	d.told = version
	return in.step("probed")
}
