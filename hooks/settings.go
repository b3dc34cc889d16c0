package hooks

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ReadyPolicy says what a zdb that starts while the daemon is down does.
type ReadyPolicy string

// The policies. The default is Serve: what is written is kept by zdb and found
// by the daemon when it is back, and what was dropped from the disk can still be
// brought back through zstor's socket, or fails to read until then. Wait is for
// those who rather have no file system than one with read errors, Refuse for
// those whose service manager starts zdb again and again.
const (
	ReadyServe  ReadyPolicy = "serve"
	ReadyWait   ReadyPolicy = "wait" // for the daemon, without an end
	ReadyRefuse ReadyPolicy = "refuse"
)

// Settings are what a hook program must know and no configuration tells it: it
// reads none. The daemon writes them beside its socket.
type Settings struct {
	Socket string      // of the daemon
	Spool  string      // folder for events while the daemon is down
	Ready  ReadyPolicy // empty: ReadyServe
	Zstor  string      // socket of a zstor that brings missing files back while the daemon is down; empty: none
}

// Where settings are found, beside [SocketEnv]: each variable wins over the file
// that the daemon wrote.
const (
	SpoolEnv = "QUANTUMD_HOOK_SPOOL"
	ReadyEnv = "QUANTUMD_HOOK_READY"
	ZstorEnv = "QUANTUMD_ZSTOR_SOCKET"

	SettingsFile = "hook.conf" // beside the socket

	// DefaultSpool is the spool on a machine with one system. It is not beside
	// the socket, for /run does not survive a reboot.
	DefaultSpool = "/var/lib/quantumd/spool"
)

// FindSettings gives the settings of a hook program at path program. Without a
// file and variables they are the defaults: a spool beside the socket, or
// [DefaultSpool] for [DefaultSocket]. With an error they can be used all the
// same, unless they have no socket.
func FindSettings(getenv func(string) string, program string) (Settings, error) {
	socket, err := FindSocket(getenv, program)
	if err != nil {
		return Settings{}, err
	}
	s, err := ReadSettings(socket)
	if err != nil {
		return s, err
	}
	next := s
	for name, to := range map[string]*string{SpoolEnv: &next.Spool, ReadyEnv: (*string)(&next.Ready), ZstorEnv: &next.Zstor} {
		if v := getenv(name); v != "" {
			*to = v
		}
	}
	if err := next.check(); err != nil {
		return s, err
	}
	return next, nil
}

// ReadSettings gives the settings of the daemon with this socket. Where it
// wrote none they are the defaults. With an error they can be used all the
// same: they lack what could not be read.
func ReadSettings(socket string) (Settings, error) {
	s := Settings{Socket: socket, Spool: filepath.Join(filepath.Dir(socket), "spool"), Ready: ReadyServe}
	if socket == DefaultSocket {
		s.Spool = DefaultSpool
	}
	f, err := os.Open(filepath.Join(filepath.Dir(socket), SettingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
	if err == nil {
		err = s.parse(text)
	}
	if err != nil {
		return s, fmt.Errorf("hooks: %s: %w", f.Name(), err)
	}
	return s, nil
}

const maxSettings = 16 << 10

// parse reads lines `name value`. Names of a newer daemon are passed over.
func (s *Settings) parse(text []byte) error {
	if len(text) > maxSettings {
		return fmt.Errorf("more than %d bytes", maxSettings)
	}
	next := *s
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if value == "" {
			continue
		}
		switch name {
		case "spool":
			next.Spool = value
		case "ready":
			next.Ready = ReadyPolicy(value)
		case "zstor":
			next.Zstor = value
		}
	}
	if err := next.check(); err != nil {
		return err
	}
	*s = next
	return nil
}

func (s Settings) check() error {
	switch s.Ready {
	case ReadyServe, ReadyWait, ReadyRefuse:
	default:
		return fmt.Errorf("hooks: ready policy %q: want serve, wait or refuse", s.Ready)
	}
	if !filepath.IsAbs(s.Spool) {
		return fmt.Errorf("hooks: spool %q: want an absolute path", s.Spool)
	}
	return nil
}

// Write puts the settings beside the socket, for hook programs. Paths with a
// newline are refused.
func (s Settings) Write() error {
	if s.Ready == "" {
		s.Ready = ReadyServe
	}
	if err := s.check(); err != nil {
		return err
	}
	if strings.ContainsAny(s.Spool+s.Zstor, "\r\n") {
		return fmt.Errorf("hooks: a path with a line's end: %q, %q", s.Spool, s.Zstor)
	}
	text := fmt.Sprintf("spool %s\nready %s\n", s.Spool, s.Ready)
	if s.Zstor != "" {
		text += "zstor " + s.Zstor + "\n"
	}
	dir := filepath.Dir(s.Socket)
	temp := filepath.Join(dir, "."+SettingsFile)
	if err := removed(temp); err != nil {
		return err
	}
	if err := writeSynced(temp, []byte(text)); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(dir, SettingsFile)); err != nil {
		return err
	}
	return syncDir(dir)
}
