package store

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestContracts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "grid.db")
	s, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	at := time.UnixMilli(1_700_000_000_000)
	first := Contract{Name: "demo_13_data_7", Backend: "data0", Role: "data", Node: 7, Farm: 1, Country: "BE", Size: 5 << 30, State: "intended", USD: 0.25, Changed: at}
	second := Contract{Name: "demo_13_meta_7", Backend: "meta0", Role: "meta", Node: 7, Size: 1 << 30, State: "ready", Contract: 1 << 40, Address: "[400::1]:9900", Namespace: "13-5-x", Changed: at.Add(time.Second)}
	require.NoError(t, s.SaveContract(t.Context(), first))
	require.NoError(t, s.SaveContract(t.Context(), second))
	first.State, first.Contract, first.Error, first.Changed = "gone", 9, "the node refused", at.Add(time.Minute)
	require.NoError(t, s.SaveContract(t.Context(), first))
	require.NoError(t, s.Close())

	s, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	defer s.Close()
	got, err := s.Contracts(t.Context())
	require.NoError(t, err)
	for i := range got {
		got[i].Changed = got[i].Changed.UTC()
	}
	second.Changed, first.Changed = second.Changed.UTC(), first.Changed.UTC()
	require.Equal(t, []Contract{second, first}, got)
}
