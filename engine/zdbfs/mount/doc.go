// Package mount shows a tree to the kernel, through FUSE.
//
//	if err := mount.Probe(ctx); err != nil { … }           // says why FUSE is not usable
//	m, err := mount.Mount(ctx, t, mount.Options{Path: dir}) // returns when it is mounted
//	err = m.Unmount(ctx)                                    // then close the tree
//
// It keeps no data of its own: package tree does, and must be closed after
// the mount is gone.
package mount
