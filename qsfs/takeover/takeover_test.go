package takeover

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/config"
	"github.com/threefoldtech/quantumd/services"
)

// at is a machine below a temporary root: files by their path.
func machine(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "ROOT", root)), 0o644))
	}
	return root
}

const key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// zstorTOML is as an earlier quantumd wrote it.
const zstorTOML = `minimal_shards = 2
expected_shards = 3
redundant_groups = 0
redundant_nodes = 0
root = ""
socket = "/tmp/zstor.sock"
prometheus_port = 9200
zdb_data_dir_path = "/opt/zdb/data/zdbfs-data/"
max_zdb_data_dir_size = 64

[compression]
algorithm = "snappy"

[meta]
type = "zdb"

[meta.config]
prefix = "zstor-meta"

[meta.config.encryption]
algorithm = "AES"
key = "` + key + `"

[[meta.config.backends]]
address = "[2001:db8::1]:9900"
namespace = "1-meta"
password = "hunter2"

[[meta.config.backends]]
address = "[2001:db8::2]:9900"
namespace = "2-meta"
password = "hunter2"

[[meta.config.backends]]
address = "[2001:db8::3]:9900"
namespace = "3-meta"
password = "hunter2"

[[meta.config.backends]]
address = "[2001:db8::4]:9900"
namespace = "4-meta"
password = "hunter2"

[encryption]
algorithm = "AES"
key = "` + key + `"

[[groups]]

[[groups.backends]]
address = "[2001:db8::11]:9900"
namespace = "1-data"
password = "hunter2"

[[groups.backends]]
address = "[2001:db8::12]:9900"
namespace = "2-data"
password = "hunter2"

[[groups.backends]]
address = "[2001:db8::13]:9900"
namespace = "3-data"
password = "hunter2"
`

// unit is a systemd unit of an earlier quantumd.
func unit(exec string) string {
	return "[Unit]\nDescription=x\nAfter=network.target\n\n[Service]\nExecStart=" + exec + "\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n"
}

// earlier is a machine of a quantumd of 2025 with systemd.
func earlier() map[string]string {
	return map[string]string{
		"etc/systemd/system/zstor.service": unit("/usr/local/bin/zstor --log_file /var/log/zstor.log -c ROOT/etc/zstor.toml monitor"),
		"etc/systemd/system/zdb.service": unit("/usr/local/bin/zdb \\\n    --index ROOT/opt/zdb/index \\\n    --data ROOT/opt/zdb/data \\\n" +
			"    --datasize 67108864 \\\n    --hook /usr/local/bin/quantumd-hook \\\n    --rotate 900"),
		"etc/systemd/system/zdbfs.service":    unit("/usr/local/bin/zdbfs -o autons -o size=10737418240 ROOT/mnt/qsfs"),
		"etc/systemd/system/quantumd.service": unit("/usr/local/bin/quantumd daemon"),
		"etc/zstor.toml":                      zstorTOML,
		"etc/quantumd.yaml": "network: main\nmnemonic: " + strings.Repeat("abandon ", 11) + "about\ndeployment_name: my_backup\npassword: 007\nzdb_root_path: /opt/zdb\n" +
			"qsfs_mountpoint: /mnt/qsfs\nretry_interval: 600\nmin_shards: 2\nexpected_shards: 3\ncache_path: /x\nturbo: 1\nprometheus_port: 9199\nfarms: [1, 77]\nbackends: [{role: wrong}]\n",
	}
}

func names1(t *Takeover) (out []string) {
	for _, u := range t.Units {
		out = append(out, u.Name)
	}
	return out
}

