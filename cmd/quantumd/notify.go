package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// notifier tells the service manager how the system is: READY, STATUS,
// WATCHDOG, RELOADING, STOPPING of sd_notify(3). Without one it tells nobody.
type notifier struct {
	app  *app
	sys  *qsfs.System
	load func() (*config.Config, error)
	stop func()

	every  time.Duration // pause between two STATUS
	send   func(state string) error
	alive  func(context.Context) error
	log    *slog.Logger
	status string // that was sent last
}

func newNotifier(a *app, sys *qsfs.System, load func() (*config.Config, error), stop func()) *notifier {
	return &notifier{app: a, sys: sys, load: load, stop: stop, every: 10 * time.Second, alive: sys.Alive, log: a.logger(), send: func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}}
}

func (n *notifier) tell(state string) {
	if err := n.send(state); err != nil {
		n.log.Warn("the service manager cannot be told", "state", state, "err", err)
	}
}

// run tells until ctx ends; it begins when the system is ready.
func (n *notifier) run(ctx context.Context) {
	n.tell(daemon.SdNotifyReady + "\n" + n.newStatus(ctx))
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var work sync.WaitGroup
	defer work.Wait()
	if interval, err := daemon.SdWatchdogEnabled(false); err == nil && interval > 0 {
		work.Go(func() { n.watchdog(ctx, interval) })
	}
	tick := time.NewTicker(n.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			n.tell(daemon.SdNotifyStopping + "\nSTATUS=stopping: what was written is brought to the backends")
			return
		case <-tick.C:
			if s := n.newStatus(ctx); s != "" {
				n.tell(s)
			}
		case <-hangup:
			n.hangup(ctx)
		}
	}
}

// watchdog says that the system lives, while it does. Where a part of it hangs
// it says nothing more, and the service manager ends the process.
func (n *notifier) watchdog(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, interval/3)
		err := n.alive(asking)
		cancel()
		var hang *qsfs.HangError
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &hang):
			n.log.Error("no sign of life for the watchdog", "err", err)
		default:
			n.tell(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hangup loads the configuration again; in a terminal that is gone it ends the
// system.
func (n *notifier) hangup(ctx context.Context) {
	if n.app.terminal(n.app.stdin) || n.load == nil {
		n.stop()
		return
	}
	n.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, monotonicMicros()))
	report, err := n.sys.Reload(ctx, n.load)
	if err != nil {
		n.app.notef("the configuration was refused, and nothing changed: %v", err)
	} else {
		n.app.notef("the configuration was loaded again; changed: %v; at the next start: %v", report.Changed, report.Restart)
	}
	n.status = ""
	n.tell(daemon.SdNotifyReady + "\n" + n.newStatus(ctx))
}

// newStatus is a STATUS line; empty where it is the one that was sent.
func (n *notifier) newStatus(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := n.sys.Status(ctx)
	line := "STATUS="
	if err != nil {
		line += "cannot look at itself: " + oneLine(err.Error())
	} else {
		line += statusLine(st)
	}
	if line == n.status {
		return ""
	}
	n.status = line
	return line
}

// statusLine is the status in one line: is it up, is the data safe, what is
// being done.
func statusLine(st *client.Status) string {
	line := st.State
	switch {
	case st.State == client.StateStarting:
		return line
	case st.LossWindow.Bytes == 0:
		line += ", all is on the backends"
	default:
		line += fmt.Sprintf(", %s not on the backends yet", size(st.LossWindow.Bytes))
	}
	if st.Queue.Failed > 0 {
		line += fmt.Sprintf(", %d uploads failed", st.Queue.Failed)
	}
	if up, all := backendsUp(st); up < all {
		line += fmt.Sprintf(", %d of %d backends up", up, all)
	}
	for _, r := range st.Replacements {
		if underWay(r) {
			line += fmt.Sprintf(", replacing %s: %s", r.Backend, r.Step)
		}
	}
	return oneLine(line)
}

func oneLine(s string) string {
	out := []byte(s)
	for i, c := range out {
		if c < ' ' {
			out[i] = ' '
		}
	}
	return string(out[:min(len(out), 400)])
}

func backendsUp(st *client.Status) (up, all int) {
	for _, b := range st.Backends {
		if b.State == string(backend.Up) {
			up++
		}
	}
	return up, len(st.Backends)
}

func underWay(r client.Replacement) bool {
	switch r.Step {
	case client.ReplaceDone, client.ReplaceCancelled, client.ReplaceFailed:
		return false
	}
	return true
}
