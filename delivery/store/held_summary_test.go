package store_test

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// insertHeld makes n deliveries that are held back, past the triggers: values are their endpoint_url, organization_id,
// held_reason, scheduled_for and held_since, made of i, from 1 to n.
func (b *bundle) insertHeld(t *testing.T, n int, values string) {
	t.Helper()
	tx, err := b.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SET LOCAL session_replication_role = replica`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), fmt.Sprintf(`INSERT INTO riverhook.deliveries (endpoint_url, organization_id, held_reason, scheduled_for, held_since)
		SELECT %s FROM generate_series(1, %d) i`, values, n))
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
}

func heldWords(groups []store.HeldGroup) []string {
	words := []string{}
	for _, g := range groups {
		origin, reason, count, due := "-", "-", strconv.Itoa(g.Count), "-"
		if g.EndpointOrigin != nil {
			origin = *g.EndpointOrigin
		}
		if g.HeldReason != nil {
			reason = *g.HeldReason
		}
		if g.AtLeast {
			count += "+"
		}
		if g.OldestScheduledFor != nil {
			due = g.OldestScheduledFor.Format("15:04")
		}
		words = append(words, fmt.Sprintf("%s %s %s %s due %s held %s", origin, g.OrganizationID, reason, count, due, g.OldestHeldSince.Format("15:04")))
	}
	return words
}

func TestHeld(t *testing.T) {
	t.Parallel()
	b := setup(t)
	held, more, err := b.store.Held(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, held)
	assert.False(t, more)

	at := func(minutes string) string {
		return `timestamptz '2024-05-06 07:00Z' + (` + minutes + `) * interval '1 minute'`
	}
	b.insertHeld(t, 3, `'https://b.example/x', 'acme', 'paused', `+at("5 - i")+`, `+at("10 + i"))
	b.insertHeld(t, 1, `'https://b.example/y', 'acme', 'failing', `+at("30")+`, `+at("31"))
	b.insertHeld(t, 2, `'https://b.example/x', 'beta', NULL, NULL, `+at("20 + i"))
	b.insertHeld(t, 1, `'https://a.example/x', 'zeta', 'crowded', `+at("i")+`, `+at("i"))
	b.insertHeld(t, 4, `'nowhere', 'org-' || i % 2, 'paused', `+at("i")+`, `+at("40 + i"))
	// What is not held back, or not any more, also where another one of the same is.
	b.insert(t, `endpoint_url = 'https://b.example/x', organization_id = 'acme', held_reason = 'paused'`)
	b.insert(t, deadLetter+`, endpoint_url = 'https://b.example/x', organization_id = 'acme', held_since = now()`)
	b.insert(t, `endpoint_url = 'nowhere', organization_id = 'free'`)

	all := []string{
		"https://a.example zeta crowded 1 due 07:01 held 07:01",
		"https://b.example acme paused 3 due 07:02 held 07:11",
		"https://b.example acme failing 1 due 07:30 held 07:31",
		"https://b.example beta - 2 due - held 07:21",
		"- org-0 paused 2 due 07:02 held 07:42",
		"- org-1 paused 2 due 07:01 held 07:41",
	}
	for limit, rows := range map[int]int{0: 1, 1: 1, 2: 3, 3: 4, 4: 5, 5: 6, 6: 6, 5000: 6} {
		held, more, err := b.store.Held(t.Context(), limit)
		require.NoError(t, err)
		assert.Equal(t, all[:rows], heldWords(held), limit)
		assert.Equal(t, rows < 6, more, limit)
	}
	held, _, err = b.store.Held(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, time.UTC, held[0].OldestHeldSince.Location())
}

// However much is held back for one receiver, a bounded part of it is looked at, whatever the statistics say.
func TestHeldOfMany(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `ALTER TABLE riverhook.deliveries SET (autovacuum_enabled = off)`)
	statements := &recorder{}
	config, err := pgxpool.ParseConfig(b.URL)
	require.NoError(t, err)
	config.ConnConfig.Tracer = statements
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	st := store.New(pool, b.Schema)

	b.insertMany(t, 50, "status, finished_at", "'succeeded', now()")
	b.Exec(t, `ANALYZE riverhook.deliveries`)
	// 100,000: two receivers with 10,000 and more, one with one less, many with few.
	times := `now() - (100000 - i) * interval '1 second', now()`
	b.insertHeld(t, 60_000, `'https://a.example/', 'default', CASE WHEN i <= 4000 THEN 'paused' ELSE 'no_answer' END, `+times)
	b.insertHeld(t, 10_000, `'https://b.example/', 'default', 'crowded', `+times)
	b.insertHeld(t, 9_999, `'https://c.example/', 'default', 'crowded', `+times)
	b.insertHeld(t, 19_001, `'https://d.example/', 'org-' || i % 95, 'failing', `+times)
	b.insertHeld(t, 1_000, `'nowhere', 'default', 'paused', `+times)
	require.Equal(t, 100_000, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries WHERE held_since IS NOT NULL`))

	for _, phase := range []string{"stale", "fresh"} {
		if phase == "fresh" {
			b.Exec(t, `VACUUM ANALYZE riverhook.deliveries`)
		}
		held, more, err := st.Held(t.Context(), 3)
		require.NoError(t, err)
		assert.True(t, more)
		var counts []string
		for _, g := range held {
			counts = append(counts, fmt.Sprint(*g.EndpointOrigin, " ", *g.HeldReason, " ", g.Count, " ", g.AtLeast))
		}
		assert.Equal(t, []string{
			"https://a.example no_answer 6000 true", "https://a.example paused 4000 true",
			"https://b.example crowded 10000 true", "https://c.example crowded 9999 false",
		}, counts)
		plan := statements.explain(t, b, "EXPLAIN (ANALYZE, TIMING OFF) ")
		assertHeldPlan(t, plan, phase)
		assert.LessOrEqual(t, rowsScanned(t, plan), 3*store.MaxHeldCount+100, "%s:\n%s", phase, plan)

		held, more, err = st.Held(t.Context(), 1000)
		require.NoError(t, err)
		assert.False(t, more)
		assert.Len(t, held, 4+95+1)
		assert.Nil(t, held[99].EndpointOrigin)
		assert.Equal(t, 1000, held[99].Count)
		plan = statements.explain(t, b, "EXPLAIN (ANALYZE, TIMING OFF) ")
		assertHeldPlan(t, plan, phase)
		assert.LessOrEqual(t, rowsScanned(t, plan), 29_999+19_001+1_000+200, "%s:\n%s", phase, plan)
	}
}

