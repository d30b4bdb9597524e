//go:build unix

package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// benchSchemas counts what bench leaves behind.
const benchSchemas = `SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, 'riverhook_bench_')`

func TestBench(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	out, log, code := call(t, nil, "bench", "--quick", "--json", "--runs", "1", "--rows", "200", "--database-url", db.URL,
		"river", "steps", "deliver", "enqueue", "latency")
	require.Equal(t, 0, code, log)

	var report struct {
		Quick   bool
		Modes   []string
		Machine struct {
			Postgres  string
			Throwaway bool
		}
		Figures []struct {
			Name             string
			Runs             []float64
			Median, Min, Max float64
			Goal             *struct{}
		}
	}
	decoder := json.NewDecoder(strings.NewReader(out))
	require.NoError(t, decoder.Decode(&report), out)
	assert.False(t, decoder.More(), "one object")
	assert.True(t, report.Quick)
	assert.False(t, report.Machine.Throwaway)
	assert.NotEmpty(t, report.Machine.Postgres)
	assert.Equal(t, []string{"river", "steps", "deliver", "enqueue", "latency"}, report.Modes)

	medians := map[string]float64{}
	for _, f := range report.Figures {
		medians[f.Name] = f.Median
		assert.Len(t, f.Runs, 1, f.Name)
		assert.Equal(t, [2]float64{f.Median, f.Median}, [2]float64{f.Min, f.Max}, f.Name)
		assert.Nil(t, f.Goal, "%s: a quick run has no goals", f.Name)
	}
	for _, name := range []string{
		"river.rate", "steps.rate", "deliver.rate", "deliver.of_river", "deliver.of_steps", "deliver.cpu_process",
		"enqueue.single_1_ratio", "enqueue.single_32_ratio", "enqueue.multi_ratio", "enqueue.copy_ratio", "latency.slow_rate", "latency.fast_p99",
	} {
		assert.Positive(t, medians[name], name)
	}
	assert.InDelta(t, medians["deliver.rate"]/medians["steps.rate"], medians["deliver.of_steps"], 0.001)
	for _, mode := range report.Modes {
		assert.Contains(t, log, "round 1/1 "+mode+": ", "progress")
	}
	assert.Zero(t, pgtest.Scalar[int](t, db, benchSchemas), "it cleans up")
}

func TestBenchIsInterrupted(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	command := program(t, nil, "bench", "--quick", "--runs", "100", "--rows", "200", "--database-url", db.URL, "deliver")
	require.NoError(t, command.Start())
	timeout := time.AfterFunc(time.Minute, func() { _ = command.Process.Kill() })
	defer timeout.Stop()
	const children = `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'riverhook_bench_% child' AND datname = current_database()`
	require.Eventually(t, func() bool { return pgtest.Scalar[int](t, db, children) > 0 }, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	require.Error(t, command.Wait())
	assert.Equal(t, exitFailed, command.ProcessState.ExitCode())
	eventually(t, db, 0, children)
	assert.Zero(t, pgtest.Scalar[int](t, db, benchSchemas), "it cleans up")
}

func TestBenchUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"bench", "speed"}, {"bench", "--runs", "0"}, {"bench", "--rows", "-1"}} {
		_, log, code := call(t, nil, args...)
		assert.Equal(t, exitUsage, code, "%v: %s", args, log)
	}
	_, log, code := call(t, nil, "bench", "--quick", "--database-url", "postgres://user:secret@[broken", "river")
	assert.Equal(t, exitFailed, code)
	assert.NotContains(t, log, "secret")
}
