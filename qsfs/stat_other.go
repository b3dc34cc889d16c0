//go:build !linux

package qsfs

import (
	"io/fs"
	"time"
)

func allocated(st fs.FileInfo) int64 { return st.Size() }

func lastUse(st fs.FileInfo) time.Time { return st.ModTime() }
