package systemd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

const outputTail = 2000 // bytes of stderr in an error

// Logs asks the journal, by journalctl: its files have no reader in Go alone.
func (m *Manager) Logs(ctx context.Context, name string, o services.LogOptions, to io.Writer) error {
	if _, err := m.installed([]string{name}, false); err != nil {
		return err
	}
	lines := o.Lines
	if lines <= 0 {
		lines = 100
	}
	args := []string{"--unit=" + unitName(name), "--lines=" + strconv.Itoa(lines), "--output=short-iso", "--no-pager", "--quiet"}
	if o.Follow {
		args = append(args, "--follow")
	}
	err := m.journal(ctx, to, args...)
	if o.Follow && ctx.Err() != nil {
		return nil // the way to end it
	}
	return err
}

func journalctl(ctx context.Context, to io.Writer, args ...string) error {
	return run(ctx, to, "journalctl", args...)
}

// run runs a program; an error holds the end of what it printed to stderr.
func run(ctx context.Context, to io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	cmd.WaitDelay = time.Second
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = to, &words
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(words.String())
		if len(text) > outputTail {
			text = text[len(text)-outputTail:]
		}
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return nil
}
