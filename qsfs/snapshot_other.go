//go:build !linux

package qsfs

import "errors"

func flushZdbfs(string) error { return errors.New("zdbfs runs on Linux only") }
