package zinit

import (
	"context"
	"io"
	"strings"

	"github.com/threefoldtech/quantumd/services"
)

// startMark is what zinit writes when it starts a service, or a test.
const startMark = "------------ [start] ------------"

// parts takes a line of zinit's log apart: `[+] NAME: TEXT` of standard output,
// `[-] NAME: TEXT` of the other one and of zinit itself.
func parts(line string) (name, text string, ok bool) {
	if !strings.HasPrefix(line, "[+] ") && !strings.HasPrefix(line, "[-] ") {
		return "", "", false
	}
	return strings.Cut(line[4:], ": ")
}

// of says whether a line is of a service.
func of(line, name string) bool {
	n, _, ok := parts(line)
	return ok && n == name
}

// starts counts in a log how often zinit started a service.
func starts(lines []string, name string) int {
	count := 0
	for _, l := range lines {
		if n, text, ok := parts(l); ok && n == name && text == startMark && l[1] == '-' {
			count++
		}
	}
	return count
}

// Logs writes the last lines that a service printed, of those that zinit still
// has: it keeps 2000 of all services together.
func (m *Manager) Logs(ctx context.Context, name string, o services.LogOptions, to io.Writer) error {
	if _, err := m.installed([]string{name}, false); err != nil {
		return err
	}
	c, err := m.client(ctx)
	if err != nil {
		return err
	}
	if o.Lines <= 0 {
		o.Lines = 100
	}
	write := func(line string) error {
		_, text, _ := parts(line)
		if text == startMark {
			return nil
		}
		_, err := io.WriteString(to, text+"\n")
		return err
	}
	last := func(lines []string) error {
		var said []string
		for _, l := range lines {
			if _, text, _ := parts(l); text != startMark {
				said = append(said, l)
			}
		}
		for _, l := range said[max(0, len(said)-o.Lines):] {
			if err := write(l); err != nil {
				return err
			}
		}
		return nil
	}
	if !o.Follow {
		lines, err := c.lines(ctx, name)
		if err != nil {
			return err
		}
		return last(lines)
	}
	if err := c.follow(ctx, name, last, write); ctx.Err() == nil {
		return err
	}
	return nil // the way to end it
}
