package takeover

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/services"
)

// LocalBackends names the services of local backends of an older installation.
// They go on as they are, so the daemon has to start after them, and above all to
// stop before: at the end of the machine it brings to them what was written.
func LocalBackends(prefix string, manager services.Manager) []string {
	pattern, ext := "/etc/systemd/system/zdb-back*", ".service"
	switch manager {
	case services.Zinit:
		pattern, ext = "/etc/zinit/zdb-back*", ".yaml"
	case services.Systemd:
	default:
		return nil
	}
	found, err := filepath.Glob(filepath.Join("/", prefix, pattern+ext))
	if err != nil {
		return nil // a prefix with brackets in it: only tests have one
	}
	var names []string
	for _, path := range found {
		if name := strings.TrimSuffix(filepath.Base(path), ext); services.CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
