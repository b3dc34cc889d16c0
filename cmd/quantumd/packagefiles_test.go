//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a package's scripts do with what the program says. What cannot be found
// out keeps the package in place: what was written may be nowhere else.
func TestPackageScripts(t *testing.T) {
	t.Parallel()
	const none, some = `{"schema": 1, "services": []}`, `{"schema": 1, "services": [{"name": "quantumd"}]}`
	tests := map[string]struct {
		script, action string
		services       string // what `services --json` prints; empty: it fails
		refuses        bool   // uninstall or upgrade does
		fails          bool
		calls, says    string
	}{
		"removed":                     {script: "prerm", action: "remove", services: some, calls: "services --json\nuninstall --yes\n"},
		"removed, not set up":         {script: "prerm", action: "remove", services: none, calls: "services --json\n"},
		"removed, not safe":           {script: "prerm", action: "remove", services: some, refuses: true, fails: true, calls: "services --json\nuninstall --yes\n"},
		"removed, cannot tell":        {script: "prerm", action: "remove", fails: true, calls: "services --json\n", says: "the package stays"},
		"removed for the next":        {script: "prerm", action: "upgrade", services: some},
		"installed":                   {script: "postinst", action: "configure", services: none, calls: "services --json\n"},
		"upgraded":                    {script: "postinst", action: "configure", services: some, calls: "services --json\nupgrade --yes\n"},
		"upgraded, refused":           {script: "postinst", action: "configure", services: some, refuses: true, fails: true, calls: "services --json\nupgrade --yes\n", says: "dpkg --configure quantumd"},
		"upgraded, cannot tell":       {script: "postinst", action: "configure", fails: true, calls: "services --json\n", says: "dpkg --configure quantumd"},
		"removal was broken off":      {script: "postinst", action: "abort-remove", services: some},
		"installation was broken off": {script: "postinst", action: "abort-upgrade", services: some},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fake := filepath.Join(dir, "quantumd")
			write(t, filepath.Join(dir, "services"), tt.services)
			code := "0"
			if tt.refuses {
				code = "1"
			}
			write(t, fake, "echo \"$*\" >>'"+dir+"/calls'\ncase $1 in services) test -s '"+dir+"/services' && cat '"+dir+"/services' ;; *) exit "+code+" ;; esac\n")
			text, err := os.ReadFile(filepath.Join("../../deploy/deb", tt.script))
			require.NoError(t, err)
			script := strings.ReplaceAll(string(text), "/usr/bin/quantumd", "sh "+fake)
			require.Contains(t, script, fake)
			out, err := exec.Command("sh", "-c", script, tt.script, tt.action, "1.0.0").CombinedOutput()
			if tt.fails {
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit, "%s", out)
			} else {
				require.NoError(t, err, "%s", out)
			}
			require.Contains(t, string(out), tt.says)
			calls, err := os.ReadFile(filepath.Join(dir, "calls"))
			if !errors.Is(err, fs.ErrNotExist) {
				require.NoError(t, err)
			}
			require.Equal(t, tt.calls, string(calls))
		})
	}
}

// documents are what an installation has beside the programs, below PREFIX/share.
var documents = []string{
	"bash-completion/completions/quantumd", "man/man1/quantumd.1.gz", "doc/quantumd/README.md", "doc/quantumd/NOTICE", "doc/quantumd/SECURITY.md",
	"doc/quantumd/config.example.yaml", "doc/quantumd/copyright", "doc/quantumd/changelog.gz", "doc/quantumd/operators-guide.md",
	"doc/quantumd/quantumd.rules.yml", "doc/quantumd/quantumd.json",
}

// checkInstalled looks at what was installed below a prefix.
func checkInstalled(t *testing.T, prefix string, others ...string) {
	t.Helper()
	modes := map[string]fs.FileMode{"bin/quantumd": 0o755, "bin/quantumd-hook": 0o755}
	for _, path := range append(others, documents...) {
		modes[filepath.Join("share", path)] = 0o644
	}
	for path, mode := range modes {
		st, err := os.Lstat(filepath.Join(prefix, path))
		require.NoError(t, err)
		require.True(t, st.Mode().IsRegular(), path)
		require.Equal(t, mode, st.Mode().Perm(), path)
		require.NotZero(t, st.Size(), path)
	}
	for _, dir := range []string{"bin", "share/man", "share/doc/quantumd"} {
		st, err := os.Stat(filepath.Join(prefix, dir))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o755), st.Mode().Perm(), dir)
	}
	unzip := func(path string) string {
		f, err := os.Open(filepath.Join(prefix, path))
		require.NoError(t, err)
		defer f.Close() //nolint:errcheck // read only
		z, err := gzip.NewReader(f)
		require.NoError(t, err)
		text, err := io.ReadAll(z)
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, unzip("share/man/man1/quantumd.1.gz"), ".TH QUANTUMD 1")
	require.Contains(t, unzip("share/doc/quantumd/changelog.gz"), "# ")
	text, err := os.ReadFile(filepath.Join(prefix, "share/doc/quantumd/copyright"))
	require.NoError(t, err)
	require.Contains(t, string(text), "Apache License")
}

