package qsfs_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/threefoldtech/quantumd/internal/testenv"
	"github.com/threefoldtech/quantumd/qsfs"
)

// metricName finds what looks like the name of a metric in an expression.
var metricName = regexp.MustCompile(`\b(qsfs|zstor|process|push)_[a-z_]+\b|\bup\b`)

// others are names that are not ours: of Prometheus and of the pushgateway.
var others = map[string]bool{"up": true, "push_time_seconds": true}

// seldom are names that are there only while something happens; each is checked
// by name where it is described.
var seldom = regexp.MustCompile(`^qsfs_(replacement|scrub)_`)

// Every name in the alert rules and on the Grafana dashboard is one that a
// running system shows.
func TestOperatorFilesNameWhatThereIs(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, testenv.Options{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f := env.Frontend(t, qsfs.WithRegisterer(registry))
	f.Write(t, "a", random(1, 3<<20))
	f.MustSync(t)
	families, err := registry.Gather()
	require.NoError(t, err)
	known := map[string]bool{}
	for _, family := range families {
		known[family.GetName()] = true
		if len(family.Metric) > 0 && family.Metric[0].Histogram != nil {
			known[family.GetName()+"_bucket"] = true
		}
	}
	described := qsfs.DescribedMetrics(f.System)
	for _, file := range []struct {
		name        string
		expressions []string
	}{
		{"rules", ruleExpressions(t)},
		{"dashboard", grafanaExpressions(t)},
	} {
		require.Greater(t, len(file.expressions), 15, file.name)
		for _, expression := range file.expressions {
			names := metricName.FindAllString(expression, -1)
			assert.NotEmpty(t, names, expression)
			for _, name := range names {
				ok := known[name] || others[name] || seldom.MatchString(name) && described[name]
				assert.True(t, ok, "%s: %s in %s is not shown by a running system", file.name, name, expression)
			}
		}
	}
}

func ruleExpressions(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile("../deploy/prometheus/quantumd.rules.yml")
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(data, &rules))
	var out []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			assert.Contains(t, []string{"warning", "critical"}, r.Labels["severity"], r.Alert)
			assert.NotEmpty(t, r.Annotations["summary"], r.Alert)
			assert.NotEmpty(t, r.Annotations["description"], r.Alert)
			out = append(out, r.Expr)
		}
	}
	return out
}

func grafanaExpressions(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile("../deploy/grafana/quantumd.json")
	require.NoError(t, err)
	var board struct {
		Panels []struct {
			ID      int
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(data, &board))
	var out []string
	ids := map[int]bool{}
	for _, p := range board.Panels {
		assert.False(t, ids[p.ID], "panel %d comes twice", p.ID)
		ids[p.ID] = true
		assert.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24)
		for _, target := range p.Targets {
			out = append(out, target.Expr)
		}
	}
	return out
}

// The rules are what Prometheus takes, and fire when they should.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool on this machine")
	}
	dir := "../deploy/prometheus"
	for _, args := range [][]string{{"check", "rules", "quantumd.rules.yml"}, {"test", "rules", "quantumd.rules.test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = filepath.FromSlash(dir)
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, "promtool %v: %s", args, out)
	}
	for _, expression := range grafanaExpressions(t) { // they are rules too, once the variables are filled in
		expression = regexp.MustCompile(`\$__rate_interval`).ReplaceAllString(expression, "5m")
		file := filepath.Join(t.TempDir(), "rules.yml")
		data, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "g", "rules": []any{map[string]string{"record": "r:r", "expr": expression}}}}})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, data, 0o600))
		out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", file).CombinedOutput()
		assert.NoError(t, err, "%s: %s", expression, out)
	}
}
