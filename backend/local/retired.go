package local

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/threefoldtech/quantumd/backend"
)

// retiredFile lists the backends that were given back, one line of JSON each,
// without passwords: a configuration goes on to name them, and their ids and
// ports are not given to others.
const retiredFile = "retired"

// maxRetired bounds the file, in bytes: some 30,000 lines.
const maxRetired = 8 << 20

// noteRetired adds a backend to the list. The caller holds the lock.
func (p *Provisioner) noteRetired(i Instance) error {
	line, err := json.Marshal(i.backend())
	if err != nil {
		return err
	}
	path := filepath.Join(p.dir, retiredFile)
	text, err := readSmall(path, maxRetired)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if bytes.Contains(text, line) {
		return nil // a retirement that was interrupted
	}
	return renameio.WriteFile(path, append(append(text, line...), '\n'), 0o600)
}

// Retired lists the backends that were given back.
func (p *Provisioner) Retired() ([]backend.Backend, error) {
	text, err := readSmall(filepath.Join(p.dir, retiredFile), maxRetired)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []backend.Backend
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var b backend.Backend
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			return out, fmt.Errorf("%s: %w: %w", retiredFile, ErrDescription, err)
		}
		out = append(out, b)
	}
	return out, nil
}
