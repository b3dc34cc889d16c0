package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/threefoldtech/quantumd/backend"
)

// errorAt makes an Error at the place of key in the file, or of the nearest
// enclosing key that the file has.
func (c *Config) errorAt(key, msg, remedy string, cause error) *Error {
	e := &Error{File: c.file, Key: key, Msg: msg, Remedy: remedy, Err: cause}
	for k := key; k != ""; k = parent(k) {
		if p, ok := c.positions[k]; ok {
			e.Line, e.Col = p.line, p.col
			break
		}
	}
	return e
}

func parent(key string) string {
	if i := strings.LastIndexAny(key, ".["); i > 0 {
		return key[:i]
	}
	return ""
}

func backendID(role backend.Role, n int) string { return fmt.Sprintf("%s%d", role, n) }

func (c *Config) badAddress(i int) *Error {
	return c.errorAt(fmt.Sprintf("backends[%d].address", i), fmt.Sprintf("%q is not IP:PORT", c.Backends[i].Address),
		"write an IP address and a port, such as 192.0.2.1:9900 or [2001:db8::1]:9900; host names cannot be kept in the metadata", nil)
}

// Validate checks everything that can be known without asking anybody, and
// joins all that is wrong: each an [*Error].
func (c *Config) Validate() error {
	v := &validator{c: c}
	v.sizes()
	v.durations()
	v.paths()
	v.words()
	v.shards()
	v.backends()
	v.secrets()
	return errors.Join(v.errs...)
}

type validator struct {
	c    *Config
	errs []error
}

func (v *validator) bad(key, msg, remedy string) {
	v.errs = append(v.errs, v.c.errorAt(key, msg, remedy, nil))
}

func (v *validator) sizes() {
	c := v.c
	if c.ZdbDataSize < 512*KiB || int64(c.ZdbDataSize) >= math.MaxUint32 {
		v.bad("zdb_data_size", fmt.Sprintf("%s is outside of what zdb takes", c.ZdbDataSize), "write a size from 512K to 4095M; 64M is the default")
	}
	if c.CacheSize < 2*c.ZdbDataSize {
		v.bad("cache_size", fmt.Sprintf("%s holds less than two data files of %s", c.CacheSize, c.ZdbDataSize), "raise cache_size or lower zdb_data_size")
	}
	if c.MemoryLimit < 64*MiB {
		v.bad("memory_limit", fmt.Sprintf("%s is too small to work with", c.MemoryLimit), "write 64M or more")
	}
	if c.UploadWorkers < 1 || c.UploadWorkers > 64 {
		v.bad("upload_workers", fmt.Sprintf("%d is not from 1 to 64", c.UploadWorkers), "write a number from 1 to 64")
	}
	if c.PrometheusPort < 0 || c.PrometheusPort > math.MaxUint16 {
		v.bad("prometheus_port", fmt.Sprintf("%d is not a port", c.PrometheusPort), "write a port from 1 to 65535, or 0 to follow metrics.listen")
	}
	if c.MaxDeploymentRetries < 0 {
		v.bad("max_deployment_retries", "negative", "write zero or more")
	}
}

func (v *validator) durations() {
	for _, d := range []struct {
		key   string
		value Duration
		least Duration
	}{
		{"retry_interval", v.c.RetryInterval, 1e9},
		{"zdb_rotate_time", v.c.RotateTime(), 1e9},
		{"rmb_timeout", v.c.RMBTimeout, 1e9},
		{"replace.after", v.c.Replace.After, 1e9},
	} {
		if d.value < d.least {
			v.bad(d.key, fmt.Sprintf("%s is too short", d.value), fmt.Sprintf("write %s or more", d.least))
		}
	}
	if v.c.ScrubInterval != 0 && v.c.ScrubInterval < Duration(60e9) {
		v.bad("scrub_interval", fmt.Sprintf("%s is too short", v.c.ScrubInterval), "write 1m or more, or 0 to switch it off")
	}
}

func (v *validator) paths() {
	for key, path := range map[string]string{
		"zdb_root_path": v.c.ZdbRootPath, "qsfs_mountpoint": v.c.QSFSMountpoint, "cache_path": v.c.CachePath,
		"database_path": v.c.DatabasePath, "zstor_config_path": v.c.ZstorConfigPath,
	} {
		if path != "" && !filepath.IsAbs(path) {
			v.bad(key, fmt.Sprintf("%q is not an absolute path", path), "begin it with /")
		}
	}
	if v.c.ZdbRootPath == "" {
		v.bad("zdb_root_path", "empty", "name a folder, such as /opt/zdb")
	}
}

