package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
)

// The files below testdata were recorded with 0-db 2.0.7.

type part struct {
	Hex string
	Gen *struct {
		Seed string
		Len  int
	}
}

type step struct {
	Send      string
	SendParts []part `json:"send_parts"`
	Recv      string
	RecvParts []part `json:"recv_parts"`
	Note      string
	Conn      string
	Volatile  []struct {
		Regex string
		Range []int
	}
	Closed    bool
	CloseConn bool `json:"close_conn"`
	SilentMS  int  `json:"silent_ms"`
	Capture   *struct{ Name, Regex string }
	Subst     []struct {
		Range               []int
		Capture, Fn, Suffix string
	}
	Quirk string
}

func bytesOf(t *testing.T, h string, parts []part) []byte {
	t.Helper()
	b, err := hex.DecodeString(h)
	require.NoError(t, err)
	for _, p := range parts {
		x, err := hex.DecodeString(p.Hex)
		require.NoError(t, err)
		if p.Gen != nil {
			x = generate(p.Gen.Seed, p.Gen.Len)
		}
		b = append(b, x...)
	}
	return b
}

func generate(seed string, n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256([]byte(seed + ":" + strconv.Itoa(i)))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func readSteps(t *testing.T, path string) []step {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var steps []step
	for d := json.NewDecoder(f); ; {
		var s step
		err := d.Decode(&s)
		if err == io.EOF {
			return steps
		}
		require.NoError(t, err)
		steps = append(steps, s)
	}
}

// rawValue reads one reply as it came.
func rawValue(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return line, err
	}
	n, _ := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
	switch line[0] {
	case '$':
		if n < 0 {
			return line, nil
		}
		p := make([]byte, n+2)
		_, err = io.ReadFull(r, p)
		return append(line, p...), err
	case '*':
		for range n {
			v, err := rawValue(r)
			line = append(line, v...)
			if err != nil {
				return line, err
			}
		}
	}
	return line, nil
}

func values(t *testing.T, b []byte) int {
	n := 0
	for r := bufio.NewReader(bytes.NewReader(b)); ; n++ {
		_, err := rawValue(r)
		if err == io.EOF {
			return n
		}
		require.NoError(t, err)
	}
}

type player struct {
	t        *testing.T
	addr     net.Addr
	conns    map[string]net.Conn
	readers  map[string]*bufio.Reader
	captured map[string]string
}

func newPlayer(t *testing.T, s *Server) *player {
	p := &player{t: t, addr: serve(t, s), conns: map[string]net.Conn{}, readers: map[string]*bufio.Reader{}, captured: map[string]string{}}
	t.Cleanup(func() {
		for _, c := range p.conns {
			c.Close()
		}
	})
	return p
}

func serve(t testing.TB, s *Server) net.Addr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.WithoutCancel(t.Context()), l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, <-done)
	})
	return l.Addr()
}

// play runs one step; skip says that the answer may differ.
func (p *player) play(i int, s step, skip bool) {
	t := p.t
	name := s.Conn
	if name == "" {
		name = "main"
	}
	c := p.conns[name]
	if c == nil {
		var err error
		c, err = net.Dial("tcp", p.addr.String())
		require.NoError(t, err)
		p.conns[name], p.readers[name] = c, bufio.NewReader(c)
	}
	send := bytesOf(t, s.Send, s.SendParts)
	for _, x := range s.Subst {
		sum := sha1.Sum([]byte(p.captured[x.Capture] + x.Suffix))
		copy(send[x.Range[0]:x.Range[1]], hex.EncodeToString(sum[:]))
	}
	_, err := c.Write(send)
	require.NoError(t, err)
	want := bytesOf(t, s.Recv, s.RecvParts)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	var got []byte
	for range values(t, want) {
		v, err := rawValue(p.readers[name])
		require.NoErrorf(t, err, "step %d: %s", i, s.Note)
		got = append(got, v...)
	}
	if s.Capture != nil {
		m := regexp.MustCompile(s.Capture.Regex).FindSubmatch(got)
		require.NotNil(t, m)
		p.captured[s.Capture.Name] = string(m[1])
	}
	if !skip {
		require.Equalf(t, p.mask(s, want), p.mask(s, got), "step %d: %s", i, s.Note)
	}
	if s.SilentMS > 0 && !s.CloseConn {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Duration(s.SilentMS)*time.Millisecond)))
		_, err := p.readers[name].ReadByte()
		require.ErrorIsf(t, err, os.ErrDeadlineExceeded, "step %d: %s", i, s.Note)
	}
	if s.Closed {
		_, err := p.readers[name].ReadByte()
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	if s.CloseConn {
		c.Close()
		delete(p.conns, name)
	}
}

