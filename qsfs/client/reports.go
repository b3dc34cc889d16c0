package client

import "time"

// Event is one thing that happened, newest in a list first.
type Event struct {
	ID      int64     `json:"id"` // grows
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`    // backend, replace, scrub, damage, checkpoint, upload, hook, legacy, config
	Subject string    `json:"subject"` // a path below the zdb root, or a backend's id
	Message string    `json:"message"`
}

// EventList answers a listing of events.
type EventList struct {
	Schema int     `json:"schema"`
	Events []Event `json:"events"`
}

// The steps of a replacement, in order. Failed is the end of one that could not
// go on and was given up; its reason is in Error.
const (
	ReplaceGrace     = "grace"     // the backend is seen to be lost; it may come back
	ReplaceProvision = "provision" // a new one is made or found
	ReplaceReload    = "reload"    // the new generation of the set is written to the metadata backends and used
	ReplaceRebuild   = "rebuild"   // what it held is made anew elsewhere
	ReplaceVerify    = "verify"    // every object is asked for, once more
	ReplaceRetire    = "retire"    // the old one is given back
	ReplaceDone      = "done"
	ReplaceCancelled = "cancelled" // it came back within the grace period
	ReplaceFailed    = "failed"
)

// Replacement is one lost backend and what is done about it.
type Replacement struct {
	ID         int64     `json:"id"`
	Backend    string    `json:"backend"` // the lost one
	Role       string    `json:"role"`
	Successor  string    `json:"successor,omitempty"`
	Step       string    `json:"step"`   // one of the Replace constants
	Reason     string    `json:"reason"` // why it counts as lost
	Started    time.Time `json:"started"`
	Changed    time.Time `json:"changed"` // when Step began
	Objects    int64     `json:"objects"` // that had something on it
	Rebuilt    int64     `json:"rebuilt"` // of them
	Bytes      int64     `json:"bytes"`   // of shards that were written
	Error      string    `json:"error,omitempty"`
	NextTry    time.Time `json:"next_try,omitzero"`
	Generation int       `json:"generation,omitempty"` // that it made
}

// ReplaceRequest asks for replacements: of the backends named, or with Failed of
// all that do not work.
type ReplaceRequest struct {
	Backends []string `json:"backends"`
	Failed   bool     `json:"failed"`
	DryRun   bool     `json:"dry_run"`
}

// ReplaceReport answers a ReplaceRequest once all are done, or tells with
// DryRun what would be done.
type ReplaceReport struct {
	Schema       int           `json:"schema"`
	DryRun       bool          `json:"dry_run"`
	Replacements []Replacement `json:"replacements"`
}

// Damage is one object, or file, with which something is wrong.
type Damage struct {
	Path     string `json:"path"`           // below the zdb root; empty where only the key is known
	Key      string `json:"key,omitempty"`  // of the record on the metadata backends
	What     string `json:"what"`           // in words
	Shards   int    `json:"shards"`         // of good ones
	Of       int    `json:"of"`             // shards that there should be
	Meta     int    `json:"meta"`           // metadata backends that hold its record
	Lost     bool   `json:"lost,omitempty"` // it cannot be read any more
	Repaired bool   `json:"repaired,omitempty"`
	Error    string `json:"error,omitempty"` // of the repair, or of the look
}

// CheckRequest asks for a check of the files that are named, or of all.
type CheckRequest struct {
	Paths []string `json:"paths"`
}

// CheckReport says whether everything that the newest checkpoint names is on
// the backends, as the metadata says; no shard is read.
type CheckReport struct {
	Schema   int      `json:"schema"`
	Files    int64    `json:"files"`    // that were looked at
	OK       int64    `json:"ok"`       // complete on the backends
	Pending  int64    `json:"pending"`  // not there yet
	Degraded int64    `json:"degraded"` // metadata on three of four, or shards missing
	Lost     int64    `json:"lost"`     // neither here nor on the backends
	Unknown  int64    `json:"unknown"`  // too few backends answered to tell
	Damage   []Damage `json:"damage"`   // at most 1000
	Seconds  float64  `json:"seconds"`
}

// ScrubRequest asks for a scrub.
type ScrubRequest struct {
	Deep   bool `json:"deep"`   // read and decode everything
	Repair bool `json:"repair"` // make what is missing or damaged anew
	Sample int  `json:"sample"` // of so many objects, chosen at random; 0: all
}

// Exit code of a report: 0: all is well; 3: damage that is or can be repaired, or
// something that is not known; 4: something is lost.
func exitOf(damaged, lost int64) int {
	switch {
	case lost > 0:
		return 4
	case damaged > 0:
		return 3
	}
	return 0
}

// ExitCode is what the command ends with.
func (r *CheckReport) ExitCode() int {
	return exitOf(r.Degraded+r.Unknown+int64(len(r.Damage)), r.Lost)
}

// ExitCode is what the command ends with.
func (r *ScrubReport) ExitCode() int { return exitOf(r.Damaged+r.Unknown+int64(len(r.Damage)), r.Lost) }

// ScrubReport says what the backends hold of every object.
type ScrubReport struct {
	Schema   int       `json:"schema"`
	Deep     bool      `json:"deep"`
	Started  time.Time `json:"started"`
	Running  bool      `json:"running"` // there is more to come
	Objects  int64     `json:"objects"` // that were looked at
	Total    int64     `json:"total"`   // zero: not known
	Good     int64     `json:"good"`
	Damaged  int64     `json:"damaged"` // can be repaired
	Repaired int64     `json:"repaired"`
	Lost     int64     `json:"lost"`
	Unknown  int64     `json:"unknown"` // too few backends answered to tell
	Bytes    int64     `json:"bytes"`   // of user data, where it was read
	Damage   []Damage  `json:"damage"`
	Seconds  float64   `json:"seconds"`
	Error    string    `json:"error,omitempty"` // why it does not go on now
}

// Why explains one path of the mount, or one file below the zdb root.
type Why struct {
	Schema int       `json:"schema"`
	Path   string    `json:"path"`
	Safe   string    `json:"safe"`  // local, pending, safe; empty for files below the zdb root
	Bytes  int64     `json:"bytes"` // of its content
	Files  []WhyFile `json:"files"` // data files that hold it, and the index files that lead to it
	Events []Event   `json:"events"`
	Notes  []string  `json:"notes"`
}

// WhyFile is one data or index file and its object.
type WhyFile struct {
	Path      string     `json:"path"`
	State     string     `json:"state"` // open, pending, uploading, failed, stored, degraded, damaged, lost
	Local     bool       `json:"local"` // its file is here
	Object    string     `json:"object,omitempty"`
	Bytes     int64      `json:"bytes"`
	Tries     int        `json:"tries"`
	LastError string     `json:"last_error,omitempty"`
	NextTry   time.Time  `json:"next_try,omitzero"`
	Verified  time.Time  `json:"verified,omitzero"`
	Shards    []WhyShard `json:"shards,omitempty"`
	Meta      []WhyShard `json:"meta,omitempty"`
}

// WhyShard is one shard, or one part of a record, and where it is.
type WhyShard struct {
	Index   int    `json:"index"`
	Backend string `json:"backend"` // id, or the address where none in use has it
	State   string `json:"state"`   // good, missing, damaged, unreachable, refused, stray
}
