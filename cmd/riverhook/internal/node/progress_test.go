package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// Every loop reports its tries: while the tables are locked each is seen in one, and afterwards none is left in any.
func TestLoopsReport(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	receiver := newReceiver(t, nil)
	c := config(t, db)
	c.Progress = new(progress.Board)
	n, stop := start(t, c)
	require.Eventually(t, n.Delivering, 20*time.Second, 10*time.Millisecond)
	insert := func() { db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1)`, receiver.URL) }
	insert()
	<-receiver.arrived

	seen := map[string]bool{}
	look := func() {
		for _, loop := range c.Progress.Stuck(time.Now().Add(24 * time.Hour)) {
			seen[loop] = true
		}
	}
	insert()
	tx, err := db.Pool.Begin(context.Background())
	require.NoError(t, err)
	_, err = tx.Exec(context.Background(), `LOCK TABLE riverhook.deliveries, riverhook.nodes, riverhook.origin_states, riverhook.pauses IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	want := []string{"events", "isolation", "presence", "sweep", "watch"}
	assert.Eventually(t, func() bool {
		look()
		for _, loop := range want {
			if !seen[loop] {
				return false
			}
		}
		return true
	}, 30*time.Second, 50*time.Microsecond, "seen only: %v", seen)
	require.NoError(t, tx.Rollback(context.Background()))

	insert()
	<-receiver.arrived
	stop()
	assert.Empty(t, c.Progress.Stuck(time.Now().Add(24*time.Hour)), "a try that is over is none")
}