func (p *player) mask(s step, b []byte) string {
	// Bytes read as latin-1, as the recorder did.
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	for _, v := range s.Volatile {
		if len(v.Range) == 2 {
			for i := v.Range[0]; i < v.Range[1] && i < len(r); i++ {
				r[i] = 'X'
			}
		}
	}
	text := string(r)
	for _, v := range s.Volatile {
		if v.Regex != "" {
			text = regexp.MustCompile("(?m)"+v.Regex).ReplaceAllString(text, "<volatile>")
		}
	}
	return text
}

func optionsFor(t testing.TB, args []string) Options {
	o := Options{DataDir: filepath.Join(t.TempDir(), "data"), IndexDir: filepath.Join(t.TempDir(), "index")}
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "--protect":
			o.Protect = true
			continue
		case "--datasize":
			o.DataSize = map[string]int64{"4M": 4 << 20, "512k": 512 << 10, "524288": 524288}[args[i+1]]
		case "--mode":
			o.Mode = map[string]Mode{"user": User, "seq": Sequential}[args[i+1]]
		case "--admin":
			o.AdminPassword = backend.Secret(args[i+1])
		default:
			t.Fatalf("unknown option %s", args[i])
		}
		i++
	}
	return o
}

type fixtureIndex struct {
	Dirs []struct {
		Name string
		Runs []struct {
			Args       []string
			Transcript string
		} `json:"server_runs"`
	}
	Transcripts []struct {
		Name, Path, Start string
		Args              []string
	}
}

func fixtures(t *testing.T) fixtureIndex {
	t.Helper()
	b, err := os.ReadFile("testdata/index.json")
	require.NoError(t, err)
	var x fixtureIndex
	require.NoError(t, json.Unmarshal(b, &x))
	return x
}

// different lists the steps, by transcript and note, whose answers are
// deliberately not the recorded ones.
var different = map[string]map[string]string{
	"scan-history":         {"SCAN": "the cursor names file 2, not 3: two NSJUMPs without a write in between switch once"},
	"quirk-seq-empty-file": {"SCAN": "the same: file 1, not 2"},
	"replay-user-small":    {"HISTORY 6b65793130 0100000043000000": "the right payload, not that of file 0 (defect history-dataid-zero)"},
	"user-rotated":         {"INDEX DIRTY": "the list of dirty index files survives a restart"},
}

// afterTwoJumps is what the recorded cursors have that differ.
var afterTwoJumps = map[string]string{"scan-history": "0403000000", "quirk-seq-empty-file": "0802000000"}

func TestTranscripts(t *testing.T) {
	for _, f := range fixtures(t).Transcripts {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			o := optionsFor(t, f.Args)
			if f.Start != "empty" {
				root := filepath.Join("testdata/dirs", f.Start)
				require.NoError(t, os.CopyFS(o.DataDir, os.DirFS(filepath.Join(root, "data"))))
				require.NoError(t, os.CopyFS(o.IndexDir, os.DirFS(filepath.Join(root, "index"))))
			}
			s, err := Open(t.Context(), o)
			require.NoError(t, err)
			p := newPlayer(t, s)
			for i, st := range readSteps(t, filepath.Join("testdata", f.Path)) {
				_, skip := different[f.Name][st.Note]
				skip = skip && strings.Contains(st.Recv, afterTwoJumps[f.Name])
				p.play(i, st, skip || st.Quirk != "")
			}
		})
	}
}

type manifest struct {
	Namespaces map[string]struct {
		Descriptor struct {
			Password     string
			MaxSize      uint64
			Public, Worm bool
		}
		Mode         string
		Entries      int64
		DataSize     int64    `json:"data_size_bytes"`
		IndexSize    int64    `json:"index_size_bytes"`
		NextID       uint64   `json:"next_id_after_load"`
		ScanOrder    []string `json:"scan_order"`
		Keys         []manifestKey
		DeletedKeys  []string `json:"deleted_keys"`
		IndexEntries uint64   `json:"index_entries"`
	}
	Files map[string]struct {
		Size   int64
		Sha256 string
	}
}

type manifestKey struct {
	Key, CRC32C, Sha256 string
	Timestamp           uint32
	Len                 uint32
	History             []struct {
		Timestamp uint32
		Sha256    string
	}
}

func readManifest(t *testing.T, name string) manifest {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/dirs", name, "manifest.json"))
	require.NoError(t, err)
	var m manifest
	require.NoError(t, json.Unmarshal(b, &m))
	return m
}