// What an earlier quantumd left is understood: paths from what it ran, key and
// backends from its zstor's configuration, all else from its own.
func TestEarlier(t *testing.T) {
	t.Parallel()
	root := machine(t, earlier())
	o, err := Find(root, services.Systemd)
	require.NoError(t, err)
	require.NotNil(t, o)
	assert.Equal(t, Earlier, o.Era)
	assert.Equal(t, []string{"zstor", "quantumd", "zdb", "zdbfs"}, names1(o), "in the order in which they are started")
	assert.Equal(t, filepath.Join(root, "opt/zdb"), o.Root)
	assert.Equal(t, filepath.Join(root, "mnt/qsfs"), o.Mountpoint)
	assert.EqualValues(t, 64<<20, o.DataSize)
	p, err := o.Derive()
	require.NoError(t, err)
	c := p.Config
	assert.Equal(t, key, c.EncryptionKey.Reveal())
	assert.Equal(t, "007", c.Password.Reveal(), "as it was written")
	assert.Len(t, c.Backends, 7)
	assert.Equal(t, "[2001:db8::11]:9900 1-data hunter2", c.Backends[4].Address+" "+c.Backends[4].Namespace+" "+c.Backends[4].Password.Reveal())
	assert.Equal(t, 2, c.MinShards)
	assert.Equal(t, 9199, c.PrometheusPort)
	assert.Equal(t, []uint64{1, 77}, c.Farms)
	assert.Equal(t, config.Default().RetryInterval, c.RetryInterval)
	assert.Equal(t, config.Default().CacheSize, c.CacheSize, "what it gave its zstor is the size of one data file")
	notes := strings.Join(p.Notes, "\n")
	for _, key := range []string{"retry_interval is left out", "turbo is left out", "deployment_name is left out"} {
		assert.Contains(t, notes, key)
	}
	assert.NotContains(t, notes, "abandon")

	// The result is a file that this program reads.
	text, err := c.Marshal()
	require.NoError(t, err)
	again, err := config.Parse("x", text)
	require.NoError(t, err)
	require.NoError(t, again.Validate())

	// zinit, with the stray backslash that its files had.
	files := earlier()
	zinit := map[string]string{}
	for path, text := range files {
		if name, ok := strings.CutPrefix(path, "etc/systemd/system/"); ok {
			zinit["etc/zinit/"+strings.TrimSuffix(name, ".service")+".yaml"] = "exec: |\n  " + strings.ReplaceAll(execStart(text), "   ", " \\\n     ") + " \\\n     \nafter: [x]\n"
		} else {
			zinit[path] = text
		}
	}
	root2 := machine(t, zinit)
	z, err := Find(root2, services.Zinit)
	require.NoError(t, err)
	require.NotNil(t, z)
	assert.Equal(t, names1(o), names1(z))
	assert.Equal(t, filepath.Join(root2, "opt/zdb"), z.Root)
	assert.EqualValues(t, 64<<20, z.DataSize)
	none, err := Find(root2, services.Systemd)
	require.NoError(t, err)
	assert.Nil(t, none, "the manager that runs counts")
}

// The scripts had no configuration of their own.
func TestScripts(t *testing.T) {
	t.Parallel()
	toml := strings.NewReplacer("size = 64\n", "size = 25600\n", `root = ""`, `root = "/"`, `"zstor-meta"`, `"old-prefix"`).Replace(zstorTOML)
	root := machine(t, map[string]string{
		"etc/systemd/system/zstor.service":         unit("/bin/zstor -c ROOT/etc/zstor-default.toml monitor"),
		"etc/systemd/system/zdb.service":           unit("/usr/local/bin/zdb --datasize 64M --mode seq --hook /usr/local/bin/zdb-hook.sh --data ROOT/data/data --index ROOT/data/index"),
		"etc/systemd/system/zdbfs.service":         unit(`/bin/sh -c "umount -l ROOT/mnt; exec /usr/local/bin/zdbfs ROOT/mnt -oautons,size=1024 -o allow_other"`),
		"etc/systemd/system/retry-uploads.service": unit("/usr/local/bin/retry-uploads.sh 600"),
		"etc/systemd/system/zdb-back1.service":     unit("/usr/local/bin/zdb --data /data/data1"),
		"etc/zstor-default.toml":                   toml,
	})
	o, err := Find(root, services.Systemd)
	require.NoError(t, err)
	require.NotNil(t, o)
	assert.Equal(t, Scripts, o.Era)
	assert.Equal(t, []string{"zstor", "zdb", "zdbfs", "retry-uploads"}, names1(o))
	assert.Equal(t, filepath.Join(root, "data"), o.Root)
	assert.Equal(t, filepath.Join(root, "mnt"), o.Mountpoint)
	p, err := o.Derive()
	require.NoError(t, err)
	assert.Equal(t, "old-prefix", p.Config.Prefix())
	assert.Equal(t, "/", p.ObjectRoot)
	assert.Equal(t, 25*config.GiB, p.Config.CacheSize)
	assert.Contains(t, strings.Join(p.Notes, "\n"), "zdb-back1 go on as they are")
}

