// Package examples holds programs of one page each, run by their tests:
//
//   - storefile: the object engine alone: a file onto zdbs and back
//   - hookhandler: a whole file system in a process, with a handler of events
//   - provisioner: an own way to get backends, around another
//   - provisioning-service: a larger service that rents and runs several systems on the
//     ThreeFold Grid
//
// outside_test.go uses the project from another module.
package examples
