// Package config turns one YAML file into one validated [Config]: defaults,
// environment, typed sizes, durations and secrets, and errors that name file,
// line, column, key and remedy.
//
//	cfg, err := config.Load("qsfs.yaml", config.FromEnviron(os.Environ()))
//	cfg := config.Default()
//	err := cfg.Validate()
//
// What wins: an override (a flag), the environment, the file, the default.
// Unknown keys are errors with a suggestion, or warnings where
// [TolerateUnknown] is given: a running daemon is not stopped by an upgrade.
package config

import (
	"cmp"
	"encoding/hex"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Config is a whole configuration. The yaml tag of a field is its key; the
// comments in the example file explain each.
type Config struct {
	Network              string   `yaml:"network"`
	Mnemonic             Secret   `yaml:"mnemonic"`
	MnemonicFile         string   `yaml:"mnemonic_file"`
	RelayURL             string   `yaml:"relay_url"`
	ProxyURL             string   `yaml:"proxy_url"`
	SubstrateURL         string   `yaml:"substrate_url"`
	RMBTimeout           Duration `yaml:"rmb_timeout"`
	DeploymentName       string   `yaml:"deployment_name"`
	Password             Secret   `yaml:"password"`
	PasswordFile         string   `yaml:"password_file"`
	Farms                []uint64 `yaml:"farms"`
	ExcludeNodes         []uint32 `yaml:"exclude_nodes"`
	MetaNodes            []uint32 `yaml:"meta_nodes"`
	DataNodes            []uint32 `yaml:"data_nodes"`
	MetaSize             Size     `yaml:"meta_size"`
	DataSize             Size     `yaml:"data_size"`
	TotalStorageSize     Size     `yaml:"total_storage_size"`
	MaxDeploymentRetries int      `yaml:"max_deployment_retries"`
	ZdbConnectionType    string   `yaml:"zdb_connection_type"`
	CertifiedNodes       bool     `yaml:"certified_nodes"`

	Backends          []Backend `yaml:"backends"`
	EncryptionKey     Secret    `yaml:"encryption_key"`
	EncryptionKeyFile string    `yaml:"encryption_key_file"`
	MinShards         int       `yaml:"min_shards"`
	ExpectedShards    int       `yaml:"expected_shards"`
	RedundantGroups   int       `yaml:"redundant_groups"`
	RedundantNodes    int       `yaml:"redundant_nodes"`
	MetadataPrefix    string    `yaml:"metadata_prefix"` // of keys on the metadata backends

	ZdbRootPath     string   `yaml:"zdb_root_path"`
	QSFSMountpoint  string   `yaml:"qsfs_mountpoint"`
	CachePath       string   `yaml:"cache_path"`
	CacheSize       Size     `yaml:"cache_size"`
	DatabasePath    string   `yaml:"database_path"`
	ZstorConfigPath string   `yaml:"zstor_config_path"`
	ZdbDataSize     Size     `yaml:"zdb_data_size"`
	ZdbRotateTime   Duration `yaml:"zdb_rotate_time"`
	RetryInterval   Duration `yaml:"retry_interval"`
	UploadWorkers   int      `yaml:"upload_workers"`
	MemoryLimit     Size     `yaml:"memory_limit"`

	Engine         Engine            `yaml:"engine"`
	HookReady      string            `yaml:"hook_ready"` // serve, wait or refuse: a real zdb that starts while the daemon is down
	Replace        Replace           `yaml:"replace"`
	ScrubInterval  Duration          `yaml:"scrub_interval"`
	Metrics        Metrics           `yaml:"metrics"`
	PrometheusPort int               `yaml:"prometheus_port"`
	LogLevel       string            `yaml:"log_level"`
	LogFormat      string            `yaml:"log_format"`
	Binaries       map[string]Binary `yaml:"binaries"`

	file      string
	read      time.Time
	positions map[string]position
	sources   map[string]Source
	variables map[string]string // where a value of the environment came from
	failed    map[string]bool   // top-level keys whose value could not be read
	start     position          // of the file's first key
	warnings  []*Error
}

// Backend is a zdb namespace that the user runs.
type Backend struct {
	ID        string       `yaml:"id"` // empty: its role and its place among those of the role
	Role      backend.Role `yaml:"role"`
	Address   string       `yaml:"address"` // IP:PORT or [IPv6]:PORT
	Namespace string       `yaml:"namespace"`
	Password  Secret       `yaml:"password"`
	Group     string       `yaml:"group"`
	Spare     bool         `yaml:"spare"`
}

// EngineKind says who does a component's work.
type EngineKind string

// The engine of a component: built in, or the real program.
const (
	Embedded EngineKind = "embedded"
	External EngineKind = "external"
)

// Engine is the kind of each component. In YAML: one word for all, or a map.
type Engine struct {
	Zdb   EngineKind `yaml:"zdb"`
	Zstor EngineKind `yaml:"zstor"`
	Zdbfs EngineKind `yaml:"zdbfs"`
}

// Replace says whether and how failed backends are replaced.
type Replace struct {
	Enabled         string   `yaml:"enabled"` // auto, true or false; auto: local, and static with spares
	After           Duration `yaml:"after"`
	MaxPerDay       int      `yaml:"max_per_day"`
	MaxCostPerMonth string   `yaml:"max_cost_per_month"`
	Rate            Size     `yaml:"rate"` // bytes a second that a rebuild moves at most; zero: no limit
}

// Metrics says where metrics are served and pushed.
type Metrics struct {
	Listen      string `yaml:"listen"`      // IP:PORT, or off
	Pushgateway string `yaml:"pushgateway"` // auto, off, or a URL
}

// Binary pins an external program.
type Binary struct {
	URL    string `yaml:"url"`
	SHA256 string `yaml:"sha256"`
}

// Default gives the configuration that an empty file and environment give.
func Default() *Config {
	return &Config{
		RMBTimeout:           Duration(30e9),
		MetaSize:             GiB,
		MaxDeploymentRetries: 5,
		ZdbConnectionType:    "mycelium",
		MinShards:            3,
		ExpectedShards:       5,
		MetadataPrefix:       "zstor-meta",
		ZdbRootPath:          "/opt/zdb",
		QSFSMountpoint:       "/mnt/qsfs",
		CacheSize:            10 * GiB,
		ZstorConfigPath:      "/etc/zstor.toml",
		ZdbDataSize:          64 * MiB,
		RetryInterval:        Duration(600e9),
		UploadWorkers:        2,
		MemoryLimit:          512 * MiB,
		Engine:               Engine{Embedded, Embedded, Embedded},
		HookReady:            "serve",
		Replace:              Replace{Enabled: "auto", After: Duration(1800e9), MaxPerDay: 2},
		ScrubInterval:        Duration(7 * 24 * 3600e9),
		Metrics:              Metrics{Listen: "127.0.0.1:9092", Pushgateway: "auto"},
		LogLevel:             "warn",
		LogFormat:            "text",
	}
}

// File names the file that the configuration was read from; empty for none.
func (c *Config) File() string { return c.file }

// Read is when the configuration was read; what is changed in the file after it
// is not in it.
func (c *Config) Read() time.Time { return c.read }

// Clone gives a copy that can be changed without changing c.
func (c *Config) Clone() *Config {
	clone := *c
	clone.Backends = slices.Clone(c.Backends)
	return &clone
}

// Warnings lists what was wrong but tolerated.
func (c *Config) Warnings() []*Error { return c.warnings }

// RotateTime is the longest time between two cuts: zdb_rotate_time, or
// retry_interval where that is zero.
func (c *Config) RotateTime() Duration {
	if c.ZdbRotateTime > 0 {
		return c.ZdbRotateTime
	}
	return c.RetryInterval
}

// Database is the path of the SQLite file: database_path, or
// uploaded_files.db below zdb_root_path.
func (c *Config) Database() string {
	if c.DatabasePath != "" {
		return c.DatabasePath
	}
	return filepath.Join(c.ZdbRootPath, "uploaded_files.db")
}

// Prefix is the first part of every metadata key. The default is the reference's,
// so that its objects are found again.
func (c *Config) Prefix() string { return c.MetadataPrefix }

// Key gives the 32-byte encryption key: encryption_key, or, with a mnemonic,
// SHA-256 of its BIP-39 seed with the password as passphrase.
func (c *Config) Key() ([]byte, error) {
	if c.EncryptionKey != "" {
		key, err := hex.DecodeString(c.EncryptionKey.Reveal())
		if err != nil || len(key) != 32 {
			return nil, c.errorAt("encryption_key", "not 64 hex digits", "make one with `openssl rand -hex 32`", nil)
		}
		return key, nil
	}
	if c.Mnemonic != "" {
		return deriveKey(c.Mnemonic, c.Password)
	}
	return nil, c.errorAt("encryption_key", "no key and no mnemonic", "set encryption_key, encryption_key_file, mnemonic or mnemonic_file", nil)
}

// BackendList gives the backends that the file lists, with stable ids
// (meta0…, data0…) in the order of the file.
func (c *Config) BackendList() ([]backend.Backend, error) {
	out := make([]backend.Backend, 0, len(c.Backends))
	ids := c.ids()
	for i, b := range c.Backends {
		addr, err := netip.ParseAddrPort(b.Address)
		if err != nil {
			return nil, c.badAddress(i)
		}
		out = append(out, backend.Backend{
			ID: ids[i], Role: b.Role, Address: addr,
			Namespace: b.Namespace, Password: b.Password, Group: b.Group, Spare: b.Spare,
		})
	}
	return out, nil
}

// ids are those of the listed backends: given, or the role and the place among
// those of the role.
func (c *Config) ids() []string {
	counts := map[backend.Role]int{}
	out := make([]string, len(c.Backends))
	for i, b := range c.Backends {
		out[i] = cmp.Or(b.ID, backendID(b.Role, counts[b.Role]))
		counts[b.Role]++
	}
	return out
}
