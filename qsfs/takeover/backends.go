package takeover

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/internal/glob"
	"github.com/threefoldtech/quantumd/services"
)

// LocalBackends names the services of local backends of an older installation.
// They go on as they are, so the daemon has to start after them, and above all to
// stop before: at the end of the machine it brings to them what was written.
func LocalBackends(prefix string, manager services.Manager) []string {
	dir, ext := "/etc/systemd/system", ".service"
	switch manager {
	case services.Zinit:
		dir, ext = "/etc/zinit", ".yaml"
	case services.Systemd:
	default:
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(glob.Escape(filepath.Join("/", prefix, dir)), "zdb-back*"+ext)) // the pattern is good
	var names []string
	for _, path := range found {
		if name := strings.TrimSuffix(filepath.Base(path), ext); services.CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
