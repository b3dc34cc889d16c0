package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

func configCheck(_ context.Context, x *examination) []Result {
	var out []Result
	for _, e := range config.Errors(x.ConfigErr) {
		if errors.Is(e, config.ErrNoConfig) {
			return bad(Note, x.ConfigPath, "", "there is no configuration yet", "`quantumd deploy --local`, or fill in what `quantumd config example` prints and give it to `quantumd deploy --config FILE`")
		}
		subject := x.ConfigPath
		if e.Line > 0 {
			subject = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Col)
		}
		cause := e.Msg
		if e.Key != "" {
			cause = e.Key + ": " + cause
		}
		out = append(out, Result{Subject: subject, Severity: Problem, Cause: cause, Remedy: e.Hint()})
	}
	switch {
	case out != nil:
		return out
	case x.ConfigErr != nil:
		return bad(Problem, x.ConfigPath, "", reason(x.ConfigErr), "see `quantumd config check`")
	case x.Config == nil:
		return skip("no configuration was given")
	}
	return ok(x.ConfigPath, fmt.Sprintf("%d backends, %d of %d shards", len(x.Config.Backends), x.Config.MinShards, x.Config.ExpectedShards))
}

func configKeys(_ context.Context, x *examination) []Result {
	if x.Config == nil {
		return skip("no configuration")
	}
	var out []Result
	for _, e := range x.Config.Warnings() {
		out = append(out, Result{Subject: fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Col), Severity: Warning, Cause: e.Key + ": " + e.Msg, Remedy: e.Hint()})
	}
	if out != nil {
		return out
	}
	return ok(x.ConfigPath, "every key is known")
}

// configMode looks at the mode and owner of the file, and of copies beside it.
func configMode(_ context.Context, x *examination) []Result {
	path := x.ConfigPath
	if _, err := os.Stat(path); err != nil {
		return skip("there is no file")
	}
	out := x.private(path, Problem)
	for _, pattern := range []string{path + "~", path + ".*", path + "-*", filepath.Dir(path) + "/." + filepath.Base(path) + "*", filepath.Dir(path) + "/#" + filepath.Base(path) + "#"} {
		copies, _ := filepath.Glob(pattern) // the pattern is good
		for _, c := range copies {
			if strings.HasSuffix(c, ".lock") {
				continue // sums of programs, nothing secret
			}
			for _, r := range x.private(c, Warning) {
				if r.Severity != OK {
					out = append(out, r)
				}
			}
		}
	}
	return out
}

// private says whether only the owner can read a file, and who that is.
func (x *examination) private(path string, s Severity) []Result {
	st, err := os.Stat(path)
	if err != nil {
		return bad(Warning, path, "", "cannot be looked at: "+reason(err), "run this as the user whose system it is, or as root")
	}
	if !st.Mode().IsRegular() {
		return ok(path, st.Mode().String())
	}
	owner, known := ownerOf(st)
	measured := mode(st.Mode())
	switch {
	case st.Mode().Perm()&0o077 != 0:
		return bad(s, path, measured, "it holds secrets, and other users can read or change it", "`chmod 600 "+path+"`; if others are on this machine, change the secrets")
	case known && owner != x.sys.uid && owner != 0:
		return bad(Warning, path, fmt.Sprintf("%s, owner %d", measured, owner), "it holds secrets, and belongs to another user", fmt.Sprintf("`chown %d %s`", x.sys.uid, path))
	}
	return ok(path, measured)
}

func encryptionKey(_ context.Context, x *examination) []Result {
	if x.Config == nil {
		return skip("no configuration")
	}
	if _, err := x.Config.Key(); err != nil {
		remedy := "set encryption_key, encryption_key_file, mnemonic or mnemonic_file"
		if list := config.Errors(err); len(list) > 0 {
			err, remedy = errors.New(list[0].Msg), list[0].Hint()
		}
		return bad(Problem, "encryption_key", "", reason(err), remedy)
	}
	from := "encryption_key"
	if x.Config.EncryptionKey == "" {
		from = "mnemonic"
	}
	return ok(from, "a key of 256 bits; without a copy off this machine nothing can be restored")
}

// secretFiles looks at files that hold nothing but secrets.
func secretFiles(_ context.Context, x *examination) []Result {
	var paths []string
	if c := x.Config; c != nil {
		paths = append(paths, c.MnemonicFile, c.PasswordFile, c.EncryptionKeyFile)
	}
	paths = append(paths, x.Layout.Zstor, x.root("/etc/zstor-default.toml"))
	for _, pattern := range []string{filepath.Join(x.Layout.State, "secrets", "*"), filepath.Join(x.Layout.Backends, "*", "backend.json"), filepath.Join(x.Layout.Backends, "*", "admin")} {
		found, _ := filepath.Glob(pattern) // the pattern is good
		paths = append(paths, found...)
	}
	var out []Result
	n := 0
	for _, p := range paths {
		if _, err := os.Stat(p); p == "" || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		n++
		for _, r := range x.private(p, Problem) {
			if r.Severity != OK {
				out = append(out, r)
			}
		}
	}
	switch {
	case out != nil:
		return out
	case n == 0:
		return skip("there are none")
	}
	return ok("", fmt.Sprintf("%d files, private", n))
}

// promises tells what a mix of components does not keep.
func promises(_ context.Context, x *examination) []Result {
	if x.Config == nil {
		return skip("no configuration")
	}
	list := qsfs.Promises(x.Config.Engine)
	var out []Result
	for _, p := range list {
		if !p.Holds {
			out = append(out, Result{Subject: p.Name, Severity: Note, Cause: p.Text})
		}
	}
	if out != nil {
		return out
	}
	return ok("engine: embedded", fmt.Sprintf("all %d hold", len(list)))
}

// external says whether a component is the real program.
func (x *examination) external(component string) bool {
	return slices.Contains(x.externals(), component)
}

func (x *examination) externals() []string {
	if x.Config == nil {
		return nil
	}
	var out []string
	for _, c := range []struct {
		name string
		kind config.EngineKind
	}{{"zdb", x.Config.Engine.Zdb}, {"zstor", x.Config.Engine.Zstor}, {"zdbfs", x.Config.Engine.Zdbfs}} {
		if c.kind == config.External {
			out = append(out, c.name)
		}
	}
	return out
}