// What is not an older installation is left alone, and what cannot be taken over
// is said before anything is done.
func TestFindRefuses(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"nothing":         {"etc/zstor.toml": zstorTOML},
		"ours":            {"etc/systemd/system/quantumd.service": services.Mark + "x\n" + unit("/usr/local/bin/quantumd daemon")},
		"somebody else's": {"etc/systemd/system/quantumd.service": unit("/opt/other/quantumd --serve")},
		"a component":     {"etc/systemd/system/qsfs-zdb.service": unit("/usr/local/bin/zdb --data /opt/zdb/data --index /opt/zdb/index")},
	} {
		o, err := Find(machine(t, files), services.Systemd)
		require.NoError(t, err, name)
		assert.Nil(t, o, name)
	}
	for name, change := range map[string]func(f map[string]string) string{
		"own namespaces": func(f map[string]string) string {
			f["etc/systemd/system/zdbfs.service"] = unit("/usr/local/bin/zdbfs -o mn=other /mnt/qsfs")
			return `namespace "other"`
		},
		"two folders": func(f map[string]string) string {
			f["etc/systemd/system/zdb.service"] = unit("/usr/local/bin/zdb --data /a/data --index /b/index")
			return "below one folder"
		},
		"no zstor": func(f map[string]string) string { delete(f, "etc/zstor.toml"); return "is nowhere" },
		"no yaml": func(f map[string]string) string {
			f["etc/quantumd.yaml"] = "password: 'hunter2"
			return "not valid YAML"
		},
		"bad toml": func(f map[string]string) string { f["etc/zstor.toml"] = "hunter2 = ["; return "zstor: config file" },
		"few backends": func(f map[string]string) string {
			f["etc/zstor.toml"] = strings.ReplaceAll(zstorTOML, "expected_shards = 3", "expected_shards = 9")
			return "expected_shards is 9"
		},
	} {
		f := earlier()
		want := change(f)
		o, err := Find(machine(t, f), services.Systemd)
		if err == nil {
			_, err = o.Derive()
		}
		require.ErrorContains(t, err, want, name)
		assert.NotContains(t, err.Error(), "hunter2", name)
		var hint interface{ Hint() string }
		require.ErrorAs(t, err, &hint, name)
		assert.NotEmpty(t, hint.Hint(), name)
	}
}

// Service files are anybody's text.
func FuzzUnits(f *testing.F) {
	for _, text := range earlier() {
		f.Add(text)
	}
	f.Add("exec: sh -c 'umount /x; exec zdbfs /x -o autons -osize=1'\n")
	f.Add("ExecStart=zdb \\")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range []services.Manager{services.Systemd, services.Zinit} {
			for _, name := range roles {
				words := (&Takeover{Manager: m}).commandOf(Unit{Name: name, Text: text})
				option(words, "--data", "-c")
				if mountpoint, _ := zdbfsArguments(words); mountpoint != "" {
					require.True(t, filepath.IsAbs(mountpoint))
				}
			}
		}
	})
}