func (v *validator) words() {
	c := v.c
	oneOf := func(key, value string, words ...string) {
		for _, w := range words {
			if value == w {
				return
			}
		}
		v.bad(key, fmt.Sprintf("%q is not known%s", value, suggest(value, words)), "write one of "+strings.Join(words, ", "))
	}
	oneOf("zdb_connection_type", c.ZdbConnectionType, "mycelium", "ipv6", "ygg")
	oneOf("engine.zdb", string(c.Engine.Zdb), "embedded", "external")
	oneOf("engine.zstor", string(c.Engine.Zstor), "embedded", "external")
	oneOf("engine.zdbfs", string(c.Engine.Zdbfs), "embedded", "external")
	oneOf("hook_ready", c.HookReady, "serve", "wait", "refuse")
	oneOf("replace.enabled", c.Replace.Enabled, "auto", "true", "false")
	oneOf("log_level", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("log_format", c.LogFormat, "text", "json")
	if c.Network != "" {
		oneOf("network", c.Network, "main", "test", "qa", "dev")
	}
	if strings.Contains(c.DeploymentName, "_") {
		v.bad("deployment_name", "contains _, which separates the parts of a contract's name", "use letters, digits and -")
	}
	if l := c.Metrics.Listen; l != "off" {
		if _, err := netip.ParseAddrPort(l); err != nil {
			v.bad("metrics.listen", fmt.Sprintf("%q is not IP:PORT", l), "write an address such as 127.0.0.1:9092, or off")
		}
	}
	switch p := c.Metrics.Pushgateway; p {
	case "auto", "off", "":
	default:
		if u, err := url.Parse(p); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			v.bad("metrics.pushgateway", "not auto, off or a URL", "write auto, off, or a URL such as http://192.0.2.1:9091")
		}
	}
}

func (v *validator) shards() {
	c := v.c
	switch {
	case c.MinShards < 1:
		v.bad("min_shards", fmt.Sprintf("%d is below 1", c.MinShards), "write how many shards suffice to read, such as 3")
	case c.ExpectedShards <= c.MinShards:
		v.bad("expected_shards", fmt.Sprintf("%d is not above min_shards (%d): nothing could be lost", c.ExpectedShards, c.MinShards), "write min_shards plus the number of backends that may be lost, such as 5")
	case c.ExpectedShards > 256:
		v.bad("expected_shards", fmt.Sprintf("%d is above 256", c.ExpectedShards), "write 256 or less")
	}
	if c.RedundantGroups < 0 || c.RedundantNodes < 0 {
		v.bad("redundant_groups", "redundant_groups or redundant_nodes is negative", "write zero or more")
	}
}

func (v *validator) backends() {
	c := v.c
	if len(c.Backends) == 0 {
		return
	}
	count := map[backend.Role]int{}
	seen := map[string]int{}
	for i, b := range c.Backends {
		key := fmt.Sprintf("backends[%d]", i)
		if b.Role != backend.Meta && b.Role != backend.Data {
			v.bad(key+".role", fmt.Sprintf("%q is not a role", b.Role), "write meta or data")
		}
		addr, err := netip.ParseAddrPort(b.Address)
		if err != nil || addr.Port() == 0 {
			v.errs = append(v.errs, c.badAddress(i))
		}
		id := addr.String() + " " + b.Namespace
		if j, twice := seen[id]; twice {
			v.bad(key, fmt.Sprintf("the same address and namespace as backends[%d]", j), "give each backend a namespace of its own, better a machine of its own")
		}
		seen[id] = i
		if !b.Spare {
			count[b.Role]++
		}
	}
	if n := count[backend.Meta]; n != backend.MetaBackends {
		v.bad("backends", fmt.Sprintf("%d metadata backends, want exactly %d", n, backend.MetaBackends), "list four with role: meta that are not spares")
	}
	if n := count[backend.Data]; n < c.ExpectedShards {
		v.bad("backends", fmt.Sprintf("%d data backends, but expected_shards is %d", n, c.ExpectedShards), "list more with role: data, or lower expected_shards")
	}
}

func (v *validator) secrets() {
	c := v.c
	if c.EncryptionKey != "" {
		if key, err := hex.DecodeString(c.EncryptionKey.Reveal()); err != nil || len(key) != 32 {
			v.bad("encryption_key", "not 64 hex digits", "make one with `openssl rand -hex 32` and keep a copy off this machine")
		}
	}
	if len(c.Backends) > 0 {
		if c.EncryptionKey == "" && c.Mnemonic == "" {
			v.bad("encryption_key", "empty: nothing to encrypt with", "make one with `openssl rand -hex 32` and keep a copy off this machine; or set encryption_key_file, mnemonic or mnemonic_file")
		}
		return
	}
	v.grid()
}

// grid checks what only the ThreeFold Grid needs.
func (v *validator) grid() {
	c := v.c
	if c.Mnemonic == "" {
		v.bad("mnemonic", "empty, and no backends are listed", "for the ThreeFold Grid set mnemonic, mnemonic_file or MNEMONIC; for zdbs of your own list them under backends; for this machine alone use `quantumd deploy --local`")
		return
	}
	for _, need := range []struct{ key, value, remedy string }{
		{"network", c.Network, "write main, test, qa or dev, or set NETWORK"},
		{"deployment_name", c.DeploymentName, "give the deployment a name, such as backup1"},
		{"password", c.Password.Reveal(), "set password, password_file or PASSWORD: it is also part of the encryption key"},
	} {
		if need.value == "" {
			v.bad(need.key, "empty", need.remedy)
		}
	}
	if len(c.Farms) == 0 && (len(c.MetaNodes) == 0 || len(c.DataNodes) == 0) {
		v.bad("farms", "empty, and meta_nodes or data_nodes is empty too", "list farms, or nodes of both kinds")
	}
}
