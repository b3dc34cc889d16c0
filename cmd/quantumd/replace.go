package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/client"
)

type replaceCmd struct {
	Backends []string `arg:"" optional:"" help:"Ids of backends, as quantumd backends ls shows them."`
	Failed   bool     `help:"Replace every backend that does not work."`
}

// Help shows examples.
func (replaceCmd) Help() string {
	return `Another backend takes the place of each: a spare, or on this machine a new one. What it
held is made anew on the others, verified, and only then is it given back. Does not wait
for replace.after, and does not count against replace.max_per_day. Ctrl-C ends the
waiting, not the work.
  quantumd replace data2
  quantumd replace --failed --dry-run`
}

func (c *replaceCmd) Run(ctx context.Context, a *app) error {
	if len(c.Backends) == 0 && !c.Failed {
		return &usageError{errors.New("name a backend, or give --failed")}
	}
	cl := a.client()
	request := client.ReplaceRequest{Backends: c.Backends, Failed: c.Failed, DryRun: a.globals.DryRun}
	if !a.globals.DryRun {
		plan, err := cl.Replace(ctx, client.ReplaceRequest{Backends: c.Backends, Failed: c.Failed, DryRun: true})
		if err != nil {
			return err
		}
		if len(plan.Replacements) == 0 {
			return a.print(plan, func() { a.printf("every backend works: nothing to replace") })
		}
		for _, p := range plan.Replacements {
			a.notef("%s", planned(p))
		}
		if err := a.confirm("Replace them?", ""); err != nil {
			return err
		}
	}
	stop := c.watch(ctx, a, cl)
	report, err := cl.Replace(ctx, request)
	stop()
	if err != nil {
		return err
	}
	return a.print(report, func() {
		if len(report.Replacements) == 0 {
			a.printf("every backend works: nothing to replace")
		}
		for _, p := range report.Replacements {
			if report.DryRun {
				a.printf("%s", planned(p))
			} else {
				a.printf("%s", replaced(p))
			}
		}
	})
}

func planned(p client.Replacement) string {
	switch {
	case p.Error != "":
		return fmt.Sprintf("%s (%s): cannot be replaced: %s", p.Backend, p.Role, p.Error)
	case p.Reason != "":
		return fmt.Sprintf("%s (%s, %s) -> %s", p.Backend, p.Role, p.Reason, p.Successor)
	}
	return fmt.Sprintf("%s (%s) -> %s", p.Backend, p.Role, p.Successor)
}

func replaced(p client.Replacement) string {
	text := fmt.Sprintf("%s -> %s: %s", p.Backend, p.Successor, p.Step)
	if p.Objects > 0 {
		text += fmt.Sprintf(", %d of %d objects, %s of shards", p.Rebuilt, p.Objects, size(p.Bytes))
	}
	if p.Error != "" {
		text += ": " + p.Error
	}
	return text
}

// watch tells of each step until stop.
func (c *replaceCmd) watch(ctx context.Context, a *app, cl *client.Client) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		last := map[int64]string{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			st, err := cl.Status(ctx)
			if err != nil {
				continue
			}
			for _, p := range st.Replacements {
				if text := replaced(p); last[p.ID] != text {
					last[p.ID] = text
					a.notef("%s", text)
				}
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