// assertHeldPlan: nothing but probes of the one index, in its order.
func assertHeldPlan(t *testing.T, plan, phase string) {
	t.Helper()
	assert.NotContains(t, plan, "Seq Scan", phase)
	assert.NotContains(t, plan, "Bitmap", phase)
	assert.NotContains(t, plan, "Rows Removed", phase)
	for _, scan := range regexp.MustCompile(`Index.* Scan.* using (\w+) on deliveries`).FindAllStringSubmatch(plan, -1) {
		assert.Equal(t, "deliveries_held_idx", scan[1], "%s:\n%s", phase, plan)
	}
}

// rowsScanned is how many rows scans of deliveries came to.
func rowsScanned(t *testing.T, plan string) (n int) {
	t.Helper()
	scans := regexp.MustCompile(`Scan .*on deliveries.*\(actual rows=([\d.]+) loops=(\d+)\)`).FindAllStringSubmatch(plan, -1)
	require.NotEmpty(t, scans, plan)
	for _, scan := range scans {
		rows, err := strconv.ParseFloat(scan[1], 64)
		require.NoError(t, err)
		loops, err := strconv.Atoi(scan[2])
		require.NoError(t, err)
		n += int(math.Round(rows * float64(loops))) // rows is a mean, rounded: before version 18 to a whole number
	}
	return n
}
