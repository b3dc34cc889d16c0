package services

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// What the managers of this module have in common.

// Mark begins each definition that is a text file of ours.
const Mark = "# Written by quantumd: "

// Compare is a line of a Plan: what has to be done for the definition at path to
// be text, where old is there.
func Compare(name, path, text, old string, there bool) Change {
	c := Change{Name: name, Path: path, Text: text, Action: Update}
	switch {
	case !there:
		c.Action = Create
	case old == text:
		c.Action = Keep
	}
	return c
}

// Marked names the services whose definitions, files of a folder with this
// suffix, begin with [Mark] and fit. A folder that is not there has none.
func Marked(dir, suffix string, read func(name string) (string, error), fits func(text string) bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		n, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !e.Type().IsRegular() || CheckName(n) != nil {
			continue
		}
		text, err := read(n)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(text, Mark) && fits(text) {
			names = append(names, n)
		}
	}
	return names, nil
}

// AwaitActive looks again and again, and returns when all are [Active]; a
// [*FailedError] when one has failed.
func AwaitActive(ctx context.Context, every time.Duration, look func() ([]Status, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		list, err := look()
		if err != nil {
			return err
		}
		if ok, err := AllActive(list); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// RunStopExec runs what is to run before the signal of a stop, within the
// service's StopTimeout. Its failure is logged: the stop goes on without it.
func RunStopExec(ctx context.Context, s Service, log *slog.Logger) {
	if len(s.StopExec) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.StopTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.StopExec[0], s.StopExec[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), s.Env...), s.Dir
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		log.Warn("what runs before the stop failed", "service", s.Name, "command", s.StopExec[0], "err", err, "output", string(out[max(0, len(out)-500):]))
	}
}

// ClearDeadMount takes away a mount whose process was killed: it would fail
// everything that looks at it, and every start. Any other mountpoint is left
// alone.
func ClearDeadMount(mountpoint string) error {
	if mountpoint == "" {
		return nil
	}
	if _, err := os.Stat(mountpoint); !errors.Is(err, syscall.ENOTCONN) {
		return nil
	}
	if out, err := exec.Command("umount", "-l", mountpoint).CombinedOutput(); err != nil {
		return fmt.Errorf("dead mount not cleared: %w: %s", err, out)
	}
	return nil
}
