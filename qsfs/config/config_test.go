package config_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/config"
)

const key64 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func TestExampleHoldsEveryKeyWithItsDefault(t *testing.T) {
	c, err := config.Parse("config.example.yaml", []byte(config.Example()))
	require.NoError(t, err)
	def := config.Default()
	for i, shown := range c.Show() {
		assert.Equal(t, def.Show()[i].Value, shown.Value, shown.Key)
		assert.Equal(t, config.FromFile, shown.Source, "%s is missing from the example", shown.Key)
	}
	root, err := os.ReadFile("../../config.example.yaml")
	require.NoError(t, err)
	assert.Equal(t, config.Example(), string(root), "config.example.yaml must equal `quantumd config example`")
}

func TestUneditedExampleSaysWhatToFillIn(t *testing.T) {
	c, err := config.Parse("config.example.yaml", []byte(config.Example()))
	require.NoError(t, err)
	err = c.Validate()
	require.Error(t, err)
	errs := config.Errors(err)
	require.NotEmpty(t, errs)
	assert.Equal(t, "mnemonic", errs[0].Key)
	assert.Positive(t, errs[0].Line)
	assert.Contains(t, errs[0].Hint(), "deploy --local")
}

// One walk over every key: default, then file, then environment, then flag.
func TestEveryKeyIsFoundInOrder(t *testing.T) {
	values := map[string][3]string{ // file, environment, flag
		"network": {"dev", "test", "main"}, "mnemonic": {"a", "b", "c"}, "relay_url": {"ws://a", "ws://b", "ws://c"},
		"proxy_url": {"http://a", "http://b", "http://c"}, "substrate_url": {"ws://a", "ws://b", "ws://c"}, "certified_nodes": {"true", "false", "true"},
		"rmb_timeout": {"1s", "2s", "3s"}, "deployment_name": {"a", "b", "c"}, "password": {"a", "b", "c"},
		"farms": {"[1]", "[2]", "[3]"}, "exclude_nodes": {"[1]", "[2]", "[3]"}, "meta_nodes": {"[1]", "[2]", "[3]"},
		"data_nodes": {"[1]", "[2]", "[3]"}, "meta_size": {"1K", "2K", "3K"}, "data_size": {"1K", "2K", "3K"},
		"total_storage_size": {"1K", "2K", "3K"}, "max_deployment_retries": {"1", "2", "3"},
		"zdb_connection_type": {"ipv6", "ygg", "mycelium"},
		"backends":            {"[{role: meta}]", "[{role: data}]", "[{role: meta, group: x}]"},
		"encryption_key":      {"1", "2", "3"}, "min_shards": {"1", "2", "4"}, "expected_shards": {"6", "7", "8"},
		"redundant_groups": {"1", "2", "3"}, "redundant_nodes": {"1", "2", "3"}, "metadata_prefix": {"a", "b", "c"},
		"zdb_root_path": {"/a", "/b", "/c"}, "qsfs_mountpoint": {"/a", "/b", "/c"}, "cache_path": {"/a", "/b", "/c"},
		"cache_size": {"1G", "2G", "3G"}, "database_path": {"/a", "/b", "/c"}, "zstor_config_path": {"/a", "/b", "/c"},
		"zdb_data_size": {"1M", "2M", "3M"}, "zdb_rotate_time": {"1m", "2m", "3m"}, "retry_interval": {"1m", "2m", "3m"},
		"upload_workers": {"1", "3", "4"}, "memory_limit": {"64M", "65M", "66M"},
		"hook_ready": {"wait", "refuse", "serve"},
		"engine":     {"external", "{zdb: external}", "{zstor: external}"},
		"replace":    {"{after: 1m}", "{after: 2m}", "{after: 3m}"}, "scrub_interval": {"1d", "2d", "3d"},
		"metrics": {"{listen: 'off'}", "{listen: '127.0.0.1:1'}", "{listen: '127.0.0.1:2'}"}, "prometheus_port": {"1", "2", "3"},
		"log_level": {"debug", "info", "error"}, "log_format": {"json", "x", "y"},
		"binaries": {"{zdb: {url: a}}", "{zdb: {url: b}}", "{zdb: {url: c}}"},
	}
	show := func(c *config.Config, key string) config.Shown {
		for _, s := range c.Show() {
			if s.Key == key {
				return s
			}
		}
		t.Fatalf("no key %s", key)
		return config.Shown{}
	}
	for _, key := range config.Keys() {
		if strings.HasSuffix(key, "_file") {
			continue // TestSecretFiles
		}
		t.Run(key, func(t *testing.T) {
			v, ok := values[key]
			require.True(t, ok, "a new key needs a row here")
			text := []byte(key + ": " + v[0] + "\n")
			env := config.FromEnviron([]string{"QUANTUMD_" + strings.ToUpper(key) + "=" + v[1]})
			flag := config.WithOverrides(map[string]string{key: v[2]})
			var before any
			for i, opts := range [][]config.Option{nil, {env}, {env, flag}} {
				c, err := config.Parse("f.yaml", text, opts...)
				require.NoError(t, err)
				s := show(c, key)
				assert.Equal(t, []config.Source{config.FromFile, config.FromEnvironment, config.FromFlag}[i], s.Source)
				if !strings.HasPrefix(key, "mnemonic") && key != "password" && key != "encryption_key" {
					assert.NotEqual(t, before, s.Value)
				}
				before = s.Value
			}
			c, err := config.Parse("", nil)
			require.NoError(t, err)
			assert.Equal(t, config.FromDefault, show(c, key).Source)
		})
	}
}

