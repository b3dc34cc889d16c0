package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/gridtest"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// Two systems of one account run side by side; what happens to one is nothing to the
// other.
func TestTwoSystems(t *testing.T) {
	g := gridtest.New(t)
	s := &Service{Dir: t.TempDir(), Base: config.Default(), Open: func(ctx context.Context, _ *config.Config) (grid.Client, error) { return gridtest.Dial(ctx, g.URL()) }}
	s.Base.Network, s.Base.Mnemonic, s.Base.ZdbConnectionType = "dev", gridtest.Mnemonic, "any"
	s.Base.MinShards, s.Base.ExpectedShards = 1, 2
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	t.Cleanup(func() { require.NoError(t, s.Close()) })

	ask := func(method, path, body string, want int) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, web.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close() //nolint:errcheck // read only
		var out bytes.Buffer
		_, err = out.ReadFrom(res.Body)
		require.NoError(t, err)
		require.Equal(t, want, res.StatusCode, out.String())
		require.NotContains(t, out.String(), "abandon")
		return out.String()
	}
	order := func(name string) string {
		return `{"name": "` + name + `", "password": "pw` + name + `", "farms": [1, 2, 3, 4, 5], "size": "2G"}`
	}
	require.Contains(t, ask("POST", "/systems?quote=1", order("one"), 200), `"usd"`)
	require.Zero(t, g.Counts().Created)
	ask("POST", "/systems", order("one"), 200)
	ask("POST", "/systems", order("two"), 200)
	require.Equal(t, 12, g.Counts().Alive)
	require.Contains(t, ask("POST", "/systems", order("two"), 409), "there is a system of this name")
	require.Contains(t, ask("POST", "/systems", order("a_b"), 409), "letters and digits")
	require.JSONEq(t, `["one", "two"]`, ask("GET", "/systems", "", 200))

	for _, name := range []string{"one", "two"} {
		write(t, s, name, "text of "+name)
	}
	ask("DELETE", "/systems/one", "", 200)
	ask("GET", "/systems/one", "", 404)
	require.Equal(t, 6, g.Counts().Alive)
	require.Equal(t, "text of two", read(t, s, "two"))
	var st struct{ State string }
	require.NoError(t, json.Unmarshal([]byte(ask("GET", "/systems/two", "", 200)), &st))
	require.Contains(t, []string{"ok", "degraded"}, st.State)
	ask("DELETE", "/systems/two", "", 200)
	require.Zero(t, g.Counts().Alive)
}

func write(t *testing.T, s *Service, name, text string) {
	t.Helper()
	sys, err := s.Get(name)
	require.NoError(t, err)
	require.NoError(t, testenv.WriteFile(t.Context(), sys.Tree(), "file", []byte(text)))
	_, err = sys.Sync(t.Context())
	require.NoError(t, err)
}

func read(t *testing.T, s *Service, name string) string {
	t.Helper()
	sys, err := s.Get(name)
	require.NoError(t, err)
	text, err := testenv.ReadFile(t.Context(), sys.Tree(), "file")
	require.NoError(t, err)
	return string(text)
}
