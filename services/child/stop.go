package child

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/threefoldtech/quantumd/internal/proc"
	"github.com/threefoldtech/quantumd/services"
)

// stopExec runs what is to run before the signal of a stop; the stop goes on
// without it.
func stopExec(s services.Service, log *slog.Logger) {
	if len(s.StopExec) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.StopTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.StopExec[0], s.StopExec[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), s.Env...), s.Dir
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		log.Warn("what runs before the stop failed", "service", s.Name, "command", s.StopExec[0], "err", err, "output", string(out[max(0, len(out)-500):]))
	}
}

// life is one life of a process.
type life struct {
	pid     int
	started string
}

// awaitRequired waits until what the service requires is ready, and gives the
// lives of those that run. What no supervisor runs is not waited for: the order
// of a start is the Manager's.
func (v *supervisor) awaitRequired(ctx context.Context) (map[string]life, error) {
	lives := map[string]life{}
	for _, name := range v.service.Requires {
		h := home(filepath.Join(filepath.Dir(string(v.home)), name))
		err := poll(ctx, func() (bool, error) {
			alive, err := h.supervised()
			if err != nil || !alive {
				return true, err
			}
			st, err := h.status(name)
			if err != nil || st.State != services.Active {
				return false, err
			}
			lives[name] = life{pid: st.PID, started: proc.Started(st.PID)}
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return lives, nil
}

// changed names a required service that lives no more.
func (v *supervisor) changed(required map[string]life) string {
	for name, l := range required {
		if !proc.Is(l.pid, l.started) {
			return name
		}
	}
	return ""
}
