package server_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/threefoldtech/quantumd/engine/zdb/server"
)

// A namespace used in process: no listener, no protocol.
func Example() {
	dir, err := os.MkdirTemp("", "zdb")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	s, err := server.Open(ctx, server.Options{
		DataDir: filepath.Join(dir, "data"), IndexDir: filepath.Join(dir, "index"),
	})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	n, err := s.CreateNamespace(ctx, "blocks", server.NamespaceOptions{Mode: server.Sequential})
	if err != nil {
		panic(err)
	}
	id, err := n.Set(ctx, nil, []byte("a block"))
	if err != nil {
		panic(err)
	}
	if err := n.Sync(ctx); err != nil { // now it survives a power failure
		panic(err)
	}
	closed, err := n.Jump(ctx) // d0 and i0 will not be appended to any more
	if err != nil {
		panic(err)
	}
	block, err := n.Get(ctx, id)
	fmt.Printf("%x %s %v %v\n", id, block, closed, err)
	// Output: 0000000000000000 a block true <nil>
}
