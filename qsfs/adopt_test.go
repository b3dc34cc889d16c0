package qsfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/store"
)

// An installation that kept no list: what the backends hold of each file is
// found out, so that a file that is only there can be read, and nothing that is
// there is uploaded again.
func TestAdopt(t *testing.T) {
	t.Parallel()
	o := newOldDeployment(t)
	require.NoError(t, os.Remove(o.file(0)), "zstor had dropped it")
	b, err := os.ReadFile(o.file(2))
	require.NoError(t, err)
	b[len(b)/2] ^= 1
	require.NoError(t, os.WriteFile(o.file(2), b, 0o600), "the disk changed it")
	grown, err := os.OpenFile(o.file(3), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = grown.WriteString("what came after its upload")
	require.NoError(t, errors.Join(err, grown.Close()))
	require.ErrorIs(t, o.env.Open(t, o.dir).Run(t.Context()), qsfs.ErrNoIdentity)

	report, err := o.env.Open(t, o.dir).Adopt(t.Context(), "")
	require.NoError(t, err)
	closed := len(o.sums) - 1
	assert.Equal(t, 1, report.Remote)
	assert.Equal(t, 1, report.Mend)
	assert.Equal(t, closed-1, report.Stored, "all but what grew")
	assert.GreaterOrEqual(t, report.Upload, 1)
	assert.Empty(t, report.Lost)
	require.NoFileExists(t, filepath.Join(o.layout.Root, "quantumd.json"), "nothing of the older installation is changed")

	f := o.env.FrontendIn(t, o.dir)
	require.Equal(t, o.data, f.Read(t, "a"), "what is only on the backends is fetched, what is damaged here is mended")
	counts := settled(t, f)
	require.EqualValues(t, report.Stored, counts[store.LegacyVerified])
	require.Zero(t, counts[store.LegacyFalse])
	f.MustSync(t)
	mended, err := os.ReadFile(o.file(2))
	require.NoError(t, err)
	b[len(b)/2] ^= 1
	require.Equal(t, b, mended, "the good copy is back, and was never stored over")
	require.NoError(t, f.Stop())

	// The next start is that of any system.
	again := o.env.FrontendIn(t, o.dir)
	require.NoError(t, again.Stop())
}

// What would be lost is told before; whoever cannot be sure changes nothing.
func TestAdoptRefuses(t *testing.T) {
	t.Parallel()
	o := newOldDeployment(t)
	adopt := func(change func(*config.Config)) (*qsfs.AdoptReport, error) {
		cfg := o.env.Config.Clone()
		change(cfg)
		sys, err := qsfs.Open(t.Context(), cfg, qsfs.Below(o.dir), qsfs.WithProvisioner(o.env.Provisioner), qsfs.WithDialer(o.env.Faults.Dialer(zdb.NewDialer(zdb.Options{PoolSize: 2, Timeout: 5 * time.Second}))))
		require.NoError(t, err)
		return sys.Adopt(t.Context(), "")
	}
	_, err := adopt(func(c *config.Config) { c.EncryptionKey = config.Secret(strings.Repeat("ab", 32)) })
	require.ErrorIs(t, err, qsfs.ErrWrongKey)
	require.ErrorIs(t, o.env.Open(t, o.dir).Run(t.Context()), qsfs.ErrNoIdentity, "a refusal allows nothing")

	report, err := adopt(func(c *config.Config) { c.MetadataPrefix = "another" })
	require.NoError(t, err)
	require.Zero(t, report.Stored, "nothing lies below another prefix")
	require.NoError(t, os.Rename(o.file(1), o.file(1)+".away"))
	report, err = adopt(func(c *config.Config) { c.MetadataPrefix = "another" })
	require.NoError(t, err)
	require.Equal(t, []string{o.file(1)}, report.Lost)
	require.NoError(t, os.Rename(o.file(1)+".away", o.file(1)))

	list, err := o.env.Provisioner.List(t.Context())
	require.NoError(t, err)
	for _, b := range list {
		if b.Role == backend.Meta {
			o.env.Faults.Down(b.Address)
		}
	}
	_, err = adopt(func(*config.Config) {})
	require.Error(t, err, "no metadata backend answers")
	for _, b := range list {
		o.env.Faults.Up(b.Address)
	}
	require.NoError(t, o.env.FrontendIn(t, t.TempDir()).Stop())
	_, err = adopt(func(*config.Config) {})
	require.ErrorContains(t, err, "another frontend has claimed these backends")
}
