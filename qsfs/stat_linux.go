package qsfs

import (
	"io/fs"
	"syscall"
	"time"
)

// allocated is the disk space that a file takes: sparse and preallocated files
// differ from their length.
func allocated(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}

// lastUse is when a file was last read or written.
func lastUse(st fs.FileInfo) time.Time {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		if read := time.Unix(sys.Atim.Unix()); read.After(st.ModTime()) {
			return read
		}
	}
	return st.ModTime()
}
