// Package client speaks a running system's control protocol: HTTP and JSON,
// versioned below /v1, on a unix socket of mode 0600 in a private folder. The
// command line, and every other program that looks at or steers a running
// quantumd, uses it.
//
//	c := client.New(socket)
//	status, err := c.Status(ctx)
//	report, err := c.Sync(ctx)
//
// [ErrNotRunning] says that nobody listens.
package client

import "time"

// SchemaVersion is the schema field of every JSON document here.
const SchemaVersion = 1

// The states of a system.
const (
	StateStarting = "starting"
	StateOK       = "ok"
	StateDegraded = "degraded" // works, with less protection than it should have
	StateFailed   = "failed"   // does not serve
	StateFenced   = "fenced"   // another frontend has taken over; read-only
)

// Status is one look at a system.
type Status struct {
	Schema       int        `json:"schema"`
	State        string     `json:"state"`
	Mount        Mount      `json:"mount"`
	LossWindow   LossWindow `json:"loss_window"`
	Queue        Queue      `json:"queue"`
	Backends     []Backend  `json:"backends"`
	Services     []Service  `json:"services"`
	Cache        Cache      `json:"cache"`
	Epoch        uint64     `json:"epoch"`
	Generation   int        `json:"generation"`
	Checkpoint   Checkpoint `json:"checkpoint"`
	GarbageBytes int64      `json:"garbage_bytes"`
	Transfer     Transfer   `json:"transfer"`

	Replacements []Replacement `json:"replacements"`    // under way, or ended within a day; the newest first
	Scrub        *ScrubReport  `json:"scrub,omitempty"` // the one that runs, else the last one
	PID          int           `json:"pid"`
	Notes        []string      `json:"notes"` // what is degraded, in words

	Started   time.Time `json:"started,omitzero"` // of this run
	Dashboard string    `json:"dashboard,omitempty"`
	Disk      Disk      `json:"disk"`

	Configuration Configuration `json:"configuration"`

	Namespaces []Namespace  `json:"namespaces"`
	Redundancy []Redundancy `json:"redundancy"` // of data, then of metadata
}

// Configuration says which one is in effect.
type Configuration struct {
	Read    time.Time `json:"read,omitzero"`     // when the file was read
	Restart []string  `json:"restart"`           // keys that were changed since, and wait for the next start
	Refused string    `json:"refused,omitempty"` // why a newer one was not taken
}

// Disk is the file system that the frontend's files are on.
type Disk struct {
	FreeBytes  int64 `json:"free_bytes"`
	TotalBytes int64 `json:"total_bytes"`
}

// Namespace is one of the frontend's zdb. Every change of a record takes an
// id, and there are 2^32 of them.
type Namespace struct {
	Name  string `json:"name"`
	IDs   int64  `json:"ids"` // that are used up
	Limit int64  `json:"limit"`
}

// Redundancy says how many more backends of a role may be lost before content
// is. It supposes the worst: that every object had something on each backend
// that does not work. Negative: some content may be out of reach.
type Redundancy struct {
	Role      string `json:"role"`
	Needed    int    `json:"needed"` // shards that suffice to read
	Shards    int    `json:"shards"` // that an object has
	Down      int    `json:"down"`   // backends that do not work
	Tolerated int    `json:"tolerated"`
	Full      int    `json:"full"` // of Tolerated, where all work
	// Endangered is the most objects that may have Needed + 1 shards left, or fewer.
	Endangered int64 `json:"endangered"`
}

// Mount is where the tree is mounted.
type Mount struct {
	Path    string `json:"path"`
	Mounted bool   `json:"mounted"`
}

// LossWindow is what would be lost with this machine now.
type LossWindow struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"` // age of the oldest byte that is not safe
}

// Queue counts files on their way to the backends.
type Queue struct {
	Pending      int64 `json:"pending"`
	Uploading    int64 `json:"uploading"`
	Failed       int64 `json:"failed"` // tried, and waiting for the next try
	Stored       int64 `json:"stored"`
	BytesPending int64 `json:"bytes_pending"`
	// OldestSeconds is how long the oldest of them waits already.
	OldestSeconds float64 `json:"oldest_seconds"`
}

// Backend is one backend in use. PID and Dir are those of local ones.
type Backend struct {
	ID        string    `json:"id"`
	Role      string    `json:"role"`
	Address   string    `json:"address"`
	Namespace string    `json:"namespace"`
	Group     string    `json:"group"`
	State     string    `json:"state"`
	Since     time.Time `json:"since"`
	PID       int       `json:"pid,omitempty"`
	Dir       string    `json:"dir,omitempty"`
	Error     string    `json:"error,omitempty"`

	Breaker         string `json:"breaker,omitempty"` // open, half-open: the backend gave no answer again and again, and is not asked for a while
	BreakerFailures int    `json:"breaker_failures"`  // moments without an answer, in a row

	Spare          bool    `json:"spare,omitempty"`    // waits to take the place of a lost one
	Relieved       bool    `json:"relieved,omitempty"` // was full: keeps what it holds, gets nothing new
	LatencySeconds float64 `json:"latency_seconds"`    // of the last answer
	UsedBytes      int64   `json:"used_bytes"`
	LimitBytes     int64   `json:"limit_bytes"` // zero: none
	FreeBytes      int64   `json:"free_bytes"`  // on its disk
	Entries        int64   `json:"entries"`
}

// Service is one part of the system.
type Service struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

// Cache is the local data files.
type Cache struct {
	Bytes int64 `json:"bytes"`
	Limit int64 `json:"limit"`
}

// Checkpoint is the newest committed one; Seq is zero when there is none.
type Checkpoint struct {
	Seq        uint64  `json:"seq"`
	AgeSeconds float64 `json:"age_seconds"`
}

// Transfer counts bytes since the start; of shards, but for the last.
type Transfer struct {
	SentBytes    int64 `json:"sent_bytes"`
	FetchedBytes int64 `json:"fetched_bytes"`
	// FetchedFileBytes are those of the data files that were brought back.
	FetchedFileBytes int64 `json:"fetched_file_bytes"`
}

// SyncReport says what a sync has made safe.
type SyncReport struct {
	Schema     int     `json:"schema"`
	Checkpoint uint64  `json:"checkpoint"` // the newest committed one
	Epoch      uint64  `json:"epoch"`
	Files      int     `json:"files"` // stored by this sync
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	Degraded   bool    `json:"degraded"` // fewer copies of the metadata than wanted
}

// EvictReport says what was dropped from the cache.
type EvictReport struct {
	Schema int   `json:"schema"`
	Files  int   `json:"files"`
	Bytes  int64 `json:"bytes"` // of their content, which a read brings back
	Kept   int   `json:"kept"`  // files that are not safe yet, or open
}

// QueueItem is one file on its way.
type QueueItem struct {
	Path    string    `json:"path"`
	Kind    string    `json:"kind"`
	State   string    `json:"state"`
	Bytes   int64     `json:"bytes"`
	Tries   int       `json:"tries"`
	NextTry time.Time `json:"next_try,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// QueueList answers a listing of the queue.
type QueueList struct {
	Schema int         `json:"schema"`
	Items  []QueueItem `json:"items"`
}

// Failure is how the server answers a call that failed.
type Failure struct {
	Schema int    `json:"schema"`
	Kind   string `json:"kind"` // one of the Kind constants
	Error  string `json:"error"`
	Hint   string `json:"hint,omitempty"`
}

// Kinds of failure that a caller decides on.
const (
	KindFailed   = "failed"
	KindFenced   = "fenced"
	KindDegraded = "degraded"
	KindUsage    = "usage"
	KindTimeout  = "timeout"
)