// TestInstallFiles installs below a folder, as a packager does.
func TestInstallFiles(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	write(t, filepath.Join(from, "quantumd"), "program")
	write(t, filepath.Join(from, "quantumd-hook"), "hook")
	for prefix, others := range map[string][]string{
		"/usr/local": {"zsh/site-functions/_quantumd", "fish/completions/quantumd.fish"},
		"/usr":       {"zsh/vendor-completions/_quantumd", "fish/vendor_completions.d/quantumd.fish"},
	} {
		dest := filepath.Join(t.TempDir(), "a folder")
		// Whoever installs may have an umask that keeps everybody out.
		cmd := exec.Command("sh", "-c", `umask 077; exec make -s put FROM="$1" TELLS="$2" DESTDIR="$3" PREFIX="$4"`, "sh", from, program(t), dest, prefix)
		cmd.Dir = "../.."
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Empty(t, string(out))
		checkInstalled(t, filepath.Join(dest, prefix), others...)
		entries, err := os.ReadDir(dest)
		require.NoError(t, err)
		require.Len(t, entries, 1, "nothing beside the prefix")
	}
}

// TestPackageFiles looks at the packages of both architectures, and at what
// `make install` makes of the same source.
func TestPackageFiles(t *testing.T) {
	t.Parallel()
	needsLong(t)
	src := sourceCopy(t)
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		deb := buildDeb(t, src, "1.2.3", arch)
		out, err := exec.Command("dpkg-deb", "-f", deb).Output()
		require.NoError(t, err)
		for _, line := range []string{"Package: quantumd\n", "Version: 1.2.3\n", "Architecture: " + arch + "\n", "Recommends: fuse3\n"} {
			require.Contains(t, string(out), line)
		}
		require.NotContains(t, string(out), "Depends:", "the programs are static")
		root := filepath.Join(t.TempDir(), "root")
		out, err = exec.Command("dpkg-deb", "-x", deb, root).CombinedOutput()
		require.NoError(t, err, "%s", out)
		checkInstalled(t, filepath.Join(root, "usr"), "zsh/vendor-completions/_quantumd", "fish/vendor_completions.d/quantumd.fish")
		control := t.TempDir()
		out, err = exec.Command("dpkg-deb", "-e", deb, control).CombinedOutput()
		require.NoError(t, err, "%s", out)
		out, err = exec.Command("sh", "-c", `cd "$1" && md5sum --quiet -c "$2/md5sums" && ls "$2"`, "sh", root, control).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, []string{"control", "md5sums", "postinst", "prerm"}, strings.Fields(string(out)))
		owned(t, deb)
		for _, name := range []string{"quantumd", "quantumd-hook"} {
			f, err := elf.Open(filepath.Join(root, "usr/bin", name))
			require.NoError(t, err)
			require.Equal(t, machine, f.Machine, name)
			require.Nil(t, f.Section(".interp"), "%s is static", name)
			require.NoError(t, f.Close())
		}
	}
	dest := t.TempDir()
	cmd := exec.Command("make", "-s", "install", "DESTDIR="+dest, "VERSION=1.2.3")
	cmd.Dir = src
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	checkInstalled(t, filepath.Join(dest, "usr/local"), "zsh/site-functions/_quantumd", "fish/completions/quantumd.fish")
	out, err = exec.Command(filepath.Join(dest, "usr/local/bin/quantumd"), "version").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "1.2.3")
}

// owned: everything in a package is root's, of the one time, and writable by
// nobody else.
func owned(t *testing.T, deb string) {
	t.Helper()
	out, err := exec.Command("dpkg-deb", "--fsys-tarfile", deb).Output()
	require.NoError(t, err)
	n := 0
	for r := tar.NewReader(bytes.NewReader(out)); ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Zero(t, h.Uid+h.Gid, h.Name)
		require.Zero(t, h.Mode&0o7022, h.Name)
		require.Equal(t, time.Unix(1_700_000_000, 0).UTC(), h.ModTime.UTC(), h.Name)
		require.False(t, strings.HasPrefix(h.Name, "./usr/local") || strings.HasPrefix(h.Name, "./etc"), h.Name)
	}
	require.Greater(t, n, len(documents))
}
