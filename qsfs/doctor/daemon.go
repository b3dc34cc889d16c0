package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/services"
)

func daemon(ctx context.Context, x *examination) []Result {
	socket := x.Layout.ControlSocket()
	if x.status == nil {
		if errors.Is(x.down, fs.ErrPermission) {
			return bad(Skipped, socket, "", "this user may not ask it", "")
		}
		if x.installed(ctx) {
			return bad(Problem, socket, "", "a service is installed, and the system does not answer", "`quantumd start`; then `quantumd logs`")
		}
		return bad(Note, socket, "", "nothing runs; `quantumd up` or `quantumd setup` starts it", "")
	}
	measured := fmt.Sprintf("%s, process %d", x.status.State, x.status.PID)
	switch x.status.State {
	case client.StateFailed:
		return bad(Problem, socket, measured, "it runs, and does not serve", "`quantumd status` says why; `quantumd logs`")
	case client.StateFenced:
		return bad(Problem, socket, measured, "another frontend has taken over; this one is read-only", "use the other one; or take over again with `quantumd restore` here")
	case client.StateDegraded:
		return bad(Warning, socket, measured, "it works with less protection than it should have", "`quantumd status` says what and why")
	case client.StateStarting:
		return bad(Note, socket, measured, "it is starting", "")
	}
	return ok(socket, measured)
}

// installed says whether the daemon's service is there.
func (x *examination) installed(ctx context.Context) bool {
	if x.Manager == nil || x.Below {
		return false
	}
	list, err := x.Manager.Status(ctx, qsfs.ServiceName)
	return err == nil && len(list) == 1 && list[0].State != services.Missing
}

func daemonNotes(_ context.Context, x *examination) []Result {
	if x.status == nil {
		return skip("nothing runs")
	}
	var out []Result
	for _, n := range x.status.Notes {
		out = append(out, bad(Note, "", "", n, "")...)
	}
	if out != nil {
		return out
	}
	return ok("", "none")
}

// lossWindow says whether what would be lost with this machine is as little as it
// should be.
func lossWindow(_ context.Context, x *examination) []Result {
	if x.status == nil {
		return skip("nothing runs")
	}
	c := x.settings()
	w := x.status.LossWindow
	age := time.Duration(w.Seconds * float64(time.Second))
	measured := fmt.Sprintf("%s, the oldest %s old", bytes(w.Bytes), age.Round(time.Second))
	if w.Bytes == 0 {
		return ok("", "nothing would be lost with this machine")
	}
	if most := 2*c.RotateTime().Std() + 15*time.Minute; age > most {
		return bad(Warning, "", measured, fmt.Sprintf("it would be lost with this machine, and should be on the backends within %s", most), "`quantumd status` and `quantumd queue ls` say what keeps it; `quantumd sync` tries now")
	}
	return ok("", measured)
}

func queue(_ context.Context, x *examination) []Result {
	if x.status == nil {
		return skip("nothing runs")
	}
	q := x.status.Queue
	measured := fmt.Sprintf("%d waiting, %d under way, %d failed, %s", q.Pending, q.Uploading, q.Failed, bytes(q.BytesPending))
	if q.Failed > 0 {
		return bad(Warning, "", measured, "uploads failed, and are tried again", "`quantumd queue ls` says why; `quantumd queue retry` tries now")
	}
	return ok("", measured)
}

func checkpoint(_ context.Context, x *examination) []Result {
	if x.status == nil {
		return skip("nothing runs")
	}
	c := x.status.Checkpoint
	if c.Seq == 0 && x.status.LossWindow.Bytes > 0 {
		return bad(Warning, "", "none", "nothing was committed yet: a restore would find nothing", "`quantumd sync` makes one, or says why it cannot")
	}
	if c.Seq == 0 {
		return ok("", "none yet, and nothing written")
	}
	return ok("", fmt.Sprintf("%d, %s old", c.Seq, (time.Duration(c.AgeSeconds)*time.Second).Round(time.Second)))
}
