// Command deb writes the Debian package of what `make install` put below a
// folder. It is a module of its own: what it needs is no part of the product.
// The same input gives the same bytes.
//
//	deb -root dist/root -scripts deploy/deb -arch amd64 -version 1.2.3 -epoch 1700000000 -o quantumd.deb
package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
)

func main() {
	o := options{}
	flag.StringVar(&o.root, "root", "", "what is installed, as below /")
	flag.StringVar(&o.scripts, "scripts", "", "folder with postinst and prerm")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture")
	flag.StringVar(&o.version, "version", "", "version")
	flag.Int64Var(&o.epoch, "epoch", 0, "time of everything in it, in seconds since 1970")
	flag.StringVar(&o.out, "o", "", "file to write")
	flag.Parse()
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, "deb:", err)
		os.Exit(1)
	}
}

type options struct {
	root, scripts, arch, version, out string
	epoch                             int64
}

func write(o options) error {
	at := time.Unix(o.epoch, 0).UTC()
	contents, err := list(o.root, at)
	if err != nil {
		return err
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "quantumd", Arch: o.arch, Platform: "linux", Version: o.version, VersionSchema: "none", Section: "admin", Priority: "optional",
		Maintainer: "quantumd authors <quantumd@invalid>", Homepage: "https://github.com/threefoldtech/quantumd", License: "Apache-2.0",
		Description: "file system whose data survives lost machines and untrusted ones\n" +
			"Files written to a mount are kept in a local append-only database, and\n" +
			"compressed, encrypted and erasure-coded onto remote ones. One program brings\n" +
			"up, runs, heals and recovers all of it. Installing the package starts nothing.",
		MTime: at,
		Overridables: nfpm.Overridables{
			Contents: contents, Recommends: []string{"fuse3"}, Umask: 0o022,
			Scripts: nfpm.Scripts{PostInstall: filepath.Join(o.scripts, "postinst"), PreRemove: filepath.Join(o.scripts, "prerm")},
			Deb:     nfpm.Deb{Compression: "xz"},
		},
	})
	if err := nfpm.PrepareForPackager(info, "deb"); err != nil {
		return err
	}
	f, err := os.Create(o.out)
	if err != nil {
		return err
	}
	if err := deb.Default.Package(info, f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// list names everything below the root.
func list(root string, at time.Time) (files.Contents, error) {
	var out files.Contents
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		c := &files.Content{Source: path, Destination: strings.TrimPrefix(path, root),
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: st.Mode().Perm(), MTime: at}}
		if st.Mode()&fs.ModeSymlink != 0 {
			if c.Source, err = os.Readlink(path); err != nil {
				return err
			}
			c.Type, c.FileInfo.Mode = files.TypeSymlink, 0
		}
		out = append(out, c)
		return nil
	})
	return out, err
}
