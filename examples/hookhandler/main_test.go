package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHookHandler(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	for _, kind := range []string{"namespaces-init", "namespace-created", "jump-data", "jump-index"} {
		assert.Contains(t, out.String(), "event "+kind)
	}
}
