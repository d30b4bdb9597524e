package worker

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// told collects what hooks are told.
type told struct {
	mu     sync.Mutex
	events []string
}

func (t *told) add(event string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, event)
}

func (t *told) take() (events []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	events, t.events = t.events, nil
	return events
}

// What begins ends, however it ends, and what is recorded is told once.
func TestHooks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "a claim is left behind, and one is taken away, on purpose")
	ctx, stop := context.WithCancel(t.Context())
	var during func()
	w := onDatabase(t, db, roundTrip(func(r *http.Request) (*http.Response, error) {
		if during != nil {
			during()
		}
		if r.Context().Err() != nil {
			return nil, r.Context().Err()
		}
		return &http.Response{StatusCode: http.StatusGone, Body: http.NoBody, Header: http.Header{}}, nil
	}))
	var events told
	w.hooks = Hooks{
		Batch: func(step Step, size int) {
			if step == StepRecord {
				assert.Equal(t, 1, size)
			}
		},
		Began: func(due time.Duration) {
			events.add("began")
			assert.Greater(t, due, 59*time.Minute)
		},
		Ended: func(o delivery.Outcome, f delivery.FailureKind, took time.Duration) {
			events.add("ended " + string(o) + " " + string(f))
			assert.Positive(t, took)
		},
		Recorded: func(d *delivery.Delivery, a *store.Attempt) {
			ended := ""
			if a.Ended {
				ended = ", which had ended"
			}
			events.add("recorded " + string(a.Decision.Status) + " of " + d.OrganizationID + ended)
		},
		Late: func() { events.add("late") },
	}.whole()
	insert := func() int64 {
		return pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ('http://receiver.example/', now() - interval '1 hour') RETURNING id`)
	}
	require.NoError(t, w.Work(ctx, jobOf(insert(), 0)))
	assert.Equal(t, []string{"began", "ended permanent status", "recorded dead_letter of default"}, events.take())

	id := insert()
	during = func() { db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, id) }
	require.NoError(t, w.Work(ctx, jobOf(id, 0)))
	assert.Equal(t, []string{"began", "ended permanent status", "recorded dead_letter of default, which had ended"}, events.take())

	id = insert()
	during = func() {
		db.Exec(t, `UPDATE riverhook.deliveries SET claim = claim + 1, claimed_by = 'somebody else' WHERE id = $1`, id)
	}
	require.NoError(t, w.Work(ctx, jobOf(id, 0)))
	assert.Equal(t, []string{"began", "ended permanent status", "late"}, events.take())

	during = stop
	err := w.Work(ctx, jobOf(insert(), 0))
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, []string{"began", "ended  "}, events.take())
}