// compareFiles checks data and index files with the manifest: byte for byte,
// but for empty highest pairs, which this server does not make.
func compareFiles(t *testing.T, m manifest, o Options) {
	t.Helper()
	for name, want := range m.Files {
		kind, rest, _ := cutPath(name)
		path := filepath.Join(o.DataDir, rest)
		empty := int64(28)
		if kind == "index" {
			path, empty = filepath.Join(o.IndexDir, rest), 29
		}
		if filepath.Base(name) == "zdb-namespace" {
			continue // no bytes of old passwords
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && want.Size == empty {
			continue
		}
		require.NoError(t, err)
		require.EqualValues(t, want.Size, len(b), name)
		sum := sha256.Sum256(b)
		require.Equal(t, want.Sha256, hex.EncodeToString(sum[:]), name)
	}
}

func cutPath(name string) (string, string, bool) {
	for i := range name {
		if name[i] == '/' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}

// compareContent checks everything that the manifest says of the contents.
func compareContent(t *testing.T, m manifest, s *Server) {
	t.Helper()
	for name, want := range m.Namespaces {
		n, ok := s.Namespace(name)
		require.True(t, ok, name)
		i := n.Info()
		require.Equal(t, want.Entries, i.Entries, name)
		require.Equal(t, want.DataSize, i.Used, name)
		require.Equal(t, want.IndexSize, i.IndexUsed, name)
		require.Equal(t, want.Mode, n.Mode().String(), name)
		if want.NextID != 0 {
			require.Equal(t, want.NextID, i.NextID, name)
		}
		require.Equal(t, want.Descriptor.Password, n.desc.Password)
		require.Equal(t, want.Descriptor.MaxSize, n.desc.MaxSize)
		require.Equal(t, want.Descriptor.Public, n.desc.Public)
		require.Equal(t, want.Descriptor.Worm, n.desc.Worm)
		require.Equal(t, want.ScanOrder, scanKeys(t, n), name)
		for _, k := range want.Keys {
			compareKey(t, n, k)
		}
		for _, k := range want.DeletedKeys {
			key, err := hex.DecodeString(k)
			require.NoError(t, err)
			_, err = n.Get(t.Context(), key)
			require.ErrorIs(t, err, backend.ErrNotFound)
		}
	}
}

func compareKey(t *testing.T, n *Namespace, k manifestKey) {
	t.Helper()
	key, err := hex.DecodeString(k.Key)
	require.NoError(t, err)
	v, err := n.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, k.Sha256, shaHex(v))
	st, err := n.Stat(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, k.CRC32C, fmt.Sprintf("%08x", st.CRC))
	require.Equal(t, k.Len, st.Length)
	var at *place
	for _, h := range k.History {
		v, err := n.history(t.Context(), key, at)
		require.NoError(t, err)
		require.Equal(t, h.Sha256, shaHex(v.payload))
		require.Equal(t, h.Timestamp, v.timestamp)
		at = &v.parent
	}
	_, err = n.history(t.Context(), key, at)
	require.ErrorIs(t, err, errNoHistory)
}

func shaHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func scanKeys(t *testing.T, n *Namespace) []string {
	t.Helper()
	keys := []string{}
	var cursor []byte
	for {
		list, next, err := n.Scan(t.Context(), cursor)
		if err == io.EOF {
			return keys
		}
		require.NoError(t, err)
		for _, e := range list {
			keys = append(keys, hex.EncodeToString(e.Key))
		}
		cursor = next
	}
}

// TestBuild replays the requests that made the recorded folders, and compares
// the files, what is read from them again, and what Reindex makes of the data.
func TestBuild(t *testing.T) {
	for _, f := range fixtures(t).Dirs {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			m := readManifest(t, f.Name)
			o := optionsFor(t, f.Runs[0].Args)
			for _, run := range f.Runs {
				s, err := Open(t.Context(), o)
				require.NoError(t, err)
				t.Run("run", func(t *testing.T) {
					p := newPlayer(t, s)
					for i, st := range readSteps(t, filepath.Join("testdata", run.Transcript)) {
						_, skip := different[f.Name][st.Note]
						p.play(i, st, skip)
					}
				})
			}
			compareFiles(t, m, o)
			reopen := func() {
				s, err := Open(t.Context(), o)
				require.NoError(t, err)
				compareContent(t, m, s)
				require.NoError(t, s.Close())
			}
			reopen()
			for name, ns := range m.Namespaces {
				mode := User
				if ns.Mode == "sequential" {
					mode = Sequential
				}
				require.NoError(t, Reindex(t.Context(), o.IndexDir, o.DataDir, name, mode))
			}
			compareFiles(t, m, o)
			reopen()
		})
	}
}

// TestLoad reads the folders as the reference left them.
func TestLoad(t *testing.T) {
	for _, name := range []string{"user-small", "seq-small", "namespaces"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := optionsFor(t, []string{"--datasize", "4M"})
			root := filepath.Join("testdata/dirs", name)
			require.NoError(t, os.CopyFS(o.DataDir, os.DirFS(filepath.Join(root, "data"))))
			require.NoError(t, os.CopyFS(o.IndexDir, os.DirFS(filepath.Join(root, "index"))))
			m := readManifest(t, name)
			for range 2 { // without our checkpoint, then with it
				s, err := Open(t.Context(), o)
				require.NoError(t, err)
				compareContent(t, m, s)
				require.NoError(t, s.Close())
				compareFiles(t, m, o)
			}
		})
	}
}