func TestPlainEnvironmentNames(t *testing.T) {
	c, err := config.Parse("", nil, config.FromEnviron([]string{"MNEMONIC=words", "NETWORK=test", "PASSWORD=p", "RETRY_INTERVAL=5m", "QUANTUMD_NETWORK="}))
	require.NoError(t, err)
	assert.Equal(t, "words", c.Mnemonic.Reveal())
	assert.Equal(t, "test", c.Network)
	assert.Equal(t, "p", c.Password.Reveal())
	assert.Equal(t, 5*time.Minute, c.RetryInterval.Std())
}

func TestErrorsNamePlaceAndRemedy(t *testing.T) {
	for _, tt := range []struct{ name, text, want, hint string }{
		{"unknown key", "retry_intervall: 5m\n", "f.yaml:1:1: retry_intervall: unknown key; did you mean retry_interval?", "config example"},
		{"nested unknown key", "replace:\n  affter: 5m\n", "f.yaml:2:3: replace.affter: unknown key; did you mean after?", "config example"},
		{"bare duration", "retry_interval: 600\n", `f.yaml:1:17: retry_interval: "600" has no unit`, "600s"},
		{"bad size", "cache_size: 10 gallons\n", `f.yaml:1:13: cache_size: "10 gallons" is not a size`, "64M"},
		{"fractional size", "cache_size: 1.5G\n", `is not a size`, "whole number"},
		{"huge size", "cache_size: 9999999999T\n", `too large`, ""},
		{"list wanted", "farms: 3\n", "f.yaml:1:8: farms: a list is wanted here", "[a, b]"},
		{"bad id", "farms: [x]\n", `f.yaml:1:9: farms[0]: "x" is not an id`, "whole number"},
		{"twice", "network: main\nnetwork: test\n", "network: given twice", "remove"},
		{"syntax", "a: b: c\n", "f.yaml:1:5: not valid YAML: a second", "in quotes"},
		{"not a map", "- a\n", "a map of keys", ""},
		{"bool", "backends: [{spare: maybe}]\n", `backends[0].spare: "maybe" is not true or false`, "true or false"},
		{"alias", "a: &x 1\nnetwork: *x\n", "aliases", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse("f.yaml", []byte(tt.text))
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.want)
			errs := config.Errors(err)
			require.NotEmpty(t, errs)
			assert.Contains(t, errs[0].Hint()+" ", tt.hint)
		})
	}
}

func TestValidate(t *testing.T) {
	const good = "encryption_key: " + key64 + `
backends:
  - {role: meta, address: "127.0.0.1:1"}
  - {role: meta, address: "127.0.0.1:2"}
  - {role: meta, address: "127.0.0.1:3"}
  - {role: meta, address: "127.0.0.1:4"}
  - {role: data, address: "127.0.0.1:5"}
  - {role: data, address: "127.0.0.1:6"}
  - {role: data, address: "[::1]:7"}
min_shards: 2
expected_shards: 3
`
	c, err := config.Parse("f.yaml", []byte(good))
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	list, err := c.BackendList()
	require.NoError(t, err)
	assert.Equal(t, "data2", list[6].ID)

	for _, tt := range []struct{ name, add, want string }{
		{"too many shards", "expected_shards: 4", "3 data backends, but expected_shards is 4"},
		{"no redundancy", "min_shards: 3", "expected_shards: 3 is not above min_shards (3)"},
		{"bad key", "encryption_key: 00", "encryption_key: not 64 hex digits"},
		{"data size", "zdb_data_size: 4G", "zdb_data_size: 4G is outside"},
		{"cache", "cache_size: 64M", "cache_size"},
		{"path", "zdb_root_path: data", `"data" is not an absolute path`},
		{"engine", "engine: external2", "engine: \"external2\" is not known; did you mean external?"},
		{"name", "deployment_name: a_b", "deployment_name: contains _"},
		{"metrics", "metrics: {listen: here}", `metrics.listen: "here"`},
		{"retry", "retry_interval: 1ms", "retry_interval: 1ms is too short"},
		{"role", `backends: [{role: both, address: "127.0.0.1:1"}]`, `backends[0].role: "both" is not a role`},
		{"host name", `backends: [{role: meta, address: "zdb.example:1"}]`, `"zdb.example:1" is not IP:PORT`},
		{"duplicate", `backends: [{role: meta, address: "127.0.0.1:1"}, {role: meta, address: "127.0.0.1:1"}]`, "the same address and namespace as backends[0]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key, value, _ := strings.Cut(tt.add, ": ")
			c, err := config.Parse("f.yaml", []byte(good), config.WithOverrides(map[string]string{key: value}))
			require.NoError(t, err)
			err = c.Validate()
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.want)
			for _, e := range config.Errors(err) {
				assert.NotEmpty(t, e.Hint(), e.Key)
			}
		})
	}
}

