package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// byHand runs a statement past the triggers, as nobody but a test should.
func byHand(t *testing.T, db *pgtest.DB, sql string) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `SET LOCAL session_replication_role = replica; `+sql)
		return err
	})
	require.NoError(t, err)
}

// problems are the kinds that are found, with how many of each.
func problems(t *testing.T, db *pgtest.DB, search store.ProblemSearch) map[string]int {
	t.Helper()
	kinds, err := store.New(db.Pool, db.Schema).Problems(t.Context(), search)
	require.NoError(t, err)
	found := map[string]int{}
	for _, kind := range kinds {
		found[kind.Problem] = kind.Total
		for _, p := range kind.First {
			assert.NotEmpty(t, p.Detail)
			assert.NotNil(t, p.Since, p.Problem)
			assert.True(t, p.DeliveryID != nil || p.JobID != nil)
		}
	}
	return found
}

// The default, and a bound that is far from it.
var search = store.ProblemSearch{Grace: time.Minute, LookAt: 1000, PerKind: 5, Within: time.Minute}

// Each invariant: what breaks it by a little is named, and what does not quite is not. Two rows are there beside the one that
// is changed, and stay unnamed: one in each state.
func TestProblems(t *testing.T) {
	t.Parallel()
	const (
		due      = `UPDATE riverhook.deliveries SET scheduled_for = now() - interval '2 minutes' WHERE id = 1; `
		noJob    = `DELETE FROM riverhook.river_job WHERE args->>'delivery_id' = '1'; `
		claim    = `UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'n', leased_until = now() + interval '1 minute' WHERE id = 1; ` + noJob
		attempts = `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, node) SELECT 1, 0, n, now(), 'abandoned', 'n' FROM generate_series(1, 3) n;
			UPDATE riverhook.deliveries SET attempt_count = 3 WHERE id = 1; `
		held = `UPDATE riverhook.deliveries SET held_since = now() - interval '1 minute', held_reason = 'failing' WHERE id = 1; ` + noJob
		done = `UPDATE riverhook.deliveries SET status = 'succeeded', scheduled_for = NULL, finished_at = now() WHERE id = 1; ` + noJob
		job  = `UPDATE riverhook.river_job SET `
		of1  = ` WHERE args->>'delivery_id' = '1'; `
		row  = `UPDATE riverhook.deliveries SET `
		id1  = ` WHERE id = 1; `
	)
	for name, test := range map[string]struct{ do, want string }{
		"due, without a job":                          {due + noJob, "overdue"},
		"due for less than the grace":                 {row + `scheduled_for = now() - interval '50 seconds'` + id1 + noJob, ""},
		"not due, without a job":                      {row + `scheduled_for = now() + interval '1 hour'` + id1 + noJob, ""},
		"due, with a job":                             {due, ""},
		"due, its job is of another claim":            {due + row + `claim = 3` + id1, "overdue"},
		"due, its job is done":                        {due + job + `state = 'completed', finalized_at = now()` + of1, "overdue"},
		"due, its job was fetched":                    {due + job + `state = 'running', attempted_at = now() - interval '80 seconds'` + of1, ""},
		"due, its job was left running":               {due + job + `state = 'running', attempted_at = now() - interval '100 seconds'` + of1, "overdue"},
		"due, its job is to be promoted":              {due + job + `state = 'scheduled', scheduled_at = now() - interval '60 seconds'` + of1, "overdue"},
		"due, its job is about to be promoted":        {row + `scheduled_for = now() - interval '65 seconds'` + id1 + job + `state = 'scheduled', scheduled_at = now() - interval '66 seconds'` + of1, ""},
		"due, its job is for later":                   {due + job + `state = 'scheduled', scheduled_at = now() + interval '1 hour'` + of1, "overdue"},
		"held":                                        {due + held, ""},
		"held, for nobody to pull":                    {due + held + row + `endpoint_url = 'x'` + id1, "overdue"},
		"held for less than a day":                    {due + held + row + `held_since = now() - interval '24 hours 30 seconds'` + id1, ""},
		"held for more than a day":                    {due + held + row + `held_since = now() - interval '24 hours 90 seconds'` + id1, "held_too_long"},
		"held without a reason":                       {held + row + `held_reason = NULL` + id1, "held_without_reason"},
		"a reason and no hold":                        {row + `held_reason = 'failing'` + id1, ""},
		"without a time":                              {row + `scheduled_for = NULL, updated_at = now() - interval '2 minutes'` + id1, "no_time"},
		"without a time, just now":                    {row + `scheduled_for = NULL, updated_at = now() - interval '50 seconds'` + id1, ""},
		"claimed":                                     {claim, ""},
		"claimed and due for an hour":                 {claim + row + `scheduled_for = now() - interval '1 hour'` + id1, ""},
		"its lease is just over":                      {claim + row + `leased_until = now() - interval '50 seconds', scheduled_for = now() - interval '1 hour'` + id1, ""},
		"its lease is over":                           {claim + row + `leased_until = now() - interval '2 minutes', scheduled_for = now() - interval '1 hour'` + id1, "lease_expired"},
		"canceled in flight, its lease is over":       {claim + row + `status = 'canceled', scheduled_for = NULL, leased_until = now() - interval '2 minutes'` + id1, "lease_expired"},
		"canceled in flight":                          {claim + row + `status = 'canceled', scheduled_for = NULL, updated_at = now() - interval '1 hour'` + id1, ""},
		"its node is dead":                            {claim + `INSERT INTO riverhook.nodes (node, version, dead_at) VALUES ('n', 'v1', now() - interval '2 minutes')`, "owner_dead"},
		"its node has just died":                      {claim + `INSERT INTO riverhook.nodes (node, version, dead_at) VALUES ('n', 'v1', now() - interval '50 seconds')`, ""},
		"claimed without a lease":                     {claim + row + `leased_until = NULL` + id1, "claim_inconsistent"},
		"a lease without a claim":                     {row + `leased_until = now() + interval '1 hour'` + id1, "claim_inconsistent"},
		"claimed and held":                            {claim + held, "claim_inconsistent"},
		"claimed without a time":                      {claim + row + `scheduled_for = NULL` + id1, "claim_inconsistent"},
		"claimed for later":                           {claim + row + `scheduled_for = now() + interval '1 hour'` + id1, "claim_inconsistent"},
		"pending with an end":                         {row + `finished_at = now()` + id1, "finished_inconsistent"},
		"ended without an end":                        {done + row + `finished_at = NULL, updated_at = now() - interval '2 minutes'` + id1, "finished_inconsistent"},
		"ended just now, without an end":              {done + row + `finished_at = NULL, updated_at = now() - interval '50 seconds'` + id1, ""},
		"ended":                                       {done, ""},
		"ended with a time":                           {done + row + `scheduled_for = now()` + id1, "leftovers"},
		"a dead letter with a time":                   {done + row + `status = 'dead_letter', scheduled_for = now()` + id1, "leftovers"},
		"ended and held":                              {done + row + `status = 'canceled', held_since = now(), held_reason = 'failing'` + id1, "leftovers"},
		"finished and claimed":                        {done + row + `claimed_by = 'n', leased_until = now() + interval '1 minute'` + id1, "leftovers"},
		"a full ledger":                               {attempts, ""},
		"of two rounds":                               {attempts + row + `round = 1, attempt_count = 0` + id1, ""},
		"a full ledger, in flight":                    {claim + attempts, ""},
		"a gap":                                       {attempts + `DELETE FROM riverhook.attempts WHERE attempt = 2; ` + row + `attempt_count = 2` + id1, "ledger"},
		"a gap in an earlier round":                   {attempts + `DELETE FROM riverhook.attempts WHERE attempt = 1; ` + row + `round = 1, attempt_count = 0` + id1, "ledger"},
		"an attempt is missing":                       {attempts + row + `attempt_count = 4` + id1, "ledger"},
		"an attempt is missing of what ended":         {done + attempts + `DELETE FROM riverhook.attempts WHERE attempt = 3`, "ledger"},
		"all attempts are missing of a dead letter":   {done + row + `status = 'dead_letter', attempt_count = 1` + id1, "ledger"},
		"an attempt too many":                         {attempts + row + `attempt_count = 2` + id1, "ledger"},
		"an attempt of a round that has not been":     {attempts + `UPDATE riverhook.attempts SET round = 1 WHERE attempt = 3; UPDATE riverhook.attempts SET attempt = 1 WHERE attempt = 3; ` + row + `attempt_count = 2` + id1, "ledger"},
		"more abandoned than made":                    {row + `abandoned_count = 1` + id1, "ledger"},
		"attempts of nothing":                         {attempts + noJob + `DELETE FROM riverhook.deliveries WHERE id = 1`, "attempts_orphaned 3"},
		"a job of nothing":                            {`DELETE FROM riverhook.deliveries WHERE id = 1; ` + job + `scheduled_at = now() - interval '59 minutes'` + of1, ""},
		"a job of nothing, for long":                  {`DELETE FROM riverhook.deliveries WHERE id = 1; ` + job + `scheduled_at = now() - interval '61 minutes'` + of1, "job_orphaned"},
		"a job that cannot be read":                   {job + `args = '{"delivery_id": "x"}', scheduled_at = now() - interval '2 hours'` + of1, "job_orphaned"},
		"a job that runs for nothing":                 {done + `INSERT INTO riverhook.river_job (kind, args, queue, max_attempts, state, attempted_at) VALUES ('deliver_webhook', '{"claim":0,"delivery_id":1}', 'webhooks', 1, 'running', now() - interval '2 hours')`, "job_stale"},
		"a job of an earlier claim":                   {row + `claim = 1, scheduled_for = now() + interval '1 hour'` + id1 + job + `scheduled_at = now() - interval '59 minutes'` + of1, ""},
		"a job of an earlier claim, for long":         {row + `claim = 1, scheduled_for = now() + interval '1 hour'` + id1 + job + `scheduled_at = now() - interval '61 minutes'` + of1, "job_stale"},
		"a job of an earlier claim, for tomorrow":     {row + `claim = 1, scheduled_for = now() + interval '1 hour'` + id1 + job + `state = 'scheduled', scheduled_at = now() + interval '1 day'` + of1, ""},
		"a job in a long backlog":                     {row + `scheduled_for = now() - interval '5 hours'` + id1 + job + `scheduled_at = now() - interval '5 hours'` + of1, ""},
		"a job that runs for long, in flight":         {row + `claim = 1, claimed_by = 'n', leased_until = now() + interval '1 minute'` + id1 + job + `state = 'running', attempted_at = now() - interval '2 hours'` + of1, ""},
		"a job of a claim to come":                    {job + `args = '{"claim":1,"delivery_id":1}'` + of1, "job_ahead"},
		"a discarded job":                             {`INSERT INTO riverhook.river_job (kind, args, max_attempts, state, finalized_at, errors) VALUES ('x', '{}', 1, 'discarded', now(), ARRAY['{"error":"Stuck job rescued by JobRescuer"}', '{"error":"unknown kind"}']::jsonb[])`, "job_discarded"},
		"a discarded job of last week":                {`INSERT INTO riverhook.river_job (kind, args, max_attempts, state, finalized_at) VALUES ('x', '{}', 1, 'discarded', now() - interval '25 hours')`, ""},
		"a job of a killed node, discarded by rescue": {`INSERT INTO riverhook.river_job (kind, args, max_attempts, state, finalized_at, errors) VALUES ('x', '{}', 1, 'discarded', now(), ARRAY['{"error":"Stuck job rescued by JobRescuer"}']::jsonb[])`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://a/' FROM generate_series(1, 3)`)
			db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = 3`)
			require.Empty(t, problems(t, db, search))
			byHand(t, db, test.do)
			want := map[string]int{}
			if test.want != "" {
				kind, n := test.want, 1
				_, _ = fmt.Sscanf(test.want, "%s %d", &kind, &n)
				want[kind] = n
			}
			assert.Equal(t, want, problems(t, db, search))
			all := search
			all.LookAt = 0
			assert.Equal(t, want, problems(t, db, all))
			longer := search
			longer.Grace = 24 * time.Hour
			if found := problems(t, db, longer); len(found) > 0 {
				assert.Equal(t, want, found)
			}
		})
	}
}

// Only so many rows are looked at, and so many problems returned, those that have been there for longest.
func TestProblemsAreBounded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) SELECT 'http://a/', now() - n * interval '1 hour' FROM generate_series(1, 30) n`)
	byHand(t, db, `DELETE FROM riverhook.river_job`)
	kinds, err := store.New(db.Pool, db.Schema).Problems(t.Context(), store.ProblemSearch{Grace: time.Minute, LookAt: 20, PerKind: 2, Within: time.Minute})
	require.NoError(t, err)
	require.Len(t, kinds, 1)
	assert.Equal(t, 20, kinds[0].Total)
	require.Len(t, kinds[0].First, 2)
	assert.Equal(t, []int64{30, 29}, []int64{*kinds[0].First[0].DeliveryID, *kinds[0].First[1].DeliveryID})
	assert.Equal(t, map[string]int{"overdue": 30}, problems(t, db, store.ProblemSearch{Grace: time.Minute, PerKind: 2, Within: time.Minute}))
	assert.Equal(t, 30, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.problems WHERE problem = 'overdue'`))
}

// An import of what has ended elsewhere is clean.
func TestImportedHistoryHasNoProblems(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, finished_at) VALUES ('http://a/', 'succeeded', now() - interval '1 year'), ('http://a/', 'dead_letter', now())`)
	assert.Empty(t, problems(t, db, search))
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE scheduled_for IS NULL`))
	_, err := store.New(db.Pool, db.Schema).Problems(context.Background(), store.ProblemSearch{Within: time.Nanosecond})
	require.Error(t, err, "it has its time")
}

// It goes along indexes and ends at its bounds, also under a plan that was made when the tables were small.
func TestProblemsPlan(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	source := pgtest.Scalar[string](t, db, `SELECT prosrc FROM pg_proc WHERE proname = 'find_problems'`)
	parts := strings.Split(source, "$sql$")
	require.Len(t, parts, 3)
	sql := strings.NewReplacer("$1", "interval '1 minute'", "$2", "100000").Replace(parts[1])
	settings := pgtest.Scalar[string](t, db, `SELECT array_to_string(ARRAY(SELECT 'SET ' || c FROM unnest(proconfig) c WHERE c !~ 'search_path'), ';') FROM pg_proc WHERE proname = 'find_problems'`)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // a test's
	_, err = conn.Exec(t.Context(), settings)
	require.NoError(t, err)
	db.Exec(t, `ALTER TABLE riverhook.deliveries SET (autovacuum_enabled = off)`)
	for _, phase := range []string{"empty", "stale", "full"} {
		switch phase {
		case "stale":
			db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, finished_at) SELECT 'http://a/', 'succeeded', now() FROM generate_series(1, 50)`)
			db.Exec(t, `ANALYZE`)
			db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://a/' FROM generate_series(1, 20000)`)
		case "full":
			db.Exec(t, `ANALYZE`)
		}
		rows, err := conn.Query(t.Context(), "EXPLAIN "+sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		assert.NotContains(t, plan, "Seq Scan on", "on an %s table:\n%s", phase, plan)
		assert.NotContains(t, plan, "Sort", "on an %s table:\n%s", phase, plan)
		for index, times := range map[string]int{
			"deliveries_due_idx": 2, "deliveries_ended_in_flight_idx": 1, "deliveries_done_idx": 1, "deliveries_dead_letter_idx": 1, "deliveries_pkey": 2,
			"attempts_pkey": 2, "river_job_unique_idx": 1, "river_job_prioritized_fetching_index": 1, "river_job_state_and_finalized_at_index": 1,
		} {
			assert.Equal(t, times, strings.Count(plan, index), "%s on an %s table:\n%s", index, phase, plan)
		}
	}
}
