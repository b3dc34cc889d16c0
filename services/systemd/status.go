package systemd

import (
	"context"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

const pollReady = 200 * time.Millisecond

// Status asks systemd.
func (m *Manager) Status(ctx context.Context, names ...string) ([]services.Status, error) {
	for _, n := range names {
		if err := services.CheckName(n); err != nil {
			return nil, err
		}
	}
	b, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	out := make([]services.Status, len(names))
	for i, n := range names {
		if out[i], err = look(ctx, b, n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func look(ctx context.Context, b Bus, name string) (services.Status, error) {
	p, err := b.GetAllPropertiesContext(ctx, unitName(name))
	if err != nil {
		return services.Status{}, refused(ctx, "look at "+name, err)
	}
	return properties(p).status(name), nil
}

// properties of a unit, as they come over D-Bus.
type properties map[string]any

func (p properties) text(key string) string { s, _ := p[key].(string); return s }

// number reads an integer of any of D-Bus's sizes; anything else is zero.
func number(v any) int {
	switch n := v.(type) {
	case int32:
		return int(n)
	case uint32:
		return int(n)
	case int64:
		return int(n)
	case uint64:
		return int(n)
	}
	return 0
}

func (p properties) state() services.State {
	if p.text("LoadState") == "not-found" {
		return services.Missing
	}
	switch p.text("ActiveState") {
	case "active", "reloading", "refreshing":
		return services.Active
	case "activating": // auto-restart is one of its sub-states
		return services.Starting
	case "deactivating":
		return services.Stopping
	case "failed":
		return services.Failed
	}
	return services.Inactive
}

func (p properties) status(name string) services.Status {
	st := services.Status{
		Name: name, State: p.state(), Enabled: p.text("UnitFileState") == "enabled", PID: number(p["MainPID"]),
		Restarts: number(p["NRestarts"]), ExitCode: number(p["ExecMainStatus"]),
	}
	if us := number(p["StateChangeTimestamp"]); us > 0 {
		st.Since = time.UnixMicro(int64(us))
	}
	if r := p.text("Result"); r != "" && r != "success" {
		st.Detail = r
	}
	return st
}

// stale says whether systemd holds something else of a unit than its files say.
func (p properties) stale() bool {
	changed, _ := p["NeedDaemonReload"].(bool)
	return changed || p.text("LoadState") != "loaded"
}

// WaitReady looks until all services are active.
func (m *Manager) WaitReady(ctx context.Context, names ...string) error {
	if _, err := m.installed(names, false); err != nil {
		return err
	}
	return services.AwaitActive(ctx, pollReady, func() ([]services.Status, error) { return m.Status(ctx, names...) })
}
