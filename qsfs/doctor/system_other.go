//go:build !linux

package doctor

import "context"

func kernelRelease() (string, error)                     { return "", errUnknown }
func statfs(string) (disk, error)                        { return disk{}, errUnknown }
func clock() (clockState, error)                         { return clockState{}, errUnknown }
func tryDurable(string) error                            { return errUnknown }
func measureDisk(context.Context, string) (speed, error) { return speed{}, errUnknown }
