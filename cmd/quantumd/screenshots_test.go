//go:build linux

package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/browser"
	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/qsfs/config"
)

// What people see while all is well, while a backend is lost, and while what it
// held is made anew: dashboard and status of a running system. With
// QUANTUMD_SCREENSHOTS the pictures are kept in that folder (make screenshots).
func TestScreenshots(t *testing.T) {
	b := browser.Start(t)
	dir := os.Getenv("QUANTUMD_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	w := testenv.InProcess(t)
	env := testenv.New(t, testenv.Options{Data: 5, Shards: 5, MinShards: 3, Provisioner: w})
	env.Config.DeploymentName = "demo"
	env.Config.Replace.After = config.Duration(time.Hour)
	first := env.Open(t, t.TempDir())
	plan, err := first.PlanDeploy(t.Context())
	require.NoError(t, err)
	_, err = first.Deploy(t.Context(), plan)
	require.NoError(t, err)
	f := env.Frontend(t, qsfs.WithRegisterer(prometheus.NewRegistry()))
	srv := httptest.NewServer(f.Handler(prometheus.NewRegistry()))
	t.Cleanup(srv.CloseClientConnections)
	page := b.Open(t, srv.URL+"/", browser.Screen{Width: 1200, Height: 900})

	data := make([]byte, 2<<20)
	for i := range 10 {
		_, _ = rand.Read(data)
		f.Write(t, fmt.Sprintf("photos/%02d.raw", i), data)
	}
	f.MustSync(t)
	page.Eventually(t, `document.querySelector("#state").innerText.includes("ok:") && document.querySelector("#safe").innerText.startsWith("Everything")
		&& document.querySelector("#backends-sum").innerText === "9 of 9 work."`)
	keep(t, page, f, dir, "healthy")

	w.Kill(t, "data0")
	page.Eventually(t, `document.querySelector("#state").innerText.includes("degraded") && document.querySelector("#backends-sum").innerText === "8 of 9 work."
		&& document.querySelector("#replacements").innerText.includes("grace period")`)
	keep(t, page, f, dir, "backend-lost")

	_, err = f.Reload(t.Context(), func() (*config.Config, error) {
		c := env.Config.Clone()
		c.Replace.After = config.Duration(time.Second)
		c.Replace.Rate = 2 * config.MiB
		return c, nil
	})
	require.NoError(t, err)
	page.Eventually(t, `document.querySelector("#replacements").innerText.includes("step 4 of 6") && document.querySelector("#replacements progress")?.value > 1`)
	keep(t, page, f, dir, "rebuild-running")
	assert.Empty(t, page.Problems())
}

// keep writes what dashboard and status show now.
func keep(t *testing.T, page *browser.Page, f *testenv.Frontend, dir, name string) {
	t.Helper()
	var height int
	page.Eval(t, `document.documentElement.scrollHeight`, &height)
	page.Show(t, browser.Screen{Width: 1200, Height: height})
	png := page.Picture(t)
	require.True(t, bytes.HasPrefix(png, []byte("\x89PNG")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dashboard-"+name+".png"), png, 0o644))
	st, err := f.Status(t.Context())
	require.NoError(t, err)
	var text bytes.Buffer
	printStatus(&app{stdout: &text}, st)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "status-"+name+".txt"), text.Bytes(), 0o644))
	if name != "healthy" {
		assert.Equal(t, client.StateDegraded, st.State)
	}
}