// The vector is that of BIP-39 (twelve times "abandon … about", TREZOR).
func TestKeyOfMnemonic(t *testing.T) {
	c := config.Default()
	c.Mnemonic = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
	c.Password = "TREZOR"
	key, err := c.Key()
	require.NoError(t, err)
	// SHA-256 of c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e53495531f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04
	assert.Equal(t, "c08dda51da02e763c64e8978ca31647b6b29cb0c28ef29c2633fad02bf3eb9a0", hex.EncodeToString(key))
}

func TestSecretFilesAndHiding(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(key64+"\n"), 0o600))
	c, err := config.Parse("f.yaml", []byte("encryption_key_file: "+file+"\npassword: hunter2\n"))
	require.NoError(t, err)
	assert.Equal(t, key64, c.EncryptionKey.Reveal())
	for _, s := range c.Show() {
		assert.NotContains(t, fmt.Sprint(s.Value), "hunter2")
		assert.NotContains(t, fmt.Sprint(s.Value), key64)
	}
	text, err := c.Marshal()
	require.NoError(t, err)
	assert.NotContains(t, string(text), key64, "a key that has a file of its own is not copied")
	assert.Contains(t, string(text), "hunter2")

	_, err = config.Parse("f.yaml", []byte("password_file: /nonexistent/file\n"))
	require.Error(t, err)
	assert.Equal(t, "password_file", config.Errors(err)[0].Key)
}

func TestMarshalLoadsToTheSame(t *testing.T) {
	c, err := config.Parse("f.yaml", []byte("encryption_key: "+key64+"\nretry_interval: 90s\nengine: {zdb: external}\nmetrics: {listen: 'off'}\nbackends: [{role: meta, address: '127.0.0.1:1', password: p, spare: true}]\nscrub_interval: 1d\ncache_size: 3G\n"))
	require.NoError(t, err)
	text, err := c.Marshal()
	require.NoError(t, err)
	again, err := config.Parse("g.yaml", text)
	require.NoError(t, err)
	assert.Equal(t, c.Backends, again.Backends)
	assert.Equal(t, c.Engine, again.Engine)
	assert.Equal(t, c.Metrics, again.Metrics)
	for i, s := range c.Show() {
		assert.Equal(t, s.Value, again.Show()[i].Value, s.Key)
	}
}

func TestUnknownKeysWarnWhenTolerated(t *testing.T) {
	c, err := config.Parse("f.yaml", []byte("future_key: 1\nnetwork: main\n"), config.TolerateUnknown())
	require.NoError(t, err)
	require.Len(t, c.Warnings(), 1)
	assert.Equal(t, "future_key", c.Warnings()[0].Key)
	assert.Equal(t, "main", c.Network)
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	_, err := config.Load(filepath.Join(dir, "none.yaml"))
	require.ErrorIs(t, err, config.ErrNoConfig)
	var e *config.Error
	require.True(t, errors.As(err, &e))
	assert.Contains(t, e.Hint(), "quantumd deploy --local")

	_, err = config.Load(dir)
	require.Error(t, err)
	big := filepath.Join(dir, "big")
	require.NoError(t, os.WriteFile(big, make([]byte, config.MaxFileSize+1), 0o600))
	_, err = config.Load(big)
	require.ErrorContains(t, err, "larger than 1 MiB")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(config.Example()))
	f.Add([]byte("backends: [{role: meta}]\nengine: {zdb: x}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("fuzz", data)
		if err != nil {
			return
		}
		_ = c.Validate() // must not panic
		text, err := c.Marshal()
		require.NoError(t, err)
		again, err := config.Parse("again", text)
		require.NoError(t, err, "%s", text)
		for i, s := range c.Show() {
			assert.Equal(t, s.Value, again.Show()[i].Value, s.Key)
		}
	})
}
