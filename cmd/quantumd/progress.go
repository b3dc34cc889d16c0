package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/threefoldtech/quantumd/qsfs"
)

// progress shows what long operations do: a bar on a terminal, a line every
// few seconds elsewhere, nothing with --json.
type progress struct {
	app *app

	mu   sync.Mutex
	bars *mpb.Progress
	bar  *mpb.Bar
	step string
	said time.Time
}

func (a *app) progress() *progress {
	p := &progress{app: a}
	if !a.globals.JSON && a.terminal(a.stderr) {
		p.bars = mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
	}
	return p
}

// lineEvery is the pause between lines where no terminal is.
const lineEvery = 5 * time.Second

func (p *progress) observe(e qsfs.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.app.globals.JSON:
	case e.Err != nil:
		p.app.notef("%s %s: %v", e.Op, e.Subject, e.Err)
	case p.bars != nil && e.Total > 0:
		p.draw(e)
	default:
		p.line(e)
	}
}

func (p *progress) draw(e qsfs.Progress) {
	if p.step != e.Step || p.bar == nil {
		p.endBar()
		p.step = e.Step
		p.bar = p.bars.AddBar(e.Total, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(e.Op+": "+e.Step+" ")),
			mpb.AppendDecorators(decor.CountersNoUnit("%d of %d "+e.Unit)))
	}
	p.bar.SetTotal(e.Total, false)
	p.bar.SetCurrent(e.Done)
}

func (p *progress) endBar() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bar = nil
	}
}

func (p *progress) line(e qsfs.Progress) {
	if p.step == e.Step && time.Since(p.said) < lineEvery {
		return
	}
	p.step, p.said = e.Step, time.Now()
	text := e.Op + ": " + e.Step
	if e.Subject != "" {
		text += " " + e.Subject
	}
	if e.Total > 0 {
		text += fmt.Sprintf(" (%d of %d %s)", e.Done, e.Total, e.Unit)
	}
	p.app.notef("%s", text)
}

// pause takes the bar away, for what is asked in between.
func (p *progress) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endBar()
}

// end removes the bar.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endBar()
	if p.bars != nil {
		p.bars.Shutdown()
	}
}
