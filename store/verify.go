package store

import (
	"context"
	"fmt"
	"path/filepath"
)

// Verify looks at a database without changing anything: whether it can be opened,
// is not newer than this program ([*NewerSchemaError]), and is whole (see
// [IsCorrupt]). It may be in use. With a million files it takes seconds; it ends
// with the context.
func Verify(ctx context.Context, path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	s, err := Open(ctx, abs, Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // read only
	if err := quickCheck(ctx, s.db); err != nil {
		return fmt.Errorf("verify %s: %w", abs, err)
	}
	return nil
}
