package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/backend"
)

// Instance is one zdb with one namespace, as its folder describes it. The
// address is for life: the metadata of every object names it.
type Instance struct {
	ID        string
	Dir       string // holds data/, index/ and the description
	Role      backend.Role
	Address   netip.AddrPort
	Namespace string
	Password  backend.Secret // of the namespace
	Admin     backend.Secret // of the server
	Size      int64          // limit in bytes; zero: none
	Group     string
}

// description is the file in an instance's folder, mode 0600.
type description struct {
	Schema    int            `json:"schema"`
	ID        string         `json:"id"`
	Role      backend.Role   `json:"role"`
	Address   netip.AddrPort `json:"address"`
	Namespace string         `json:"namespace"`
	Password  string         `json:"password"`
	Admin     string         `json:"admin"`
	Size      int64          `json:"size"`
	Group     string         `json:"group"`
}

const (
	descriptionFile = "backend.json"
	adminFile       = "admin" // the admin password alone, for the server's process
	pidFile         = "pid"
	logFile         = "zdb.log"
	schema          = 1
)

func (i Instance) backend() backend.Backend {
	return backend.Backend{ID: i.ID, Role: i.Role, Address: i.Address, Namespace: i.Namespace, Password: i.Password, Group: i.Group}
}

// save writes the description, so that a crash leaves the old or the new one.
func (i Instance) save() error {
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return err
	}
	text, err := json.MarshalIndent(description{schema, i.ID, i.Role, i.Address, i.Namespace,
		i.Password.Reveal(), i.Admin.Reveal(), i.Size, i.Group}, "", "\t")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(i.path(adminFile), []byte(i.Admin.Reveal()+"\n"), 0o600); err != nil {
		return err
	}
	if err := renameio.WriteFile(i.path(descriptionFile), text, 0o600); err != nil {
		return err
	}
	return errors.Join(syncDir(i.Dir), syncDir(filepath.Dir(i.Dir)))
}

// syncDir makes names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (i Instance) path(name string) string { return filepath.Join(i.Dir, name) }

// load reads the instance of a folder; fs.ErrNotExist where there is none.
// Files without a description are an error: a new one would name another
// address and another password than those that the data is known by.
func load(dir string) (Instance, error) {
	text, err := readSmall(filepath.Join(dir, descriptionFile), maxDescription)
	if errors.Is(err, fs.ErrNotExist) {
		if _, lost := os.Lstat(filepath.Join(dir, "data")); lost == nil {
			return Instance{}, fmt.Errorf("local backend in %s: %s is missing, but its data is there: %w", dir, descriptionFile, ErrDescription)
		}
	}
	if err != nil {
		return Instance{}, err
	}
	var d description
	if err := json.Unmarshal(text, &d); err != nil {
		return Instance{}, fmt.Errorf("local backend in %s: %w: %w", dir, ErrDescription, err)
	}
	if d.Schema != schema || d.ID != filepath.Base(dir) || !d.Address.IsValid() || (d.Role != backend.Meta && d.Role != backend.Data) {
		return Instance{}, fmt.Errorf("local backend in %s: %w", dir, ErrDescription)
	}
	return Instance{ID: d.ID, Dir: dir, Role: d.Role, Address: d.Address, Namespace: d.Namespace,
		Password: backend.Secret(d.Password), Admin: backend.Secret(d.Admin), Size: d.Size, Group: d.Group}, nil
}

// ErrDescription says that an instance's folder holds a description that this
// version did not write.
var ErrDescription = errors.New("not a description that this version reads")

const maxDescription = 64 << 10

// readSmall reads a file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return text, errors.Join(err, f.Close())
}

// loadAll reads the instances below dir, in the order of their names. With an
// error it still gives those that could be read.
func loadAll(dir string) ([]Instance, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Instance
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || checkID(e.Name()) != nil {
			continue // never the folder of an instance
		}
		i, err := load(filepath.Join(dir, e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // not an instance
		case err != nil:
			errs = append(errs, err)
		default:
			out = append(out, i)
		}
	}
	return out, errors.Join(errs...)
}
