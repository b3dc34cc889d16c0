package epoch

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/threefoldtech/quantumd/internal/durable"
	"github.com/threefoldtech/quantumd/qsfs/manifest"
)

// Claim is the record at …/epoch/<n>. It is never deleted.
type Claim struct {
	Schema int           `json:"schema"`
	Epoch  uint64        `json:"epoch"`
	UUID   string        `json:"uuid"`
	Host   string        `json:"host"`
	Time   time.Time     `json:"time"`
	Lease  time.Duration `json:"lease"`
}

// Sign is the record at …/alive/<n>/<uuid>, written anew with each lease.
type Sign struct {
	Schema   int       `json:"schema"`
	Epoch    uint64    `json:"epoch"`
	UUID     string    `json:"uuid"`
	Time     time.Time `json:"time"`
	Released bool      `json:"released"` // a clean end: nothing is written after this
}

// Head names the newest manifest of one epoch.
type Head struct {
	Schema   int          `json:"schema"`
	Epoch    uint64       `json:"epoch"`
	UUID     string       `json:"uuid"`
	Seq      uint64       `json:"seq"`
	Created  time.Time    `json:"created"`
	Manifest manifest.Ref `json:"manifest"`
}

// Identity is a frontend's own copy of its claim, in its zdb root.
type Identity struct {
	Schema int           `json:"schema"`
	UUID   string        `json:"uuid"`
	Epoch  uint64        `json:"epoch"`
	Lease  time.Duration `json:"lease"`

	// The frontend that this one was restored from, whose head counts until this
	// one has committed something itself.
	ParentUUID  string `json:"parent_uuid,omitempty"`
	ParentEpoch uint64 `json:"parent_epoch,omitempty"`
}

// LoadIdentity reads what Save wrote. A file that is not there is fs.ErrNotExist.
func LoadIdentity(path string) (*Identity, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	id := new(Identity)
	if err := json.Unmarshal(text, id); err != nil || id.Schema != Schema || id.Epoch == 0 || len(id.UUID) != 32 {
		return nil, fmt.Errorf("%s: not an identity that this version reads: %w", path, errors.Join(err, manifest.ErrFormat))
	}
	return id, nil
}

// Save writes the identity to a file, durably, with the mode 0600.
func (id *Identity) Save(path string) error {
	text, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, text, 0o600)
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
