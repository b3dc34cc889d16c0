package child

import (
	"context"
	"path/filepath"

	"github.com/threefoldtech/quantumd/internal/proc"
	"github.com/threefoldtech/quantumd/services"
)

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
