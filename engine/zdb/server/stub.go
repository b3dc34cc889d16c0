package server

import (
	"context"
	"net"

	"github.com/threefoldtech/quantumd/backend"
)

type Server struct{}
type Namespace struct{}

func Open(ctx context.Context, o Options) (*Server, error)        { panic("soon") }
func (s *Server) Serve(ctx context.Context, l net.Listener) error { panic("soon") }
func (s *Server) Close() error                                    { panic("soon") }
func (s *Server) Namespace(name string) (*Namespace, bool)        { panic("soon") }
func (s *Server) Namespaces() []string                            { panic("soon") }
func (s *Server) CreateNamespace(ctx context.Context, name string, o NamespaceOptions) (*Namespace, error) {
	panic("soon")
}
func (s *Server) DeleteNamespace(ctx context.Context, name string) error { panic("soon") }

func (n *Namespace) Name() string                                                    { panic("soon") }
func (n *Namespace) Get(ctx context.Context, key []byte) ([]byte, error)             { panic("soon") }
func (n *Namespace) Set(ctx context.Context, key, value []byte) ([]byte, error)      { panic("soon") }
func (n *Namespace) Delete(ctx context.Context, key []byte) error                    { panic("soon") }
func (n *Namespace) Stat(ctx context.Context, key []byte) (backend.EntryStat, error) { panic("soon") }
func (n *Namespace) Check(ctx context.Context, key []byte) (bool, error)             { panic("soon") }
func (n *Namespace) Scan(ctx context.Context, cursor []byte) ([]backend.Entry, []byte, error) {
	panic("soon")
}
func (n *Namespace) Info() backend.NamespaceInfo                                { panic("soon") }
func (n *Namespace) Sync(ctx context.Context) error                             { panic("soon") }
func (n *Namespace) Jump(ctx context.Context) (bool, error)                     { panic("soon") }
func (n *Namespace) Checkpoint(ctx context.Context) error                       { panic("soon") }
func (n *Namespace) Flush(ctx context.Context) error                            { panic("soon") }
func (n *Namespace) Files() (FilesInfo, error)                                  { panic("soon") }
func (n *Namespace) DirtyIndexes() []uint32                                     { panic("soon") }
func (n *Namespace) ResetDirty(ids []uint32)                                    { panic("soon") }
func (n *Namespace) CopyIndex(ctx context.Context, id uint32, dst string) error { panic("soon") }
func (n *Namespace) DropData(id uint32) (int64, error)                          { panic("soon") }
func (n *Namespace) DataPath(id uint32) string                                  { panic("soon") }
func (n *Namespace) IndexPath(id uint32) string                                 { panic("soon") }
func (n *Namespace) DescriptorPath() string                                     { panic("soon") }

// InstallClosed: see checkpoint.go.
func InstallClosed(indexDir, dataDir, ns string) error { panic("soon") }

// Reindex rebuilds the index files of a namespace from its data files.
func Reindex(ctx context.Context, indexDir, dataDir, ns string, mode Mode) error { panic("soon") }
