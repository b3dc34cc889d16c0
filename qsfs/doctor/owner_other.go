//go:build !linux

package doctor

import "io/fs"

func ownerOf(fs.FileInfo) (uid int, known bool)      { return 0, false }
func inodeOf(fs.FileInfo) (inode uint64, known bool) { return 0, false }
