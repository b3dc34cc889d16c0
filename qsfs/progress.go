package qsfs

// Progress tells of long work. Bars and lines are the caller's.
type Progress struct {
	Op      string // deploy, sync, restore, evict, stop
	Subject string // a backend or a file; empty for the whole
	Step    string // what is being done, in words
	Done    int64
	Total   int64  // zero: not known
	Unit    string // bytes, files, s
	Err     error
}
