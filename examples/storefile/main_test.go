package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStoreFile(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content) // never fails
	file, copied := filepath.Join(dir, "file"), filepath.Join(dir, "copy")
	require.NoError(t, os.WriteFile(file, content, 0o600))
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{file, copied}, &out))
	got, err := os.ReadFile(copied)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(content, got))
	assert.Contains(t, out.String(), "stored 3145728 bytes as 5 shards, any 3 of which suffice")

	require.Error(t, run(t.Context(), nil, &out))
	require.ErrorIs(t, run(t.Context(), []string{filepath.Join(dir, "none"), copied}, &out), os.ErrNotExist)
}
