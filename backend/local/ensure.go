package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
)

func (p *Provisioner) one(ctx context.Context, s backend.Spec) (backend.Backend, error) {
	if err := checkSpec(s); err != nil {
		return backend.Backend{}, err
	}
	i, err := load(filepath.Join(p.dir, s.ID))
	changed, fresh := false, false
	if errors.Is(err, fs.ErrNotExist) {
		i, err = p.describe(s)
		changed, fresh = true, true
	}
	if err == nil {
		err = i.fits(s)
	}
	if err != nil {
		return backend.Backend{}, err
	}
	if s.Size > 0 && s.Size != i.Size {
		i.Size, changed = s.Size, true
	}
	if s.Group != "" && s.Group != i.Group {
		i.Group, changed = s.Group, true
	}
	if changed {
		if err := i.save(); err != nil {
			return backend.Backend{}, fmt.Errorf("local backend %s: %w", i.ID, err)
		}
	}
	err = p.ensure(ctx, i)
	// A port that somebody took since it was chosen: nothing names it yet.
	for try := 0; fresh && try < portTries && p.portLost(ctx, i, err); try++ {
		port, chooseErr := p.choosePort()
		if chooseErr != nil {
			return i.backend(), errors.Join(err, chooseErr)
		}
		i.Address = netip.AddrPortFrom(loopback, port)
		if err = i.save(); err == nil {
			err = p.ensure(ctx, i)
		}
	}
	return i.backend(), err
}

// portTries is how often another port is chosen for a backend that is new.
const portTries = 5

// portLost says whether a start failed because something else has the port.
func (p *Provisioner) portLost(ctx context.Context, i Instance, err error) bool {
	var port *PortError
	return err != nil && ctx.Err() == nil && (errors.As(err, &port) || portFree(i.Address) != nil && !p.isUp(ctx, i))
}

// describe chooses what the Spec leaves open.
func (p *Provisioner) describe(s backend.Spec) (Instance, error) {
	port, err := p.choosePort()
	if err != nil {
		return Instance{}, err
	}
	i := Instance{ID: s.ID, Dir: filepath.Join(p.dir, s.ID), Role: s.Role, Namespace: s.Namespace, Password: s.Password,
		Address: netip.AddrPortFrom(loopback, port), Size: s.Size, Group: s.Group, Admin: newPassword()}
	if i.Namespace == "" {
		i.Namespace = s.ID
	}
	if i.Password == "" {
		i.Password = newPassword()
	}
	return i, nil
}

// ErrSpec says that a Spec cannot be met, or differs from the backend of its id
// in what cannot be changed.
var ErrSpec = errors.New("not what a local backend can be")

// fits says whether the backend is the one that the Spec asks for.
func (i Instance) fits(s backend.Spec) error {
	switch {
	case i.Role != s.Role:
		return fmt.Errorf("local backend %s has the role %s, not %s: %w: %w", i.ID, i.Role, s.Role, ErrSpec, backend.ErrMode)
	case s.Namespace != "" && s.Namespace != i.Namespace:
		return fmt.Errorf("local backend %s has the namespace %q, not %q: %w", i.ID, i.Namespace, s.Namespace, ErrSpec)
	case s.Password != "" && s.Password != i.Password:
		return fmt.Errorf("local backend %s has another password than is asked for: %w", i.ID, ErrSpec)
	}
	return nil
}

// isUp says whether the zdb runs, started by this Provisioner's launcher or by
// anyone else: a service manager, another process.
func (p *Provisioner) isUp(ctx context.Context, i Instance) bool {
	_, ok := p.launcher.running(i)
	return ok || p.serves(ctx, i)
}

// serves says whether the zdb at the address is the instance's own: whether it
// accepts the admin password, which nobody else has. What cannot give a
// challenge is no zdb, and does not get to see the password.
func (p *Provisioner) serves(ctx context.Context, i Instance) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if !givesChallenge(ctx, i.Address) {
		return false
	}
	admin := zdb.DialAdmin(i.Address.String(), i.Admin, zdb.Options{Timeout: 2 * time.Second})
	defer admin.Close() //nolint:errcheck // only asked
	return admin.Ping(ctx) == nil
}

