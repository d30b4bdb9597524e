package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// paused are the pauses as text.
func paused(t *testing.T, b *bundle) []string {
	t.Helper()
	list, err := b.store.Pauses(t.Context())
	require.NoError(t, err)
	text := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	words := []string{}
	for _, p := range list {
		words = append(words, fmt.Sprintf("%s %s %s", text(p.EndpointOrigin), text(p.OrganizationID), text(p.Reason)))
	}
	return words
}

func TestPauses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	pause := func(origin, organization, reason string) bool {
		t.Helper()
		created, err := b.store.Pause(t.Context(), origin, organization, reason)
		require.NoError(t, err)
		return created
	}
	resume := func(origin, organization string) bool {
		t.Helper()
		found, err := b.store.Resume(t.Context(), origin, organization)
		require.NoError(t, err)
		return found
	}
	assert.Empty(t, paused(t, b))
	assert.False(t, resume("", ""))

	assert.True(t, pause("https://one.example", "", "moves"))
	assert.True(t, pause("https://one.example", "acme", ""))
	assert.True(t, pause("", "acme", "does not pay"))
	assert.True(t, pause("", "", "fire"))
	assert.Equal(t, []string{"https://one.example - moves", "https://one.example acme -", "- acme does not pay", "- - fire"}, paused(t, b))

	// The same again: a reason replaces, and none leaves the one there is.
	assert.False(t, pause("https://one.example", "", "has moved"))
	assert.False(t, pause("", "acme", ""))
	assert.False(t, pause("", "", "\x00"+strings.Repeat("é", 600)))
	assert.Equal(t, []string{"https://one.example - has moved", "https://one.example acme -", "- acme does not pay", "- - \uFFFD" + strings.Repeat("é", 499)}, paused(t, b))

	// Exactly that one ends, and no other that holds some of the same.
	assert.False(t, resume("https://two.example", ""))
	assert.False(t, resume("", "other"))
	assert.True(t, resume("", ""))
	assert.True(t, resume("https://one.example", ""))
	assert.False(t, resume("https://one.example", ""))
	assert.Equal(t, []string{"https://one.example acme -", "- acme does not pay"}, paused(t, b))

	// The JSON names are the columns', all of them.
	list, err := b.store.Pauses(t.Context())
	require.NoError(t, err)
	encoded, err := json.Marshal(list[0])
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(encoded, &fields))
	columns := pgtest.Column[string](t, b.DB, `SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'riverhook' AND table_name = 'pauses'`)
	assert.Len(t, fields, len(columns))
	for _, c := range columns {
		assert.Contains(t, fields, c)
	}
	assert.Equal(t, time.UTC, list[0].CreatedAt.Location())
}

// Two who pause the same at once make one pause.
func TestPauseTwiceAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var created [8]bool
	var wg sync.WaitGroup
	for i := range created {
		wg.Go(func() {
			var err error
			created[i], err = b.store.Pause(t.Context(), "https://one.example", "acme", fmt.Sprint(i))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	n := 0
	for _, c := range created {
		if c {
			n++
		}
	}
	assert.Equal(t, 1, n)
	assert.Len(t, paused(t, b), 1)
}

// What is inserted by hand holds back what it says, or is refused.
func TestPausesBySQL(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	const insert = `INSERT INTO riverhook.pauses (endpoint_origin, organization_id) VALUES ($1, $2)`
	for _, origin := range []string{"https://a.example", "http://a.example:8080", "https://[::1]:8443", "http://a.example:443"} {
		_, err := db.Pool.Exec(ctx, insert, origin, nil)
		require.NoError(t, err, origin)
	}
	for _, c := range []struct{ origin, organization any }{
		{"", nil}, {nil, ""}, {"https://A.example", nil}, {"https://a.example/", nil}, {"https://a.example/hook", nil}, {"a.example", nil},
		{"https://a.example:443", "acme"}, {"http://a.example:80", "acme"}, {"https://user@a.example", nil}, {"ftp://a.example", nil},
		{nil, strings.Repeat("x", 801)},
	} {
		_, err := db.Pool.Exec(ctx, insert, c.origin, c.organization)
		var pg *pgconn.PgError
		require.ErrorAs(t, err, &pg, "%v", c)
		assert.Equal(t, "23514", pg.Code, "%v", c)
	}
	_, err := db.Pool.Exec(ctx, `INSERT INTO riverhook.pauses (organization_id) SELECT i::text FROM generate_series(1, $1::int) i`, store.MaxPauses-3)
	require.ErrorContains(t, err, fmt.Sprintf("more than %d pauses", store.MaxPauses))
	db.Exec(t, `INSERT INTO riverhook.pauses (organization_id) SELECT i::text FROM generate_series(1, $1::int) i`, store.MaxPauses-5)

	// Several at a time do not count without each other.
	var inserted atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, err := db.Pool.Exec(ctx, `INSERT INTO riverhook.pauses (organization_id) VALUES ($1)`, fmt.Sprint("late ", i))
			if err == nil {
				inserted.Add(1)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1, inserted.Load())
	created, err := store.New(db.Pool, db.Schema).Pause(ctx, "https://a.example", "", "another reason")
	require.NoError(t, err, "that is no further one")
	assert.False(t, created)
	db.Exec(t, `ALTER TABLE riverhook.pauses DISABLE TRIGGER USER; INSERT INTO riverhook.pauses (organization_id) VALUES ('more'); ALTER TABLE riverhook.pauses ENABLE TRIGGER USER`)
	_, err = store.New(db.Pool, db.Schema).Pause(ctx, "https://a.example", "", "yet another")
	require.NoError(t, err, "also where there are too many")
}

// Nodes read all pauses there can be: there is no pause that they do not see.
func TestTooManyPauses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.pauses (organization_id) SELECT i::text FROM generate_series(1, $1) i`, store.MaxPauses-1)
	_, err := b.store.Pause(t.Context(), "", "last", "")
	require.NoError(t, err)
	_, err = b.store.Pause(t.Context(), "", "beyond", "")
	require.ErrorIs(t, err, store.ErrTooManyPauses)
	created, err := b.store.Pause(t.Context(), "", "7", "why")
	require.NoError(t, err)
	assert.False(t, created)
	assert.Len(t, paused(t, b), store.MaxPauses)
	found, err := b.store.Resume(t.Context(), "", "7")
	require.NoError(t, err)
	assert.True(t, found)
	created, err = b.store.Pause(t.Context(), "", "beyond", "")
	require.NoError(t, err)
	assert.True(t, created)
}
