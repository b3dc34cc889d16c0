package local

import (
	"encoding/json"
	"errors"
	"fmt"
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
	return renameio.WriteFile(i.path(descriptionFile), text, 0o600)
}

func (i Instance) path(name string) string { return filepath.Join(i.Dir, name) }

// load reads the instance of a folder; fs.ErrNotExist where there is none.
func load(dir string) (Instance, error) {
	text, err := os.ReadFile(filepath.Join(dir, descriptionFile))
	if err != nil {
		return Instance{}, err
	}
	var d description
	if err := json.Unmarshal(text, &d); err != nil {
		return Instance{}, fmt.Errorf("local backend in %s: %w", dir, err)
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

// loadAll reads the instances below dir, in the order of their names.
func loadAll(dir string) ([]Instance, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Instance
	for _, e := range entries {
		i, err := load(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not an instance
		}
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}
