package doctor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/binaries"
	"github.com/threefoldtech/quantumd/services"
)

// programs looks at the real programs of external components.
func programs(ctx context.Context, x *examination) []Result {
	names := x.externals()
	if len(names) == 0 {
		return skip("every component is built in")
	}
	var out []Result
	for _, name := range names {
		path := x.Programs[name]
		if path == "" {
			out = append(out, bad(Problem, name, "", "engine."+name+" is external, and no program is found", "`quantumd setup` installs it (--from DIR without internet), or write `engine: embedded`")...)
			continue
		}
		version, err := x.sys.probe(ctx, name, path)
		var known []string
		for _, pin := range binaries.Table() {
			if pin.Name == name {
				known = pin.Reports
			}
		}
		switch {
		case err != nil:
			out = append(out, bad(Problem, path, "", "cannot be run: "+reason(err), "`quantumd setup` installs it again; see that the file is whole and for this architecture")...)
		case version == "":
			out = append(out, bad(Note, path, "", "it does not tell its version", "")...)
		case known != nil && !slices.Contains(known, version):
			out = append(out, bad(Note, path, version, "another version than those that are tested: "+strings.Join(known, ", "), "")...)
		default:
			out = append(out, ok(path, version)...)
		}
	}
	return out
}

// hookProgram looks at what a real zdb calls.
func hookProgram(_ context.Context, x *examination) []Result {
	if !x.external("zdb") {
		return skip("only a real zdb calls hooks")
	}
	path := filepath.Join(filepath.Dir(qsfs.ProgramPath(x.root(""), x.Program)), "quantumd-hook")
	if x.Below {
		path = filepath.Join(x.Layout.State, "quantumd-hook")
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && x.status == nil {
		return bad(Note, path, "", "not in place yet; setup, or `quantumd up`, puts it there", "")
	}
	if err != nil {
		return bad(Problem, path, "", "zdb finds no hook program: "+reason(err), "`quantumd setup` puts it in place")
	}
	if st.IsDir() || st.Mode().Perm()&0o111 == 0 {
		return bad(Problem, path, mode(st.Mode()), "zdb cannot run it", "`quantumd setup` puts it in place again")
	}
	return ok(path, mode(st.Mode()))
}

// installedProgram compares this program with the installed one.
func installedProgram(_ context.Context, x *examination) []Result {
	if x.Below || x.Program == "" {
		return skip("nothing is installed for a system below a folder")
	}
	path := qsfs.ProgramPath(x.root(""), x.Program)
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return skip("nothing is installed")
	}
	if err != nil {
		return bad(Warning, path, "", "cannot be looked at: "+reason(err), "run this as root")
	}
	if st.Mode().Perm()&0o022 != 0 {
		return bad(Problem, path, mode(st.Mode()), "other users can replace what root runs", "`chmod 755 "+path+"`")
	}
	a, err := sum(x.Program)
	b, err2 := sum(path)
	if err := errors.Join(err, err2); err != nil {
		return skip("cannot be compared: " + reason(err))
	}
	if a != b {
		return bad(Note, path, "", "it is another version than this program ("+x.Program+"); `quantumd upgrade` puts this one in its place", "")
	}
	return ok(path, "this program")
}

