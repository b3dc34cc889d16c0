package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
)

// asGiven makes a path of a file that is there absolute; others, like
// data/zdbfs-data/d17 below the zdb root, stay as they are.
func asGiven(path string) string {
	if _, err := os.Lstat(path); err != nil {
		return path
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}

// ended gives the exit code of a report.
func ended(code int) error {
	if code == exitDone {
		return nil
	}
	return &codeError{code: code}
}

type checkCmd struct {
	Paths []string `arg:"" optional:"" name:"path" help:"Of the mount, or below the zdb root; else everything."`
}

// Help tells what is looked at, with examples.
func (checkCmd) Help() string {
	return `Asks the metadata backends for the record of every file that the newest checkpoint
names; no shard is read (scrub has the backends verify those).
  quantumd check
  quantumd check /mnt/qsfs/photos/1.jpg
Exit code 0: all is there; 3: metadata on three of four, shards on lost backends, or
too few answered to tell; 4: something is lost.`
}

func (c *checkCmd) Run(ctx context.Context, a *app) error {
	request := client.CheckRequest{}
	for _, p := range c.Paths {
		request.Paths = append(request.Paths, asGiven(p))
	}
	report, err := a.client().Check(ctx, request)
	if err != nil {
		return err
	}
	err = a.print(report, func() {
		for _, d := range report.Damage {
			printDamage(a, d)
		}
		a.printf("%d files: %d are on the backends, %d pending, %d degraded, %d not known, %d lost (%.1f s)",
			report.Files, report.OK, report.Pending, report.Degraded, report.Unknown, report.Lost, report.Seconds)
		if report.Degraded > 0 {
			a.notef("hint: `quantumd scrub --repair` completes what is degraded")
		}
	})
	return errors.Join(err, ended(report.ExitCode()))
}

func printDamage(a *app, d client.Damage) {
	text := d.Path + ": " + d.What
	switch {
	case d.Lost:
		text = "LOST " + text
	case d.Repaired:
		text = "repaired " + text
	}
	if d.Error != "" {
		text += " (" + strings.ReplaceAll(d.Error, "\n", "; ") + ")"
	}
	a.printf("%s", text)
}

type scrubCmd struct {
	Repair bool `help:"Make anew what is missing or damaged; what is good stays."`
	Deep   bool `help:"Read and decode everything, local files too."`
	Sample int  `placeholder:"N" default:"0" help:"Only so many objects, chosen at random."`
}

// Help tells what is looked at, with examples.
func (scrubCmd) Help() string {
	return `The backends read every shard and compare its checksum. With --deep this machine reads
and decodes everything, trusting nobody's word. It goes on when the waiting ends, also
after a restart, and lets uploads go first. One runs by itself every scrub_interval, a
deep one of a few random objects every day; these repair.
  quantumd scrub
  quantumd scrub --repair
  quantumd scrub --deep --sample 100
Exit code 0: all is good; 3: damage that is, or can be, repaired; 4: something is lost.`
}

func (c *scrubCmd) Run(ctx context.Context, a *app) error {
	if c.Sample < 0 {
		return &usageError{errors.New("--sample wants a positive number")}
	}
	cl := a.client()
	if a.globals.DryRun {
		report, err := cl.Check(ctx, client.CheckRequest{})
		if err != nil {
			return err
		}
		return a.done("would look at the shards of %d objects", report.Files-report.Pending)
	}
	stop := c.watch(ctx, a, cl)
	report, err := cl.Scrub(ctx, client.ScrubRequest{Deep: c.Deep, Repair: c.Repair, Sample: c.Sample})
	stop()
	if errors.Is(err, context.Canceled) {
		a.notef("the scrub goes on (`quantumd status` shows how far it is)")
	}
	if err != nil {
		return err
	}
	err = a.print(report, func() {
		for _, d := range report.Damage {
			printDamage(a, d)
		}
		a.printf("%d objects: %d good, %d damaged, %d of them repaired, %d not known, %d lost (%.1f s)",
			report.Objects, report.Good, report.Damaged, report.Repaired, report.Unknown, report.Lost, report.Seconds)
		if report.Damaged > report.Repaired && !c.Repair {
			a.notef("hint: `quantumd scrub --repair` makes anew what is missing or damaged")
		}
	})
	return errors.Join(err, ended(report.ExitCode()))
}

// watch shows how far the scrub is, until stop.
func (c *scrubCmd) watch(ctx context.Context, a *app, cl *client.Client) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	bar := a.progress()
	go func() {
		defer close(done)
		defer bar.end()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			if st, err := cl.Status(ctx); err == nil && st.Scrub != nil && st.Scrub.Running {
				bar.observe(qsfs.Progress{Op: "scrub", Step: "verifying", Done: st.Scrub.Objects, Total: st.Scrub.Total, Unit: "objects"})
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

type whyCmd struct {
	Path string `arg:"" help:"Of the mount, or below the zdb root, as data/zdbfs-data/d17."`
}

// Help gives examples.
func (whyCmd) Help() string {
	return `Tells for one path which data and index files hold it, which backend has which shard of
each and in what state, what was tried, what went wrong, and what comes next and when.
  quantumd why /mnt/qsfs/photos/1.jpg
  quantumd why data/zdbfs-data/d17`
}

func (c *whyCmd) Run(ctx context.Context, a *app) error {
	why, err := a.client().Why(ctx, asGiven(c.Path))
	if err != nil {
		return err
	}
	return a.print(why, func() { printWhy(a, why) })
}

func printWhy(a *app, w *client.Why) {
	switch w.Safe {
	case "safe":
		a.printf("%s (%s): safe, the newest checkpoint has it", w.Path, size(w.Bytes))
	case "pending":
		a.printf("%s (%s): not safe yet, it is on its way to the backends", w.Path, size(w.Bytes))
	case "local":
		a.printf("%s (%s): not safe yet, it is only on this machine", w.Path, size(w.Bytes))
	default:
		a.printf("%s (%s)", w.Path, size(w.Bytes))
	}
	for _, f := range w.Files {
		printWhyFile(a, f)
	}
	for _, n := range w.Notes {
		a.printf("note   %s", n)
	}
	for _, e := range w.Events {
		a.printf("%s  %s  %s: %s", e.Time.Local().Format("2006-01-02 15:04:05"), e.Kind, e.Subject, e.Message)
	}
}

func printWhyFile(a *app, f client.WhyFile) {
	here := "here"
	if !f.Local {
		here = "not here"
	}
	a.printf("%s: %s, %s, %s", f.Path, f.State, size(f.Bytes), here)
	if f.Object != "" {
		verified := "not verified yet"
		if !f.Verified.IsZero() {
			verified = "verified " + f.Verified.Local().Format("2006-01-02 15:04:05")
		}
		a.printf("  object %s, %s", f.Object, verified)
	}
	if len(f.Shards) > 0 {
		a.printf("  shards %s", whyShards(f.Shards))
	}
	if len(f.Meta) > 0 {
		a.printf("  record %s", whyShards(f.Meta))
	}
	if f.Tries > 0 && f.State != "stored" {
		next := ""
		if !f.NextTry.IsZero() {
			next = ", the next at " + f.NextTry.Local().Format("15:04:05")
		}
		a.printf("  %d tries%s", f.Tries, next)
	}
	if f.LastError != "" {
		a.printf("  error  %s", strings.ReplaceAll(f.LastError, "\n", "; "))
	}
}

// whyShards shows good ones by the name of their backend, others with their state.
func whyShards(list []client.WhyShard) string {
	out := make([]string, len(list))
	for i, s := range list {
		if out[i] = s.Backend; s.State != "good" {
			out[i] += " (" + s.State + ")"
		}
	}
	return strings.Join(out, ", ")
}