// ElsewhereError says that a backend's zdb runs, but that the launcher did not
// start it: a service manager or another process has it, and would go on with
// files that are gone.
type ElsewhereError struct {
	ID      string
	Address netip.AddrPort
}

func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("local backend %s runs at %s, started by another process", e.ID, e.Address)
}

// Hint names the remedy.
func (e *ElsewhereError) Hint() string {
	return fmt.Sprintf("stop the service or program that runs it (`ss -ltnp 'sport = :%d'` names it), then try again", e.Address.Port())
}

func (p *Provisioner) stop(ctx context.Context, i Instance) error {
	if err := p.launcher.stop(ctx, i); err != nil {
		return err
	}
	if p.serves(ctx, i) {
		return &ElsewhereError{ID: i.ID, Address: i.Address}
	}
	return nil
}

// ensure starts the zdb where it does not run, and completes its namespace.
func (p *Provisioner) ensure(ctx context.Context, i Instance) error {
	if !p.isUp(ctx, i) {
		if err := portFree(i.Address); err != nil {
			return err
		}
		if err := p.launcher.start(ctx, i); err != nil {
			return fmt.Errorf("local backend %s: %w", i.ID, err)
		}
		p.log.Info("backend started", "backend", i.ID, "address", i.Address)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := p.complete(ctx, i); err != nil {
		return fmt.Errorf("local backend %s: %w%s", i.ID, err, lastWords(i))
	}
	return nil
}

// complete waits for the zdb and makes its namespace as described.
func (p *Provisioner) complete(ctx context.Context, i Instance) error {
	admin := zdb.DialAdmin(i.Address.String(), i.Admin, zdb.Options{Timeout: 5 * time.Second})
	defer admin.Close() //nolint:errcheck // only asked
	if err := p.waitAnswer(ctx, i, admin); err != nil {
		return err
	}
	return zdb.EnsureNamespace(ctx, admin, zdb.NamespaceSpec{
		Name: i.Namespace, Sequential: i.sequential(), Password: i.Password, MaxSize: i.Size})
}

func (p *Provisioner) waitAnswer(ctx context.Context, i Instance, admin *zdb.Admin) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := admin.Ping(ctx)
		if err == nil {
			return nil
		}
		if _, alive := p.launcher.running(i); !alive {
			return fmt.Errorf("the zdb ended at once: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the zdb does not answer: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func (i Instance) sequential() bool { return i.Role == backend.Data }

// lastWords quotes the end of the zdb's log, for a message.
func lastWords(i Instance) string {
	text, err := os.ReadFile(i.path(logFile))
	if err != nil || len(text) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text[max(0, len(text)-500):])), "\n")
	return fmt.Sprintf(" (its log ends with %q)", lines[len(lines)-1])
}

// What zdb takes as names and passwords, and a file system as a folder.
var (
	validID        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	validNamespace = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
)

const maxPassword = 63

// checkSpec refuses what could never become a backend, before it is written
// down.
func checkSpec(s backend.Spec) error {
	switch {
	case s.Role != backend.Meta && s.Role != backend.Data:
		return fmt.Errorf("local backend %s: role %q is neither meta nor data: %w", s.ID, s.Role, ErrSpec)
	case s.Namespace != "" && (!validNamespace.MatchString(s.Namespace) || s.Namespace == "default"):
		return fmt.Errorf("local backend %s: namespace %q: %w", s.ID, s.Namespace, ErrSpec)
	case len(s.Password) > maxPassword || s.Password == "*" || strings.ContainsRune(s.Password.Reveal(), 0):
		return fmt.Errorf("local backend %s: a zdb cannot have this password (at most %d bytes): %w", s.ID, maxPassword, ErrSpec)
	case s.Size < 0:
		return fmt.Errorf("local backend %s: size %d: %w", s.ID, s.Size, ErrSpec)
	}
	return checkID(s.ID)
}

// checkID refuses what is no name of an instance's folder.
func checkID(id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("local backend: the id %q is not made of letters, digits, '.', '_' and '-': %w", id, ErrSpec)
	}
	return nil
}

func newPassword() backend.Secret {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return backend.Secret(hex.EncodeToString(b[:]))
}
