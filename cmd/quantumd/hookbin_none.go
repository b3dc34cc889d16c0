//go:build !embedhook

package main

// hookProgram is nil in a build without the tag embedhook: setup then makes a
// link, and this program does the hook's work by its name.
var hookProgram []byte
