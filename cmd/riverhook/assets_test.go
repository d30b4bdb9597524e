package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/metrics"
	"github.com/riverhook/riverhook/delivery/store"
)

// metricNames are all that /metrics has, as queries name them.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	m := metrics.New(metrics.Config{
		Counts: func(context.Context) (store.Stats, error) { return store.Stats{At: time.Now()}, nil },
		Clock:  func(context.Context) (time.Time, error) { return time.Now(), nil },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	names := map[string]bool{}
	require.Eventually(t, func() bool {
		answer := httptest.NewRecorder()
		m.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
		for line := range strings.Lines(answer.Body.String()) {
			if name := regexp.MustCompile(`^[a-z_]+`).FindString(line); name != "" {
				names[name] = true
			}
		}
		return names["riverhook_clock_skew_seconds"]
	}, 10*time.Second, time.Millisecond)
	return names
}

var metricName = regexp.MustCompile(`\b(riverhook|go|process)_[a-z_]+\b`)

func TestAssetsNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	exist := metricNames(t)
	alerts, _, code := call(t, nil, "assets", "alerts")
	require.Equal(t, 0, code)
	dashboard, _, code := call(t, nil, "assets", "grafana")
	require.Equal(t, 0, code)
	require.True(t, json.Valid([]byte(dashboard)))
	expressions := regexp.MustCompile(`(?m)expr: (?:\|\n(?: {10}.*\n)+|.*)`).FindAllString(alerts, -1)
	assert.Len(t, expressions, strings.Count(alerts, "- alert:"))
	assert.Equal(t, strings.Count(alerts, "- alert:"), strings.Count(alerts, "runbook: "), "each says what to do")
	used := map[string]bool{}
	for _, text := range append(expressions, regexp.MustCompile(`"expr": ".*"`).FindAllString(dashboard, -1)...) {
		found := metricName.FindAllString(text, -1)
		assert.NotEmpty(t, found, text)
		for _, name := range found {
			assert.True(t, exist[name], "%s in %s", name, text)
			used[name] = true
		}
	}
	for name := range exist {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "riverhook_") {
			assert.True(t, used[name] || used[base+"_bucket"] || used[base+"_sum"], "%s is on neither", name)
		}
	}
}

// What commands runbooks name exist, with their flags.
func TestRunbooksNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	for _, command := range regexp.MustCompile(`riverhook (status|doctor|held|sweep|resume|deliveries [a-z]+)`).FindAllString(assetAlerts, -1) {
		_, stderr, code := call(t, nil, append(strings.Fields(command)[1:], "--help")...)
		assert.Equal(t, 0, code, "%s: %s", command, stderr)
	}
	help, _, _ := call(t, nil, "deliveries", "replay", "--help")
	assert.Contains(t, help, "--status")
	assert.Contains(t, help, "--origin")
	help, _, _ = call(t, nil, "deliveries", "list", "--help")
	assert.Contains(t, help, "--error")
}

func TestPromtoolAcceptsTheAlerts(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: it is in Debian's package prometheus")
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alerts.yml"), []byte(assetAlerts), 0o600))
	tests, err := os.ReadFile("testdata/alerts_test.yml")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alerts_test.yml"), tests, 0o600))
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		command := exec.CommandContext(t.Context(), promtool, args...) //nolint:gosec // of Debian
		command.Dir = dir
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
