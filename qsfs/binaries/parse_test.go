package binaries

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// interpreterHeader is a program header that names a loader at the end of a file
// of this length, to which the header itself is added.
func interpreterHeader(length int, name string) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_INTERP), Flags: 4, Off: uint64(length + 56), Filesz: uint64(len(name) + 1), Memsz: uint64(len(name) + 1), Align: 1})
	return b.Bytes()
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, output, want string }{
		{"zdb", "[       0.000009]\x1b[36;1m[*] 0-db engine, v2.0.7 (commit v2.0.7)\x1b[0m\n[       0.000032]\x1b[36;1m[*] 0-db server, v2.0.7 (commit v2.0.7)\x1b[0m\n", "2.0.7"},
		{"zdb", "0-db server, v2.0.7 (commit abcdef)", "2.0.7"},
		{"zstor", "zstor_v2 0.4.0\n", "0.4.0"},
		{"zstor", "zstor_v2 0.5.0-rc.1\n", "0.5.0-rc.1"},
		{"zdbfs", "fusermount3 version: 3.14.0\n\x1b[36;1m[+] initializing zdbfs v0.1.11\x1b[0m\nFUSE library version 3.14.0\nusing FUSE kernel interface version 7.31\n", "0.1.11"},
		{"zdbfs", "fusermount3 version: 3.14.0\n", ""},
		{"zdb", "0-db server, quantumd dev (data file version 3, index file version 4)", ""},
		{"zdb", "", ""},
		{"other", "other 1.2.3", "1.2.3"},
	} {
		require.Equal(t, c.want, ParseVersion(c.name, c.output), "%s: %q", c.name, c.output)
	}
}

func TestLockPath(t *testing.T) {
	t.Parallel()
	require.Equal(t, "/etc/quantumd.binaries.lock", LockPath("/etc/quantumd.yaml"))
	require.Equal(t, "/srv/q.d/config.binaries.lock", LockPath("/srv/q.d/config"))
}

func TestCheckELF(t *testing.T) {
	t.Parallel()
	whole := elfProgram("amd64", "hello\n", 0, false, 5000)
	no := func(string) bool { return false }
	require.Empty(t, checkELF(bytes.NewReader(whole), int64(len(whole)), "amd64", no))
	require.Contains(t, checkELF(bytes.NewReader(whole), int64(len(whole)), "arm64", no), "built for X86_64")
	for n := 1; n < len(whole); n += 37 {
		require.NotEmpty(t, checkELF(bytes.NewReader(whole[:n]), int64(n), "amd64", no), "the first %d bytes", n)
	}
}

func FuzzELF(f *testing.F) {
	whole := elfProgram("amd64", "hello\n", 0, false, 100)
	f.Add(whole)
	f.Add(append(whole[:64:64], append(interpreterHeader(len(whole), "/lib/ld.so"), append(whole[64:], "/lib/ld.so\x00"...)...)...))
	f.Add([]byte(elf.ELFMAG))
	f.Fuzz(func(t *testing.T, b []byte) {
		checkELF(bytes.NewReader(b), int64(len(b)), runtime.GOARCH, func(string) bool { return true })
	})
}

func FuzzParseVersion(f *testing.F) {
	f.Add("zdb", "0-db server, v2.0.7 (commit \x1b[0m)")
	f.Add("zdbfs", "\x1b[36;1m[+] initializing zdbfs v0.1.11\x1b[0m")
	f.Fuzz(func(t *testing.T, name, output string) {
		if v := ParseVersion(name, output); v != "" && (len(v) > 40 || strings.ContainsAny(v, " \x1b\n") || v[0] < '0' || v[0] > '9') {
			t.Fatalf("%q is no version", v)
		}
	})
}

func FuzzLock(f *testing.F) {
	f.Add([]byte("version: 1\nprograms:\n  - {name: zdb, version: 2.0.8, arch: amd64, url: u, size: 1, sha256: " + strings.Repeat("a", 64) + "}\n"))
	f.Add([]byte("version: 2"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLock(b)
		if err != nil {
			return
		}
		for _, e := range l.Programs {
			require.Regexp(t, hexSum, e.SHA256)
		}
	})
}

func FuzzSums(f *testing.F) {
	f.Add([]byte(strings.Repeat("a", 64) + "  zdb\n" + strings.Repeat("B", 64) + " *./zstor\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sums, err := parseSums(b)
		if err != nil {
			return
		}
		for name, sum := range sums {
			require.NotContains(t, name, "/.")
			require.Regexp(t, hexSum, sum)
		}
	})
}
