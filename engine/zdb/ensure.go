package zdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/engine/zdb/segment"
)

// NamespaceSpec says what a namespace should be.
type NamespaceSpec struct {
	Name       string
	Sequential bool
	Password   backend.Secret // empty: none
	MaxSize    int64          // bytes of payload; zero: no limit
}

// EnsureNamespace makes a namespace that is not there, and completes one that
// an earlier call began: the mode is set first, for it cannot be once something
// was written, the password after it. A namespace in the other mode is
// backend.ErrMode, and stays as it is.
func EnsureNamespace(ctx context.Context, a *Admin, s NamespaceSpec) error {
	if err := a.CreateNamespace(ctx, s.Name); err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	info, err := a.Info(ctx, s.Name)
	if err != nil {
		return err
	}
	if info.Sequential != s.Sequential {
		if info.Entries > 0 || info.Password {
			return fmt.Errorf("namespace %q is in use: %w", s.Name, backend.ErrMode)
		}
		mode := segment.User
		if s.Sequential {
			mode = segment.Sequential
		}
		if err := a.SetMode(ctx, s.Name, mode); err != nil {
			return err
		}
	}
	if info.Limit != s.MaxSize {
		if err := a.SetMaxSize(ctx, s.Name, s.MaxSize); err != nil {
			return err
		}
	}
	if s.Password == "" {
		return nil
	}
	if info.Public {
		if err := a.SetPublic(ctx, s.Name, false); err != nil {
			return err
		}
	}
	if info.Password {
		return nil
	}
	return a.SetPassword(ctx, s.Name, s.Password)
}
