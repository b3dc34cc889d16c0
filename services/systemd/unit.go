package systemd

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/services"
)

// Render gives the text of a service's unit file. With a target, such as
// `qsfs.target`, the service stops and starts with it.
func Render(s services.Service, target string) (string, error) {
	if err := s.Validate(); err != nil {
		return "", err
	}
	s = s.WithDefaults()
	var u unit
	u.section("Unit")
	u.unitSection(s, target)
	u.section("Service")
	u.execution(s)
	u.supervision(s)
	if !s.Unconfined {
		u.hardening(s)
	}
	u.section("Install")
	u.set("WantedBy", either(target, bootTarget))
	return services.Mark + "changes are lost at the next setup or upgrade.\n" + u.String(), nil
}

// RenderTarget gives the text of a target that services belong to: those that
// are enabled below it.
func RenderTarget(description string) string {
	var u unit
	u.section("Unit")
	u.set("Description", escape(description))
	u.section("Install")
	u.set("WantedBy", bootTarget)
	return services.Mark + "changes are lost at the next setup or upgrade.\n" + u.String()
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// unit gathers the lines of a unit file.
type unit struct{ strings.Builder }

func (u *unit) section(name string) {
	if u.Len() > 0 {
		u.WriteByte('\n')
	}
	fmt.Fprintf(u, "[%s]\n", name)
}

func (u *unit) set(key, value string) {
	if value != "" {
		fmt.Fprintf(u, "%s=%s\n", key, value)
	}
}

func (u *unit) units(key string, names []string) {
	var words []string
	for _, n := range names {
		words = append(words, n+".service")
	}
	u.set(key, strings.Join(words, " "))
}

func (u *unit) command(key, prefix string, words []string) {
	if len(words) == 0 {
		return
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
		if i > 0 { // `$` is not expanded in the program's own path
			quoted[i] = strings.ReplaceAll(quoted[i], "$", "$$")
		}
	}
	u.set(key, prefix+strings.Join(quoted, " "))
}

func (u *unit) paths(key, prefix string, paths []string) {
	var words []string
	for _, p := range paths {
		words = append(words, quote(prefix+p))
	}
	u.set(key, strings.Join(words, " "))
}

func (u *unit) unitSection(s services.Service, target string) {
	u.set("Description", escape(s.Description))
	u.set("Wants", "network-online.target")
	u.set("After", "network-online.target local-fs.target")
	if target != "" {
		// After the target: so that stopping the target waits for the service.
		u.set("PartOf", target)
		u.set("After", target)
	}
	before := slices.Concat(s.After, s.Requires)
	u.units("Wants", s.After)
	u.units("Requires", s.Requires)
	u.units("After", before)
	u.units("Before", s.Before)
	u.paths("RequiresMountsFor", "", slices.DeleteFunc(slices.Clone(s.Writable), func(p string) bool { return below([]string{p}, "/run/") }))
	u.set("StartLimitIntervalSec", "0") // never give up
}

func (u *unit) execution(s services.Service) {
	switch {
	case s.Notify:
		u.set("Type", "notify")
		u.set("NotifyAccess", "main")
		if s.Watchdog > 0 {
			u.set("WatchdogSec", seconds(s.Watchdog))
		}
	default:
		u.set("Type", "exec")
	}
	for _, e := range s.Env {
		u.set("Environment", quote(e))
	}
	for _, c := range s.Credentials {
		u.set("LoadCredential", escape(c.Name+":"+c.Path))
	}
	u.set("WorkingDirectory", escape(s.Dir))
	u.set("UMask", "0077")
	if dirs := runtimeDirs(s); len(dirs) > 0 {
		u.paths("RuntimeDirectory", "", dirs)
		u.set("RuntimeDirectoryMode", "0700")
		u.set("RuntimeDirectoryPreserve", "yes") // other services have their sockets there
	}
	if s.Mountpoint != "" {
		// A mount whose process was killed answers nothing but errors, and fails
		// every start: it is taken away first, and again at the end.
		u.command("ExecStartPre", "-", []string{umount, "-lq", s.Mountpoint})
	}
	u.command("ExecStart", "", s.Exec)
	u.command("ExecStartPost", "", s.WaitExec)
	u.command("ExecStop", "-", s.StopExec) // SIGTERM follows
	if s.ReloadSignal != 0 {
		u.set("ExecReload", fmt.Sprintf("/bin/kill -%d $MAINPID", int(s.ReloadSignal)))
	}
	if s.Mountpoint != "" {
		u.command("ExecStopPost", "-", []string{umount, "-lq", s.Mountpoint})
	}
}

const umount = "/bin/umount"

// runtimeDirs are the folders below /run that a service needs: they are made by
// whichever service comes first, as /run is empty after a boot.
func runtimeDirs(s services.Service) []string {
	var dirs []string
	if s.RuntimeDir != "" {
		dirs = append(dirs, s.RuntimeDir)
	}
	for _, p := range s.Writable {
		if d, ok := strings.CutPrefix(filepath.Clean(p), "/run/"); ok && !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func (u *unit) supervision(s services.Service) {
	u.set("Restart", "always")
	u.set("RestartSec", seconds(s.RestartDelay))
	u.set("TimeoutStartSec", seconds(s.StartTimeout))
	u.set("TimeoutStopSec", seconds(s.StopTimeout)) // it bounds the machine's shutdown too
	u.set("KillMode", string(s.Kill))
	if len(s.SuccessExit) > 0 {
		u.set("SuccessExitStatus", strings.Trim(fmt.Sprint(s.SuccessExit), "[]"))
	}
	u.set("LimitNOFILE", "65536")
}

func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprint(int64(d / time.Second))
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

// escape doubles the character that begins a specifier.
func escape(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// quote gives one word of a unit file: as it is, or in double quotes with C
// escapes, when it holds what would part or change it.
func quote(s string) string {
	s = escape(s)
	if s != "" && s != ";" && !strings.ContainsFunc(s, special) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func special(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`"'\`, r)
}