func sum(path string) (out [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return out, err
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	if _, err = io.Copy(h, f); err != nil {
		return out, err
	}
	h.Sum(out[:0])
	return out, nil
}

func manager(_ context.Context, x *examination) []Result {
	if x.Below {
		return skip("a system below a folder has no services")
	}
	switch m := services.DetectAt(x.root("/")); m {
	case services.Child:
		return bad(Note, "none", "", "neither systemd nor zinit runs: services are supervised by quantumd itself, and do not start with the machine", "as the one program of a container `quantumd supervise` starts them")
	default:
		return ok(string(m), "")
	}
}

// hopeless is how often a service may have been started again.
const hopeless = 3

// serviceStates looks at what is installed.
func serviceStates(ctx context.Context, x *examination) []Result {
	if x.Manager == nil || x.Below {
		return skip("there are no services to look at")
	}
	names, err := x.Manager.Installed(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bad(Warning, "", "", "the service manager does not answer: "+reason(err), "run this as root; see that the manager works (`systemctl status`)")
	}
	if len(names) == 0 {
		return skip("none are installed; `quantumd setup` does that")
	}
	list, err := x.Manager.Status(ctx, names...)
	if err != nil {
		return bad(Warning, "", "", "the service manager does not answer: "+reason(err), "run this as root; see that the manager works (`systemctl status`)")
	}
	var out []Result
	for _, s := range list {
		measured := fmt.Sprintf("%s, restarts %d", s.State, s.Restarts)
		logs := "`quantumd logs " + s.Name + "` shows why; then `quantumd start`"
		switch {
		case s.State == services.Failed:
			out = append(out, bad(Problem, s.Name, measured, fmt.Sprintf("the service has failed, exit code %d %s", s.ExitCode, s.Detail), logs)...)
		case s.State == services.Missing:
			out = append(out, bad(Problem, s.Name, measured, "its definition is gone", "`quantumd setup` installs it again")...)
		case s.State != services.Active && s.Restarts >= hopeless:
			out = append(out, bad(Problem, s.Name, measured, fmt.Sprintf("the service ends again and again, exit code %d", s.ExitCode), logs)...)
		case s.State == services.Inactive:
			out = append(out, bad(Warning, s.Name, measured, "installed, and not running", "`quantumd start`")...)
		case s.State == services.Active && s.Restarts >= hopeless:
			out = append(out, bad(Warning, s.Name, measured, "it runs, but ended unexpectedly before", logs)...)
		case !s.Enabled && services.DetectAt(x.root("/")) != services.Child: // there the manager check says so, once
			out = append(out, bad(Warning, s.Name, measured, "it does not start with the machine", "`quantumd setup` enables it")...)
		default:
			out = append(out, ok(s.Name, string(s.State))...)
		}
	}
	return out
}

// definitions compares the installed services with those that setup would make.
func definitions(ctx context.Context, x *examination) []Result {
	if x.Manager == nil || x.Changes == nil || x.Below {
		return skip("not known what setup would install")
	}
	if names, err := x.Manager.Installed(ctx); err != nil || len(names) == 0 {
		return skip("nothing is installed")
	}
	changes, err := x.Changes(ctx)
	if err != nil {
		return bad(Warning, "", "", "not known what setup would install: "+reason(err), "see `quantumd setup --dry-run`")
	}
	var out []Result
	for _, c := range changes {
		switch c.Action {
		case services.Keep:
		case services.Create:
			out = append(out, bad(Warning, c.Name, "", "this service is wanted, and not installed", "`quantumd setup` installs it")...)
		default:
			out = append(out, bad(Warning, c.Name, c.Path, "its definition is not the one that setup writes: an older version's, or changed by hand", "`quantumd setup --dry-run` shows the difference, `quantumd setup` writes it")...)
		}
	}
	if out != nil {
		return out
	}
	return ok("", fmt.Sprintf("%d services, as setup writes them", len(changes)))
}

// metricsPort sees that the address is free, or ours.
func metricsPort(_ context.Context, x *examination) []Result {
	c := x.settings()
	if c.Metrics.Listen == "off" {
		return skip("metrics are served nowhere")
	}
	addr, err := netip.ParseAddrPort(c.Metrics.Listen)
	if err != nil {
		return skip("the configuration is not valid")
	}
	if c.PrometheusPort != 0 {
		addr = netip.AddrPortFrom(addr.Addr(), uint16(c.PrometheusPort)) // checked by Validate
	}
	if addr.Port() == 0 {
		return ok(addr.String(), "any free port")
	}
	err = x.sys.listen(addr.String())
	switch {
	case err == nil && x.status != nil:
		return bad(Warning, addr.String(), "free", "the running system does not listen there: metrics and dashboard are not to be had", "`quantumd status` says why; `quantumd restart` tries again")
	case err == nil:
		return ok(addr.String(), "free")
	case errors.Is(err, syscall.EADDRINUSE) && x.status != nil:
		return ok(addr.String(), "the running system's")
	case errors.Is(err, syscall.EADDRINUSE):
		return bad(Warning, addr.String(), "in use", "another program has the port: the system goes on without metrics and dashboard", "find it with `ss -ltnp`, and end it, or write another metrics.listen")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return bad(Warning, addr.String(), "", "this machine does not have the address: the system goes on without metrics and dashboard", "write one of its own, such as 127.0.0.1:"+strconv.Itoa(int(addr.Port())))
	}
	return bad(Warning, addr.String(), "", reason(err), "write another metrics.listen, or off")
}
