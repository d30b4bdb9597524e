package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// What a killed node was sending is sent again by its peer long before the lease ends, which is an hour here: whether it was
// River's leader or not.
func TestKilledNode(t *testing.T) {
	t.Parallel()
	for name, isLeader := range map[string]string{"leader": "=", "not the leader": "<>"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			var hangs atomic.Bool
			hangs.Store(true)
			open := make(chan struct{})
			receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if hangs.Load() {
					select {
					case <-open:
					case <-r.Context().Done():
					}
				}
			}))
			defer receiver.Close()
			settings := []string{"RIVERHOOK_TIMEOUT=60s", "RIVERHOOK_LEASE=1h", "RIVERHOOK_SWEEP_INTERVAL=1h"}
			services := []*service{serve(t, db.URL, true, settings...), serve(t, db.URL, true, settings...)}
			eventually(t, db, 1, `SELECT count(*)::int FROM riverhook.river_leader`)
			victim := pgtest.Scalar[string](t, db, `SELECT node FROM riverhook.nodes WHERE node `+isLeader+` (SELECT leader_id FROM riverhook.river_leader)`)
			eventually(t, db, true, `
				WITH more AS (INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 WHERE (SELECT count(*) FROM riverhook.deliveries) < 150)
				SELECT count(DISTINCT claimed_by) = 2 FROM riverhook.deliveries`, receiver.URL)
			for _, s := range services {
				if s.logged("riverhook")[0]["node"] == victim {
					require.NoError(t, s.Process.Signal(syscall.SIGKILL))
				}
			}
			eventually(t, db, true, `SELECT dead_at IS NOT NULL AND reclaimed_at IS NOT NULL FROM riverhook.nodes WHERE node = $1`, victim)
			hangs.Store(false)
			close(open)
			eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.deliveries WHERE status <> 'succeeded'`)
			assert.Positive(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts WHERE outcome = 'abandoned' AND node = $1`, victim))
			assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts WHERE outcome = 'abandoned' AND node <> $1`, victim))
			assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job WHERE state = 'running' AND attempted_by[1] = $1 AND kind = 'deliver_webhook'`, victim))
		})
	}
}

// A single node that is killed and started again takes back what it had claimed in its former life.
func TestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	arrived := make(chan struct{}, 10)
	var hangs atomic.Bool
	hangs.Store(true)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else it does not notice who goes away
		arrived <- struct{}{}
		if hangs.Load() {
			<-r.Context().Done()
		}
	}))
	defer receiver.Close()
	settings := []string{"RIVERHOOK_TIMEOUT=60s", "RIVERHOOK_LEASE=1h", "RIVERHOOK_SWEEP_INTERVAL=1h"}
	s := serve(t, db.URL, true, settings...)
	id := pgtest.Scalar[int64](t, db, insertSQL, receiver.URL)
	<-arrived
	require.NoError(t, s.Process.Signal(syscall.SIGKILL))
	<-s.done
	hangs.Store(false)
	serve(t, db.URL, true, settings...)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Equal(t, []string{"1 abandoned", "2 succeeded"}, pgtest.Column[string](t, db, `SELECT attempt || ' ' || outcome FROM riverhook.attempts ORDER BY attempt`))
}

// A node that stops in order leaves no trace; one that had to leave claims behind says so, and they are taken back at once.
func TestStopLeavesNoTrace(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := serve(t, db.URL, true)
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.nodes WHERE taken_at IS NOT NULL AND dead_at IS NULL`))
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, s.ended(t, 20*time.Second))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.nodes`))
}
