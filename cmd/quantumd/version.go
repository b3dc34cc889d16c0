package main

import "runtime/debug"

// released is set by the linker for a release.
var released = ""

// version is that of the release, or of the commit that it was built from.
func version() string {
	if released != "" {
		return released
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "dev"
	}
	return v
}
