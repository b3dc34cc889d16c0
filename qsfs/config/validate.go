package config

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/threefoldtech/quantumd/backend"
)

// errorAt makes an Error at the place where key got its value: a flag, a
// variable, or a line of the file. A key that the file does not have is told at
// the nearest enclosing key, else at the first of related that the file has, else
// where the file begins.
func (c *Config) errorAt(key, msg, remedy string, cause error, related ...string) *Error {
	e := &Error{File: c.file, Key: key, Msg: msg, Remedy: remedy, Err: cause}
	for _, k := range append([]string{key}, related...) {
		switch top := topKey(k); c.sources[top] {
		case FromFlag:
			e.File = "flag"
			return e
		case FromEnvironment:
			if name := c.variables[top]; name != "" {
				e.File = variable(name)
				return e
			}
		}
		for ; k != ""; k = parent(k) {
			if p, ok := c.positions[k]; ok {
				e.Line, e.Col = p.line, p.col
				return e
			}
		}
	}
	e.absent = true
	if e.File != "" {
		e.Line, e.Col = max(c.start.line, 1), max(c.start.col, 1)
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

// Validate checks everything that can be known without asking anybody, and
// joins all that is wrong: each an [*Error].
func (c *Config) Validate() error {
	v := &validator{c: c}
	v.sizes()
	v.durations()
	v.paths()
	v.words()
	v.endpoints()
	v.shards()
	v.grids()
	v.backends()
	v.secrets()
	return inOrder(v.errs)
}

type validator struct {
	c    *Config
	errs []error
}

// bad tells of one error, at key or the first of related that the file has. What
// could not be read is not judged.
func (v *validator) bad(key, msg, remedy string, related ...string) {
	for _, k := range append([]string{key}, related...) {
		if v.c.failed[topKey(k)] {
			return
		}
	}
	v.errs = append(v.errs, v.c.errorAt(key, msg, remedy, nil, related...))
}

func (v *validator) sizes() {
	c := v.c
	if c.ZdbDataSize < 512*KiB || int64(c.ZdbDataSize) >= math.MaxUint32 {
		v.bad("zdb_data_size", fmt.Sprintf("%s is outside of what zdb takes", c.ZdbDataSize), "write a size from 512K to 4095M; 64M is the default")
	} else if c.CacheSize < 2*c.ZdbDataSize {
		v.bad("cache_size", fmt.Sprintf("%s holds less than two data files of %s", c.CacheSize, c.ZdbDataSize), "raise cache_size or lower zdb_data_size", "zdb_data_size")
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
		v.bad("max_deployment_retries", fmt.Sprintf("%d is negative", c.MaxDeploymentRetries), "write zero or more")
	}
	if c.Replace.MaxPerDay < 0 {
		v.bad("replace.max_per_day", fmt.Sprintf("%d is negative", c.Replace.MaxPerDay), "write zero for no limit, or more")
	}
	if text := c.Replace.MaxCostPerMonth; text != "" {
		if usd, err := strconv.ParseFloat(text, 64); err != nil || !(usd > 0) || math.IsInf(usd, 0) {
			v.bad("replace.max_cost_per_month", shown(text)+" is not an amount of US dollars", "write a number such as 2.50, or leave it empty for no limit")
		}
	}
}

func (v *validator) durations() {
	for _, d := range []struct {
		key   string
		value Duration
		least Duration
	}{
		{"retry_interval", v.c.RetryInterval, 1e9},
		{"rmb_timeout", v.c.RMBTimeout, 1e9},
		{"replace.after", v.c.Replace.After, 1e9},
	} {
		if d.value < d.least {
			v.bad(d.key, fmt.Sprintf("%s is too short", d.value), fmt.Sprintf("write %s or more", d.least))
		}
	}
	if t := v.c.ZdbRotateTime; t != 0 && t < 1e9 {
		v.bad("zdb_rotate_time", fmt.Sprintf("%s is too short", t), "write 1s or more, or 0 for retry_interval")
	}
	if v.c.ScrubInterval != 0 && v.c.ScrubInterval < Duration(60e9) {
		v.bad("scrub_interval", fmt.Sprintf("%s is too short", v.c.ScrubInterval), "write 1m or more, or 0 to switch it off")
	}
}

func (v *validator) paths() {
	c := v.c
	for _, p := range []struct{ key, path string }{
		{"zdb_root_path", c.ZdbRootPath}, {"qsfs_mountpoint", c.QSFSMountpoint}, {"cache_path", c.CachePath},
		{"database_path", c.DatabasePath}, {"zstor_config_path", c.ZstorConfigPath},
	} {
		switch {
		case strings.ContainsFunc(p.path, unicode.IsControl):
			v.bad(p.key, shown(p.path)+" has a control character in it", "write the path in one line, without tabs")
		case p.path != "" && !filepath.IsAbs(p.path):
			v.bad(p.key, shown(p.path)+" is not an absolute path", "begin it with /")
		case p.path != "" && filepath.Clean(p.path) == "/":
			v.bad(p.key, "the root of the machine's file system", "name a path below it")
		}
	}
	if c.ZdbRootPath == "" {
		v.bad("zdb_root_path", "empty", "name a folder, such as /opt/zdb")
	}
	v.nesting()
}

// nesting refuses files of the frontend inside of the mount that they serve, and
// the other way round. Paths that nobody wrote are not looked at.
func (v *validator) nesting() {
	c := v.c
	if c.QSFSMountpoint == "" || filepath.Clean(c.QSFSMountpoint) == "/" {
		return
	}
	for _, p := range []struct{ key, path string }{
		{"zdb_root_path", c.ZdbRootPath}, {"database_path", c.DatabasePath}, {"zstor_config_path", c.ZstorConfigPath},
	} {
		if c.Source(p.key) == FromDefault && c.Source("qsfs_mountpoint") == FromDefault {
			continue
		}
		if within(p.path, c.QSFSMountpoint) {
			v.bad(p.key, fmt.Sprintf("%s is inside of qsfs_mountpoint, which is served from it", shown(p.path)), "name a folder outside of qsfs_mountpoint", "qsfs_mountpoint")
		}
	}
	if c.Source("qsfs_mountpoint") != FromDefault && c.Source("zdb_root_path") != FromDefault && c.QSFSMountpoint != c.ZdbRootPath && within(c.QSFSMountpoint, c.ZdbRootPath) {
		v.bad("qsfs_mountpoint", fmt.Sprintf("%s is inside of zdb_root_path", shown(c.QSFSMountpoint)), "name a folder outside of zdb_root_path")
	}
}

func within(path, dir string) bool {
	if !filepath.IsAbs(path) || !filepath.IsAbs(dir) {
		return false
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (v *validator) oneOf(key, value string, words ...string) {
	if !slices.Contains(words, value) {
		v.bad(key, shown(value)+" is not known"+suggest(value, words), "write one of "+strings.Join(words, ", "))
	}
}

func (v *validator) words() {
	c := v.c
	v.oneOf("zdb_connection_type", c.ZdbConnectionType, "mycelium", "ipv6", "ygg", "any")
	v.engine()
	v.oneOf("hook_ready", c.HookReady, "serve", "wait", "refuse")
	v.oneOf("replace.enabled", c.Replace.Enabled, "auto", "true", "false")
	v.oneOf("log_level", c.LogLevel, "debug", "info", "warn", "error")
	v.oneOf("log_format", c.LogFormat, "text", "json")
	if c.Network != "" {
		v.oneOf("network", c.Network, "main", "test", "qa", "dev")
	}
	if strings.Contains(c.DeploymentName, "_") {
		v.bad("deployment_name", "contains _, which separates the parts of a contract's name", "use letters and digits")
	}
}

func (v *validator) engine() {
	e := v.c.Engine
	if e.Zdb == e.Zstor && e.Zdb == e.Zdbfs { // most likely one word for all
		v.oneOf("engine", string(e.Zdb), "embedded", "external")
		return
	}
	v.oneOf("engine.zdb", string(e.Zdb), "embedded", "external")
	v.oneOf("engine.zstor", string(e.Zstor), "embedded", "external")
	v.oneOf("engine.zdbfs", string(e.Zdbfs), "embedded", "external")
	if e.Zdbfs == External && e.Zdb == Embedded {
		v.bad("engine.zdbfs", "a real zdbfs needs a real zdb: the embedded one listens on no socket", "write `engine: {zdb: external, zdbfs: external}`, or leave zdbfs embedded")
	}
}

// endpoints checks addresses that are no backends'.
func (v *validator) endpoints() {
	c := v.c
	if l := c.Metrics.Listen; l != "off" {
		if _, err := netip.ParseAddrPort(l); err != nil {
			v.bad("metrics.listen", shown(l)+" is not IP:PORT", "write an address such as 127.0.0.1:9092, or off")
		}
	}
	switch p := c.Metrics.Pushgateway; p {
	case "auto", "off", "":
	default:
		if !isURL(p, "http", "https") {
			v.bad("metrics.pushgateway", "not auto, off or a URL", "write auto, off, or a URL such as http://192.0.2.1:9091")
		}
	}
	if c.RelayURL != "" && !isURL(c.RelayURL, "ws", "wss") {
		v.bad("relay_url", "not the URL of a relay", "write one such as wss://relay.grid.tf, or leave it empty for the network's own")
	}
	if c.SubstrateURL != "" && !isURL(c.SubstrateURL, "ws", "wss") {
		v.bad("substrate_url", "not the URL of a chain", "write one such as wss://tfchain.example.org, or leave it empty for the network's own")
	}
	if c.ProxyURL != "" && !isURL(c.ProxyURL, "http", "https") {
		v.bad("proxy_url", "not the URL of a grid proxy", "write one such as https://gridproxy.example.org, or leave it empty for the network's own")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Binaries)) {
		b, key := c.Binaries[name], "binaries."+keyName(name)
		if b.URL != "" && !isURL(b.URL, "http", "https", "file") {
			v.bad(key+".url", "not a URL", "write https://…, http://… or file:///…")
		}
		if sum, err := hex.DecodeString(b.SHA256); b.SHA256 != "" && (err != nil || len(sum) != 32) {
			v.bad(key+".sha256", "not 64 hex digits", "write what `sha256sum FILE` prints")
		}
	}
}

// isURL says whether text is a URL with a host, or with a path where it names a file.
func isURL(text string, schemes ...string) bool {
	u, err := url.Parse(text)
	return err == nil && slices.Contains(schemes, u.Scheme) && (u.Host != "" || u.Scheme == "file" && filepath.IsAbs(u.Path))
}

// maxPrefix leaves room for the rest of a key, which has 255 bytes at most.
const maxPrefix = 200

func (v *validator) shards() {
	c := v.c
	switch {
	case c.MinShards < 1:
		v.bad("min_shards", fmt.Sprintf("%d is below 1", c.MinShards), "write how many shards suffice to read, such as 3")
	case c.ExpectedShards <= c.MinShards:
		v.bad("expected_shards", fmt.Sprintf("%d is not above min_shards (%d): nothing could be lost", c.ExpectedShards, c.MinShards),
			"write min_shards plus the number of backends that may be lost, such as 5", "min_shards")
	case c.ExpectedShards > 256:
		v.bad("expected_shards", fmt.Sprintf("%d is above 256", c.ExpectedShards), "write 256 or less")
	}
	if p := c.MetadataPrefix; p == "" || len(p) > maxPrefix || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' }) {
		v.bad("metadata_prefix", "not 1 to 200 printable characters of ASCII without blanks", "leave it out, or write the prefix in the older zstor's configuration")
	}
	for _, r := range []struct {
		key string
		n   int
	}{{"redundant_groups", c.RedundantGroups}, {"redundant_nodes", c.RedundantNodes}} {
		if r.n < 0 {
			v.bad(r.key, fmt.Sprintf("%d is negative", r.n), "write zero or more")
		}
	}
}

// grids checks lists of ids, which only the grid uses.
func (v *validator) grids() {
	c := v.c
	for i, id := range c.Farms {
		if id == 0 {
			v.bad(fmt.Sprintf("farms[%d]", i), "0 is not an id", "write the number of a farm, 1 or more")
		}
	}
	excluded := map[uint32]bool{}
	for _, id := range c.ExcludeNodes {
		excluded[id] = true
	}
	for _, list := range []struct {
		key   string
		nodes []uint32
	}{{"exclude_nodes", c.ExcludeNodes}, {"meta_nodes", c.MetaNodes}, {"data_nodes", c.DataNodes}} {
		seen := map[uint32]bool{}
		for i, id := range list.nodes {
			key := fmt.Sprintf("%s[%d]", list.key, i)
			switch {
			case id == 0:
				v.bad(key, "0 is not an id", "write the number of a node, 1 or more")
			case seen[id]:
				v.bad(key, fmt.Sprintf("%d is listed twice", id), "list each node once")
			case list.key != "exclude_nodes" && excluded[id]:
				v.bad(key, fmt.Sprintf("%d is in exclude_nodes too", id), "remove it from one of the two lists", "exclude_nodes")
			}
			seen[id] = true
		}
	}
}
