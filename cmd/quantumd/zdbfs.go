package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb"
	"github.com/threefoldtech/quantumd/engine/zdbfs/mount"
	"github.com/threefoldtech/quantumd/engine/zdbfs/tree"
	"github.com/threefoldtech/quantumd/qsfs"
)

// zdbfsOptions are those of the real zdbfs: global ones, and one set for the
// metadata (m), data (d) and temporary (t) namespace.
type zdbfsOptions struct {
	mountpoint string
	size       int64
	autons     bool
	allowOther bool
	at         map[byte]*zdbfsAt
}

type zdbfsAt struct {
	host, port, unix, password string
}

func (at *zdbfsAt) address() string {
	if at.unix != "" {
		return at.unix
	}
	return net.JoinHostPort(at.host, at.port)
}

// runZdbfs is the embedded zdbfs: a mount over the namespaces of a zdb that
// runs elsewhere, the real one included.
func runZdbfs(ctx context.Context, a *app, args []string) int {
	if slices.Contains(args, "--version") || slices.Contains(args, "-V") {
		fmt.Fprintf(a.stdout, "zdbfs v0.1.11 (quantumd %s)\n", version())
		return exitDone
	}
	o, err := parseZdbfs(args)
	if err != nil {
		return a.fail(&usageError{err})
	}
	if err := mountZdbfs(ctx, a, o); err != nil {
		return a.fail(err)
	}
	return exitDone
}

func parseZdbfs(args []string) (*zdbfsOptions, error) {
	o := &zdbfsOptions{size: 10 << 30, at: map[byte]*zdbfsAt{}}
	for _, ns := range "mdt" {
		o.at[byte(ns)] = &zdbfsAt{host: "localhost", port: "9900"}
	}
	var own []string // per namespace: they win over the global ones, wherever they stand
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-o" && i+1 < len(args):
			i++
			own = append(own, strings.Split(args[i], ",")...)
		case strings.HasPrefix(arg, "-o"):
			own = append(own, strings.Split(arg[2:], ",")...)
		case arg == "-f", arg == "-s":
		case strings.HasPrefix(arg, "-"):
			return nil, fmt.Errorf("zdbfs: unknown option %q", arg)
		case o.mountpoint == "":
			o.mountpoint = arg
		default:
			return nil, fmt.Errorf("zdbfs: a second mountpoint %q", arg)
		}
	}
	if o.mountpoint == "" {
		return nil, errors.New("zdbfs: want a mountpoint")
	}
	for _, global := range []bool{true, false} {
		for _, option := range own {
			name, value, _ := strings.Cut(option, "=")
			if err := o.set(name, value, global); err != nil {
				return nil, err
			}
		}
	}
	return o, nil
}

func (o *zdbfsOptions) set(name, value string, global bool) error {
	switch name {
	case "host", "port", "unix":
		for _, at := range o.at {
			if global {
				at.set(name[0], value)
			}
		}
	case "mh", "mp", "mu", "ms", "dh", "dp", "du", "ds", "th", "tp", "tu":
		if !global {
			o.at[name[0]].set(name[1], value)
		}
	case "size":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n <= 0 {
			return fmt.Errorf("zdbfs: size %q: want bytes", value)
		}
		o.size = n
	case "autons":
		o.autons = true
	case "allow_other":
		o.allowOther = true
	case "mn", "dn", "tn", "ts", "cachesize", "nocache", "default_permissions", "fsname", "subtype", "auto_unmount":
		// accepted, as the real one does, and without a meaning here
	default:
		return fmt.Errorf("zdbfs: unknown option %q", name)
	}
	return nil
}

func (at *zdbfsAt) set(what byte, value string) {
	switch what {
	case 'h':
		at.host = value
	case 'p':
		at.port = value
	case 'u':
		at.unix = value
	case 's':
		at.password = value
	}
}

func mountZdbfs(ctx context.Context, a *app, o *zdbfsOptions) error {
	opts := zdb.Options{Logger: a.logger()}
	if o.autons {
		if err := o.ensure(ctx, opts); err != nil {
			return err
		}
	}
	meta := zdb.DialAddress(o.at['m'].address(), "zdbfs-meta", backend.Secret(o.at['m'].password), opts)
	defer meta.Close() //nolint:errcheck // at the end
	data := zdb.DialAddress(o.at['d'].address(), "zdbfs-data", backend.Secret(o.at['d'].password), opts)
	defer data.Close() //nolint:errcheck // at the end
	t, err := tree.Open(ctx, tree.Options{Meta: qsfs.ConnRecords(meta), Data: qsfs.ConnRecords(data), Size: o.size, Logger: a.logger()})
	if err != nil {
		return err
	}
	m, err := mount.Mount(ctx, t, mount.Options{Path: o.mountpoint, AllowOther: o.allowOther, FSName: "zdbfs", Logger: a.logger()})
	if err != nil {
		return errors.Join(err, t.Close(context.WithoutCancel(ctx)))
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		m.Wait()
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
	ending := context.WithoutCancel(ctx)
	return errors.Join(m.Unmount(ending), t.Close(ending))
}

// ensure makes missing namespaces, as autons does.
func (o *zdbfsOptions) ensure(ctx context.Context, opts zdb.Options) error {
	for ns, name := range map[byte]string{'m': "zdbfs-meta", 'd': "zdbfs-data", 't': "zdbfs-temp"} {
		admin := zdb.DialAdmin(o.at[ns].address(), "", opts)
		spec := zdb.NamespaceSpec{Name: name, Sequential: true}
		if ns == 't' {
			spec.Password = "hello" // what the real zdbfs always uses
		}
		err := errors.Join(zdb.EnsureNamespace(ctx, admin, spec), admin.Close())
		if err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	return nil
}
