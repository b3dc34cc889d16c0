package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

type statusCmd struct {
	Watch bool          `short:"w" help:"Look again and again: in place on a terminal, a line for each look elsewhere."`
	Every time.Duration `default:"2s" help:"Pause between two looks of --watch."`
}

// Help tells the exit codes.
func (statusCmd) Help() string {
	return "Exit code 0: all is well; 3: degraded; 5: fenced; 1: it does not run."
}

func (c *statusCmd) Run(ctx context.Context, a *app) error {
	if c.Watch {
		return c.watch(ctx, a)
	}
	st, err := a.client().Status(ctx)
	if errors.Is(err, client.ErrNotRunning) {
		return errors.Join(a.offlineStatus(ctx), err)
	}
	if err != nil {
		return err
	}
	if err := a.print(st, func() { printStatus(a, st) }); err != nil {
		return err
	}
	return statusCode(st)
}

// watch looks until ctx ends. A system that does not run may be about to, and
// one that ends answers with errors until it has.
func (c *statusCmd) watch(ctx context.Context, a *app) error {
	cl := a.client()
	show := a.watchLines
	if !a.globals.JSON && a.terminal(a.stdout) {
		show = a.watchScreen
	}
	for {
		st, err := cl.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := show(st, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(c.Every, 100*time.Millisecond)):
		}
	}
}

// watchScreen draws over what was drawn before: from the upper left corner,
// each line to its end, and nothing below.
func (a *app) watchScreen(st *client.Status, failed error) error {
	var text bytes.Buffer
	draft := *a
	draft.stdout = &text
	draft.printf("%s  every look of quantumd status; Ctrl-C ends", time.Now().Format(time.TimeOnly))
	draft.printf("")
	if failed != nil {
		draft.printf("%v", failed)
	} else {
		printStatus(&draft, st)
	}
	_, err := fmt.Fprint(a.stdout, "\x1b[H"+strings.ReplaceAll(text.String(), "\n", "\x1b[K\n")+"\x1b[J")
	return err
}

// watchLines writes one line, or one document, for each look.
func (a *app) watchLines(st *client.Status, failed error) error {
	if failed != nil {
		state := "stopped"
		if !errors.Is(failed, client.ErrNotRunning) { // it begins or ends just now, or has a trouble that is told
			state = client.StateFailed
		}
		return a.print(map[string]any{"schema": client.SchemaVersion, "state": state, "error": failed.Error()}, func() {
			a.printf("%s %s: %s", time.Now().Format(time.RFC3339), state, oneLine(failed.Error()))
		})
	}
	return a.print(st, func() { a.printf("%s %s", time.Now().Format(time.RFC3339), statusLine(st)) })
}

func statusCode(st *client.Status) error {
	switch st.State {
	case client.StateDegraded:
		return &codeError{code: exitDegraded}
	case client.StateFenced:
		return &codeError{code: exitFenced}
	case client.StateFailed:
		return &codeError{code: exitFailed}
	}
	return nil
}

// printStatus is one screen: is it up, is the data safe, what is being done.
func printStatus(a *app, st *client.Status) {
	where := "not mounted"
	if st.Mount.Mounted {
		where = "mounted on " + st.Mount.Path
	}
	if !st.Started.IsZero() && st.State != client.StateStarting {
		where += ", up for " + span(time.Since(st.Started))
	}
	a.printf("%s, %s", st.State, where)
	checkpoint := fmt.Sprintf("checkpoint %d", st.Checkpoint.Seq)
	if st.Checkpoint.AgeSeconds > 0 {
		checkpoint += fmt.Sprintf(", %s ago", span(seconds(st.Checkpoint.AgeSeconds)))
	}
	switch {
	case st.State == client.StateStarting:
	case st.LossWindow.Bytes == 0:
		a.printf("safe      everything that was written is on the backends (%s)", checkpoint)
	default:
		a.printf("not safe  %s, the oldest for %s (%s)", size(st.LossWindow.Bytes), span(seconds(st.LossWindow.Seconds)), checkpoint)
	}
	printDoing(a, st)
	a.printf("queue     %d waiting, %d uploading, %d failed, %s", st.Queue.Pending, st.Queue.Uploading, st.Queue.Failed, size(st.Queue.BytesPending))
	room := fmt.Sprintf("cache     %s of %s", size(st.Cache.Bytes), size(st.Cache.Limit))
	if st.Disk.TotalBytes > 0 {
		room += fmt.Sprintf("; disk %s free of %s", size(st.Disk.FreeBytes), size(st.Disk.TotalBytes))
	}
	a.printf("%s", room)
	printBackends(a, st)
	if st.Dashboard != "" {
		a.printf("dashboard %s", st.Dashboard)
	}
	for _, n := range st.Notes {
		a.printf("note      %s", n)
	}
}

// printDoing tells what is being done about what is not as it should be.
func printDoing(a *app, st *client.Status) {
	for _, r := range st.Replacements {
		switch {
		case underWay(r):
			a.printf("doing     %s", replacementLine(r))
		case r.Step == client.ReplaceFailed:
			a.printf("failed    replacing %s: %s", r.Backend, r.Error)
		}
	}
	if s := st.Scrub; s != nil && s.Running {
		of := ""
		if s.Total > 0 {
			of = fmt.Sprintf(" of %d", s.Total)
		}
		a.printf("doing     scrub: %d%s objects looked at, %d damaged, %d repaired, %d lost", s.Objects, of, s.Damaged, s.Repaired, s.Lost)
	}
}

// stepsInWords are the steps of a replacement, for people.
var stepsInWords = map[string]string{
	client.ReplaceGrace: "grace period: it may come back", client.ReplaceProvision: "a new backend is made",
	client.ReplaceReload: "the new set of backends is written", client.ReplaceRebuild: "what it held is made anew",
	client.ReplaceVerify: "every object is asked for", client.ReplaceRetire: "the old one is given back",
}

var stepOrder = []string{client.ReplaceGrace, client.ReplaceProvision, client.ReplaceReload, client.ReplaceRebuild, client.ReplaceVerify, client.ReplaceRetire}

func replacementLine(r client.Replacement) string {
	line := "replacing " + r.Backend
	if r.Successor != "" {
		line += " by " + r.Successor
	}
	for i, step := range stepOrder {
		if step == r.Step {
			line += fmt.Sprintf(": step %d of %d, %s", i+1, len(stepOrder), stepsInWords[step])
		}
	}
	if r.Objects > 0 {
		line += fmt.Sprintf(", %d of %d objects, %s", r.Rebuilt, r.Objects, size(r.Bytes))
	}
	if r.Error != "" {
		line += ": " + r.Error
	}
	return line
}

func printBackends(a *app, st *client.Status) {
	up, all := backendsUp(st)
	line := fmt.Sprintf("backends  %d of %d up", up, all)
	for i, r := range st.Redundancy {
		join := " and"
		if i == 0 {
			join = "; may still be lost:"
		}
		name := "data"
		if r.Role == string(backend.Meta) {
			name = "metadata"
		}
		line += fmt.Sprintf("%s %d %s", join, max(0, r.Tolerated), name)
	}
	a.printf("%s", line)
	for _, b := range st.Backends {
		if b.State == string(backend.Up) {
			continue
		}
		text := fmt.Sprintf("          %s %s at %s is %s", b.Role, b.ID, b.Address, b.State)
		if !b.Since.IsZero() {
			text += " for " + span(time.Since(b.Since))
		}
		if b.Error != "" {
			text += ": " + b.Error
		}
		a.printf("%s", text)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// span shows a time in one unit.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return d.Round(time.Second).String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
