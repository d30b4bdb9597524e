package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// bundle is a database with a store on it.
type bundle struct {
	*pgtest.DB
	store *store.Store
}

func setup(t *testing.T) *bundle {
	t.Helper()
	db := pgtest.New(t)
	return &bundle{DB: db, store: store.New(db.Pool, db.Schema)}
}

// insert makes a delivery, with what set says ("column = value, ...") on top, past the triggers.
func (b *bundle) insert(t *testing.T, set string) int64 {
	t.Helper()
	id := pgtest.Scalar[int64](t, b.DB, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('https://one.example/hook') RETURNING id`)
	b.Exec(t, `DELETE FROM riverhook.river_job`)
	if set != "" {
		tx, err := b.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SET LOCAL session_replication_role = replica`)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), fmt.Sprintf(`UPDATE riverhook.deliveries SET %s WHERE id = %d`, set, id))
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
	}
	return id
}

// insertMany makes n deliveries past the triggers.
func (b *bundle) insertMany(t *testing.T, n int, columns, values string) {
	t.Helper()
	tx, err := b.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SET LOCAL session_replication_role = replica`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), fmt.Sprintf(`INSERT INTO riverhook.deliveries (endpoint_url, %s) SELECT 'https://one.example/hook', %s FROM generate_series(1, %d) i`, columns, values, n))
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
}

const (
	claimed    = `claim = 1, claimed_by = 'node', leased_until = now() + interval '1 minute'`
	deadLetter = `status = 'dead_letter', scheduled_for = NULL, finished_at = now(), attempt_count = 3`
	canceled   = `status = 'canceled', scheduled_for = NULL, finished_at = now()`
	succeeded  = `status = 'succeeded', scheduled_for = NULL, finished_at = now(), attempt_count = 1`
	later      = `scheduled_for = now() + interval '1 hour'`
)

// row is a delivery as text, to see that nothing of it has changed.
func (b *bundle) row(t *testing.T, id int64) string {
	t.Helper()
	return pgtest.Scalar[string](t, b.DB, `SELECT d::text FROM riverhook.deliveries d WHERE id = $1`, id)
}

// jobs are the arguments of the jobs that are there.
func (b *bundle) jobs(t *testing.T) []string {
	t.Helper()
	return pgtest.Column[string](t, b.DB, `SELECT (args->>'delivery_id') || '/' || (args->>'claim') || ' ' || state FROM riverhook.river_job ORDER BY (args->>'delivery_id')::bigint`)
}

func ids(rows []store.Row) []int64 {
	ids := []int64{}
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	return ids
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.insert(t, `organization_id = 'acme', workflow_run_id = 'run-1', webhook_node_id = 'n1'`)
	c := b.insert(t, deadLetter+`, workflow_run_id = 'run-1', webhook_node_id = 'n2', endpoint_url = 'https://Two.example:8443/a_b%c'`)
	d := b.insert(t, canceled+`, organization_id = 'acme', created_at = now() - interval '2 days'`)
	e := b.insert(t, succeeded)
	f := b.insert(t, `endpoint_url = 'nonsense', last_error = 'HTTP 503: No_t %now', credential_uuid = 'c5a4b3f2-0000-4000-8000-00000000000a'`)
	uuid := func(id int64) string {
		return pgtest.Scalar[string](t, b.DB, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = $1`, id)
	}

	for name, test := range map[string]struct {
		filter store.Filter
		want   []int64
	}{
		"everything":             {store.Filter{}, []int64{f, e, d, c, a}},
		"a status":               {store.Filter{Statuses: []delivery.Status{"dead_letter"}}, []int64{c}},
		"two statuses":           {store.Filter{Statuses: []delivery.Status{"dead_letter", "pending"}}, []int64{f, c, a}},
		"a status twice":         {store.Filter{Statuses: []delivery.Status{"pending", "canceled", "pending"}}, []int64{f, d, a}},
		"all statuses":           {store.Filter{Statuses: delivery.Statuses}, []int64{f, e, d, c, a}},
		"organization":           {store.Filter{Organization: "acme"}, []int64{d, a}},
		"another organization":   {store.Filter{Organization: "nobody"}, []int64{}},
		"run":                    {store.Filter{Run: "run-1"}, []int64{c, a}},
		"origin":                 {store.Filter{Origin: "https://two.example:8443"}, []int64{c}},
		"origin in capitals":     {store.Filter{Origin: "HTTPS://ONE.example"}, []int64{e, d, a}},
		"endpoint":               {store.Filter{Endpoint: "example/HOOK"}, []int64{e, d, a}},
		"endpoint, no wildcard":  {store.Filter{Endpoint: "a_b%"}, []int64{c}},
		"no endpoint":            {store.Filter{Endpoint: "%"}, []int64{c}},
		"since":                  {store.Filter{Since: time.Now().Add(-time.Hour)}, []int64{f, e, c, a}},
		"since the future":       {store.Filter{Since: time.Now().Add(time.Hour)}, []int64{}},
		"until":                  {store.Filter{Until: time.Now().Add(-time.Hour)}, []int64{d}},
		"until the future":       {store.Filter{Until: time.Now().Add(time.Hour)}, []int64{f, e, d, c, a}},
		"since and until":        {store.Filter{Since: time.Now().Add(-3 * 24 * time.Hour), Until: time.Now().Add(-time.Hour)}, []int64{d}},
		"error":                  {store.Filter{Error: "no_T %NOW"}, []int64{f}},
		"another error":          {store.Filter{Error: "not"}, []int64{}},
		"credential":             {store.Filter{Credential: "C5A4B3F2-0000-4000-8000-00000000000A"}, []int64{f}},
		"another credential":     {store.Filter{Credential: "c5a4b3f2-0000-4000-8000-00000000000b"}, []int64{}},
		"error and origin":       {store.Filter{Error: "503", Origin: "https://one.example"}, []int64{}},
		"origin of dead letters": {store.Filter{Origin: "https://two.example:8443", Statuses: []delivery.Status{"dead_letter", "pending"}}, []int64{c}},
		"origin of others":       {store.Filter{Origin: "https://one.example", Statuses: []delivery.Status{"canceled", "pending"}}, []int64{d, a}},
		"ids":                    {store.Filter{IDs: []int64{e, a, 999}}, []int64{e, a}},
		"uuids":                  {store.Filter{UUIDs: []string{strings.ToUpper(uuid(c))}}, []int64{c}},
		"ids and uuids":          {store.Filter{IDs: []int64{a}, UUIDs: []string{uuid(c), uuid(a)}}, []int64{c, a}},
		"several at once":        {store.Filter{Statuses: []delivery.Status{"pending", "canceled"}, Organization: "acme", Endpoint: "one", Since: time.Now().Add(-time.Hour)}, []int64{a}},
		"a value like SQL":       {store.Filter{Organization: `'; DROP TABLE riverhook.deliveries; --{schema}`, Endpoint: `{where}$1`}, []int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			rows, err := b.store.List(t.Context(), test.filter, 0, 100)
			require.NoError(t, err)
			assert.Equal(t, test.want, ids(rows))
		})
	}

	_, err := b.store.List(t.Context(), store.Filter{IDs: make([]int64, store.MaxIDs+1)}, 0, 1)
	require.ErrorContains(t, err, "use a filter")
	_, err = b.store.List(t.Context(), store.Filter{Credential: "c5a4b3f2"}, 0, 1)
	require.ErrorContains(t, err, "not a UUID")
	_, err = b.store.List(t.Context(), store.Filter{IDs: make([]int64, store.MaxIDs)}, 0, 1)
	require.NoError(t, err)
}

func TestListPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insertMany(t, 70, "status, organization_id", "(ARRAY['pending', 'succeeded', 'dead_letter', 'canceled'])[1 + i % 4], 'o' || i % 3")
	b.Exec(t, `DELETE FROM riverhook.deliveries WHERE id % 7 = 0`)
	for name, test := range map[string]struct {
		filter store.Filter
		where  string
	}{
		"all":      {store.Filter{}, "true"},
		"statuses": {store.Filter{Statuses: []delivery.Status{"canceled", "pending"}}, "status IN ('canceled', 'pending')"},
		"endpoint": {store.Filter{Organization: "o1", Endpoint: "one"}, "organization_id = 'o1'"},
	} {
		t.Run(name, func(t *testing.T) {
			want := pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.deliveries WHERE `+test.where+` ORDER BY id DESC`)
			var got []int64
			for before := int64(0); ; {
				rows, err := b.store.List(t.Context(), test.filter, before, 7)
				require.NoError(t, err)
				got = append(got, ids(rows)...)
				if len(rows) < 7 {
					break
				}
				before = rows[6].ID
				b.insertMany(t, 1, "organization_id", "'o1'") // newer rows move no page
			}
			assert.Equal(t, want, got)
		})
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.insert(t, `payload = ' {"b":1, "b":2} ', custom_headers = '[{"key":"X","value":"1"}]', last_error = 'HTTP 500: no', last_status_code = 500,
		workflow_run_id = 'r', webhook_node_id = 'n', webhook_name = 'w', max_attempts = 5, attempt_count = 1, round = 1, credential_uuid = gen_random_uuid(), `+claimed)
	other := b.insert(t, deadLetter)
	b.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node) VALUES
		($1, 1, 1, now(), 12, 'transient', 'status', 500, 'HTTP 500: no', '\x6e6f00ff', 'n2'),
		($1, 0, 2, now() - interval '1 hour', NULL, 'abandoned', NULL, NULL, NULL, NULL, 'n1'),
		($1, 0, 1, now() - interval '2 hours', 3, 'permanent', 'dns', NULL, 'no such host', NULL, 'n1'),
		($2, 0, 1, now(), 3, 'permanent', 'dns', NULL, 'no such host', NULL, 'n1')`, id, other)

	row, attempts, err := b.store.Get(t.Context(), id, "")
	require.NoError(t, err)
	assert.Equal(t, ` {"b":1, "b":2} `, string(row.Payload))
	assert.Equal(t, 16, row.PayloadBytes)
	assert.JSONEq(t, `[{"key":"X","value":"1"}]`, string(row.CustomHeaders))
	assert.Equal(t, "node", *row.ClaimedBy)
	assert.Equal(t, time.UTC, row.CreatedAt.Location())
	assert.WithinDuration(t, row.CreatedAt, row.Now, time.Minute)
	require.Len(t, attempts, 3)
	for i, want := range []string{"0/1", "0/2", "1/1"} {
		assert.Equal(t, want, fmt.Sprintf("%d/%d", attempts[i].Round, attempts[i].Attempt))
	}
	assert.Nil(t, attempts[1].FailureKind)
	assert.Equal(t, []byte("no\x00\xff"), attempts[2].ResponseBody)
	assert.Equal(t, delivery.FailureStatus, *attempts[2].FailureKind)

	// The JSON names are the columns', all of them.
	encoded, err := json.Marshal(row)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(encoded, &fields))
	columns := pgtest.Column[string](t, b.DB, `SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'riverhook' AND table_name = 'deliveries'`)
	assert.Len(t, fields, len(columns))
	for _, c := range columns {
		assert.Contains(t, fields, c)
	}
	encoded, err = json.Marshal(attempts[0])
	require.NoError(t, err)
	fields = nil
	require.NoError(t, json.Unmarshal(encoded, &fields))
	columns = pgtest.Column[string](t, b.DB, `SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'riverhook' AND table_name = 'attempts'`)
	assert.Len(t, fields, len(columns))
	for _, c := range columns {
		assert.Contains(t, fields, c)
	}

	byUUID, _, err := b.store.Get(t.Context(), 0, row.UUID)
	require.NoError(t, err)
	assert.Equal(t, id, byUUID.ID)
	_, _, err = b.store.Get(t.Context(), 999, "")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, _, err = b.store.Get(t.Context(), id, "00000000-0000-0000-0000-000000000000")
	require.ErrorIs(t, err, store.ErrNotFound)

	// Lists are without payloads.
	rows, err := b.store.List(t.Context(), store.Filter{IDs: []int64{id}}, 0, 1)
	require.NoError(t, err)
	assert.Empty(t, rows[0].Payload)
	assert.Empty(t, rows[0].CustomHeaders)
}

func TestGetIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	limit := store.MaxShownPayload
	fits := b.insert(t, fmt.Sprintf(`payload = ('"' || repeat('x', %d) || '"')::json`, limit-2))
	large := b.insert(t, fmt.Sprintf(`payload = ('"' || repeat('x', %d) || '"')::json`, limit-1))
	row, _, err := b.store.Get(t.Context(), fits, "")
	require.NoError(t, err)
	assert.Len(t, row.Payload, limit)
	row, _, err = b.store.Get(t.Context(), large, "")
	require.NoError(t, err)
	assert.Nil(t, row.Payload)
	assert.Equal(t, limit+1, row.PayloadBytes)

	b.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, node)
		SELECT $1, 0, i, now(), 'abandoned', 'n' FROM generate_series(1, $2) i`, fits, store.MaxAttemptRows+2)
	_, attempts, err := b.store.Get(t.Context(), fits, "")
	require.NoError(t, err)
	require.Len(t, attempts, store.MaxAttemptRows)
	assert.Equal(t, 3, attempts[0].Attempt)
	assert.Equal(t, store.MaxAttemptRows+2, attempts[store.MaxAttemptRows-1].Attempt)
}

// fixtures are deliveries in every state that matters to an action.
type fixtures struct {
	due, later, sending, laterSending, dead, canceled, canceledInFlight, succeeded int64
}

func (f fixtures) all() []int64 {
	return []int64{f.due, f.later, f.sending, f.laterSending, f.dead, f.canceled, f.canceledInFlight, f.succeeded}
}

func insertFixtures(t *testing.T, b *bundle) fixtures {
	return fixtures{
		due:              b.insert(t, ""),
		later:            b.insert(t, later),
		sending:          b.insert(t, claimed),
		laterSending:     b.insert(t, later+", "+claimed),
		dead:             b.insert(t, deadLetter),
		canceled:         b.insert(t, canceled),
		canceledInFlight: b.insert(t, `status = 'canceled', scheduled_for = NULL, `+claimed),
		succeeded:        b.insert(t, succeeded),
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	retry := func(b *bundle, f store.Filter) (store.Result, error) {
		return b.store.Retry(context.Background(), f, nil)
	}
	cancel := func(b *bundle, f store.Filter) (store.Result, error) {
		return b.store.Cancel(context.Background(), f, nil)
	}
	replay := func(b *bundle, f store.Filter) (store.Result, error) {
		return b.store.Replay(context.Background(), f, "", nil)
	}
	elsewhere := func(b *bundle, f store.Filter) (store.Result, error) {
		return b.store.Replay(context.Background(), f, "https://new.example/x", nil)
	}
	everything := func(fixtures) store.Filter { return store.Filter{} }
	statuses := func(s ...delivery.Status) func(fixtures) store.Filter {
		return func(fixtures) store.Filter { return store.Filter{Statuses: s} }
	}
	for name, test := range map[string]struct {
		action store.Action
		do     func(*bundle, store.Filter) (store.Result, error)
		filter func(fixtures) store.Filter
		want   func(fixtures) []int64
		status delivery.Status
		jobs   bool
	}{
		"retry":                {store.ActionRetry, retry, everything, func(f fixtures) []int64 { return []int64{f.later} }, "pending", true},
		"retry, another state": {store.ActionRetry, retry, statuses("dead_letter"), func(fixtures) []int64 { return nil }, "", false},
		"cancel": {store.ActionCancel, cancel, everything, func(f fixtures) []int64 {
			return []int64{f.due, f.later, f.sending, f.laterSending}
		}, "canceled", false},
		"cancel, another state": {store.ActionCancel, cancel, statuses("succeeded"), func(fixtures) []int64 { return nil }, "", false},
		"replay": {store.ActionReplay, replay, everything, func(f fixtures) []int64 {
			return []int64{f.dead, f.canceled, f.canceledInFlight}
		}, "pending", true},
		"replay elsewhere": {store.ActionReplay, elsewhere, everything, func(f fixtures) []int64 {
			return []int64{f.dead, f.canceled, f.canceledInFlight}
		}, "pending", true},
		"replay succeeded":     {store.ActionReplay, replay, statuses("succeeded"), func(f fixtures) []int64 { return []int64{f.succeeded} }, "pending", true},
		"replay never pending": {store.ActionReplay, replay, statuses("pending"), func(fixtures) []int64 { return nil }, "", false},
		"replay, pending among others": {store.ActionReplay, replay, statuses("pending", "dead_letter"), func(f fixtures) []int64 {
			return []int64{f.dead}
		}, "pending", true},
		"replay by endpoint": {store.ActionReplay, replay, func(fixtures) store.Filter { return store.Filter{Endpoint: "ONE.example"} }, func(f fixtures) []int64 {
			return []int64{f.dead, f.canceled, f.canceledInFlight}
		}, "pending", true},
		"replay by another endpoint": {store.ActionReplay, replay, func(fixtures) store.Filter { return store.Filter{Endpoint: "two.example"} }, func(fixtures) []int64 {
			return nil
		}, "", false},
		"replay by id": {store.ActionReplay, replay, func(f fixtures) store.Filter { return store.Filter{IDs: []int64{f.dead}} }, func(f fixtures) []int64 {
			return []int64{f.dead}
		}, "pending", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			f := insertFixtures(t, b)
			want := map[int64]bool{}
			for _, id := range test.want(f) {
				want[id] = true
			}
			before := map[int64]string{}
			rounds := map[int64]int{}
			for _, id := range f.all() {
				before[id] = b.row(t, id)
				rounds[id] = pgtest.Scalar[int](t, b.DB, `SELECT round FROM riverhook.deliveries WHERE id = $1`, id)
			}

			n, err := b.store.Count(t.Context(), test.action, test.filter(f))
			require.NoError(t, err)
			assert.Equal(t, len(want), total(n))
			for _, id := range test.want(f) {
				assert.Positive(t, n[delivery.Status(pgtest.Scalar[string](t, b.DB, `SELECT status FROM riverhook.deliveries WHERE id = $1`, id))])
			}
			result, err := test.do(b, test.filter(f))
			require.NoError(t, err)
			assert.Equal(t, store.Result{Changed: len(want)}, result)

			var jobs []string
			for _, id := range f.all() {
				if !want[id] {
					assert.Equal(t, before[id], b.row(t, id), "delivery %d", id)
					continue
				}
				row, attempts, err := b.store.Get(t.Context(), id, "")
				require.NoError(t, err)
				assert.Equal(t, test.status, row.Status)
				if test.action != store.ActionCancel {
					assert.False(t, row.ScheduledFor.After(row.Now))
					assert.Nil(t, row.ClaimedBy)
				} else {
					assert.Nil(t, row.ScheduledFor)
					assert.Equal(t, row.ClaimedBy == nil, row.FinishedAt != nil)
				}
				if test.action == store.ActionReplay {
					assert.Equal(t, rounds[id]+1, row.Round)
					assert.Zero(t, row.AttemptCount)
				}
				if id == f.canceledInFlight { // its attempt will not find the row any more
					require.Len(t, attempts, 1)
					assert.Equal(t, delivery.OutcomeAbandoned, attempts[0].Outcome)
				}
				url := "https://one.example/hook"
				if strings.HasSuffix(name, "elsewhere") {
					url = "https://new.example/x"
					assert.Equal(t, "https://new.example", *row.EndpointOrigin)
				}
				assert.Equal(t, url, row.EndpointURL)
				if test.jobs {
					jobs = append(jobs, fmt.Sprintf("%d/%d available", id, row.Claim))
				}
			}
			assert.ElementsMatch(t, jobs, b.jobs(t))

			// Once more: there is nothing left, but for rows that a replay left pending.
			result, err = test.do(b, test.filter(f))
			require.NoError(t, err)
			assert.Zero(t, result.Changed)
		})
	}
}

func TestActionsSayWhatWasNotChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	f := insertFixtures(t, b)
	uuid := func(id int64) string {
		return pgtest.Scalar[string](t, b.DB, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = $1`, id)
	}
	const nobody = "00000000-0000-0000-0000-000000000000"

	result, err := b.store.Retry(t.Context(), store.Filter{IDs: []int64{f.later, 999, f.due, f.laterSending, f.later}, UUIDs: []string{nobody, uuid(f.succeeded)}}, nil)
	require.NoError(t, err)
	assert.Equal(t, store.Result{Changed: 1, Unchanged: []store.Unchanged{
		{ID: 999}, {ID: f.due, Status: "pending"}, {ID: f.laterSending, Status: "pending", Sending: true},
		{UUID: nobody}, {ID: f.succeeded, UUID: uuid(f.succeeded), Status: "succeeded"},
	}}, result)

	result, err = b.store.Replay(t.Context(), store.Filter{IDs: []int64{f.succeeded, f.later, f.dead}, UUIDs: []string{strings.ToUpper(uuid(f.canceled))}}, "", nil)
	require.NoError(t, err)
	assert.Equal(t, store.Result{Changed: 2, Unchanged: []store.Unchanged{
		{ID: f.succeeded, Status: "succeeded"}, {ID: f.later, Status: "pending"},
	}}, result)

	result, err = b.store.Cancel(t.Context(), store.Filter{UUIDs: []string{uuid(f.due)}}, nil)
	require.NoError(t, err)
	assert.Equal(t, store.Result{Changed: 1}, result)

	// A status that the action cannot change: the answer is about all of them.
	result, err = b.store.Cancel(t.Context(), store.Filter{IDs: []int64{f.succeeded}, Statuses: []delivery.Status{"succeeded"}}, nil)
	require.NoError(t, err)
	assert.Equal(t, store.Result{Unchanged: []store.Unchanged{{ID: f.succeeded, Status: "succeeded"}}}, result)
}

func TestActionPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insertMany(t, 2500, "status, finished_at", "CASE WHEN i % 2 = 0 THEN 'dead_letter' ELSE 'canceled' END, now()")
	var progress []int
	result, err := b.store.Replay(t.Context(), store.Filter{}, "", func(done int) {
		progress = append(progress, done)
		if done == 1000 { // what ends meanwhile is not for this call: the newest id was fixed at its start
			b.insertMany(t, 1, "status, finished_at", "'dead_letter', now()")
			b.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = 1`)
		}
	})
	require.NoError(t, err)
	assert.Equal(t, store.Result{Changed: 2500}, result)
	assert.Equal(t, []int{1000, 2000, 2500}, progress)
	assert.Equal(t, 2500, pgtest.Scalar[int](t, b.DB, `SELECT count(*) FROM riverhook.deliveries WHERE round = 1 AND claim = 1`))
	assert.Equal(t, 2500, pgtest.Scalar[int](t, b.DB, `SELECT count(*) FROM riverhook.river_job`))
	assert.Equal(t, []int64{1, 2501}, pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.deliveries WHERE status <> 'pending' ORDER BY id`))
}

// waitForLock waits until somebody waits for a row's lock in the database.
func waitForLock(t *testing.T, b *bundle) {
	t.Helper()
	require.Eventually(t, func() bool {
		return pgtest.Scalar[bool](t, b.DB, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	}, 10*time.Second, 10*time.Millisecond)
}

func TestActionOnARowThatChanges(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, second := b.insert(t, deadLetter), b.insert(t, deadLetter)
	tx, err := b.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), `UPDATE riverhook.deliveries SET status = 'pending' WHERE id = $1`, first)
	require.NoError(t, err)

	type answer struct {
		result store.Result
		err    error
	}
	done := make(chan answer)
	go func() {
		result, err := b.store.Replay(context.WithoutCancel(t.Context()), store.Filter{IDs: []int64{first, second}}, "", nil)
		done <- answer{result, err}
	}()
	waitForLock(t, b)
	require.NoError(t, tx.Commit(t.Context()))
	a := <-done
	require.NoError(t, a.err)
	assert.Equal(t, store.Result{Changed: 1, Unchanged: []store.Unchanged{{ID: first, Status: "pending"}}}, a.result)
	assert.Equal(t, []string{fmt.Sprintf("%d/1 available", first), fmt.Sprintf("%d/1 available", second)}, b.jobs(t))
}

func TestActionDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insertMany(t, 1001, "status, finished_at", "'dead_letter', now()")
	tx, err := b.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM riverhook.deliveries WHERE id = 1001 FOR UPDATE`)
	require.NoError(t, err)

	result, err := b.store.Replay(t.Context(), store.Filter{}, "", nil)
	require.ErrorContains(t, err, "held the lock of a delivery")
	assert.Equal(t, 1000, result.Changed) // its page stays, the page of the locked row does not
	assert.Equal(t, 1000, pgtest.Scalar[int](t, b.DB, `SELECT count(*) FROM riverhook.deliveries WHERE status = 'pending'`))
	// Who only looks does not wait.
	_, err = b.store.List(t.Context(), store.Filter{}, 0, 10)
	require.NoError(t, err)
}

func TestRoles(t *testing.T) {
	t.Parallel()
	b := setup(t)
	as := func(kind string) *store.Store {
		role := pgtest.Scalar[string](t, b.DB, `SELECT current_database() || '_' || $1::text`, kind)
		b.Exec(t, `CREATE ROLE `+role)
		t.Cleanup(func() {
			b.Exec(t, `DROP OWNED BY `+role)
			b.Exec(t, `DROP ROLE `+role)
		})
		require.NoError(t, migrations.Grant(t.Context(), b.Pool, b.Schema, role, kind))
		config, err := pgxpool.ParseConfig(b.URL)
		require.NoError(t, err)
		config.ConnConfig.RuntimeParams["role"] = role
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return store.New(pool, b.Schema)
	}
	f := insertFixtures(t, b)

	support := as("support")
	_, err := support.List(t.Context(), store.Filter{}, 0, 10)
	require.NoError(t, err)
	_, _, err = support.Get(t.Context(), f.dead, "")
	require.NoError(t, err)
	result, err := support.Retry(t.Context(), store.Filter{}, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, result.Changed)
	result, err = support.Replay(t.Context(), store.Filter{IDs: []int64{f.dead}}, "https://new.example", nil)
	require.NoError(t, err)
	assert.Equal(t, 1, result.Changed)
	result, err = support.Cancel(t.Context(), store.Filter{}, nil)
	require.NoError(t, err)
	assert.Equal(t, 5, result.Changed)

	reader := as("reader")
	_, err = reader.List(t.Context(), store.Filter{}, 0, 10)
	require.NoError(t, err)
	_, _, err = reader.Get(t.Context(), f.dead, "")
	require.NoError(t, err)
	_, err = reader.Count(t.Context(), store.ActionReplay, store.Filter{})
	require.NoError(t, err)
	_, err = reader.Replay(t.Context(), store.Filter{}, "", nil)
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	assert.Equal(t, "42501", pg.Code)
}

// recorder keeps the statements that a pool runs.
type recorder struct {
	mu         sync.Mutex
	statements []pgx.TraceQueryStartData
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statements = append(r.statements, data)
	return ctx
}

func (*recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// plans explains, with the same settings, what was recorded since the last call.
func (r *recorder) plans(t *testing.T, b *bundle) string {
	t.Helper()
	return r.explain(t, b, "EXPLAIN ")
}

// explain is plans with a kind of EXPLAIN.
func (r *recorder) explain(t *testing.T, b *bundle, explain string) string {
	t.Helper()
	r.mu.Lock()
	statements := r.statements
	r.statements = nil
	r.mu.Unlock()
	tx, err := b.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	var plans strings.Builder
	for _, s := range statements {
		switch {
		case strings.HasPrefix(s.SQL, "SET LOCAL"):
			_, err := tx.Exec(t.Context(), s.SQL)
			require.NoError(t, err)
		case strings.Contains(s.SQL, "SELECT"):
			rows, err := tx.Query(t.Context(), explain+s.SQL, s.Args...)
			require.NoError(t, err)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			plans.WriteString(strings.Join(lines, "\n") + "\n\n")
		}
	}
	return plans.String()
}

func TestPlans(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Mostly succeeded, a few dead letters among the oldest: the walk of the primary key would be long.
	// A delivery a second, the last one now; transactions that take up to 100 s mix the order up.
	b.insertMany(t, 300_000, "status, organization_id, workflow_run_id, webhook_node_id, finished_at, created_at, last_error, credential_uuid",
		`CASE WHEN i < 100 OR i % 1000 = 0 THEN 'dead_letter' WHEN i < 200 THEN 'canceled' WHEN i > 299000 THEN 'pending' ELSE 'succeeded' END,
		 CASE WHEN i < 1000 THEN 'small' ELSE 'large' END, 'run-' || i / 3, i::text, CASE WHEN i <= 299000 THEN now() END,
		 now() - (300000 - i + i % 97 * 7919 % 100) * interval '1 second', CASE WHEN i IN (2, 250000) THEN 'HTTP 500: Odd' END,
		 CASE WHEN i IN (2, 250000) THEN 'c5a4b3f2-0000-4000-8000-00000000000a'::uuid END`)
	b.Exec(t, `UPDATE riverhook.deliveries SET endpoint_url = 'https://rare.example/x' WHERE id IN (3, 250001)`)
	b.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, node)
		SELECT i, 0, 1, now(), 'succeeded', 'n' FROM generate_series(1, 50000) i`)
	b.Exec(t, `VACUUM ANALYZE riverhook.deliveries, riverhook.attempts`)

	statements := &recorder{}
	config, err := pgxpool.ParseConfig(b.URL)
	require.NoError(t, err)
	config.ConnConfig.Tracer = statements
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	st := store.New(pool, b.Schema)
	uuid := pgtest.Scalar[string](t, b.DB, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = 3`)

	for name, test := range map[string]struct {
		do      func() (int, error)
		indexes []string // that the plan has
		not     []string // and that it has not
		rows    int
	}{
		"everything": {list(st, store.Filter{}, 0), []string{"Index Only Scan Backward using deliveries_pkey|Index Scan Backward using deliveries_pkey"}, nil, 10},
		"a page":     {list(st, store.Filter{}, 100), []string{"Index Cond: (id < "}, nil, 10},
		"status": {list(st, store.Filter{Statuses: []delivery.Status{"dead_letter"}}, 0),
			[]string{"Scan Backward using deliveries_status_idx"}, []string{"Filter: (status"}, 10},
		"statuses": {list(st, store.Filter{Statuses: []delivery.Status{"dead_letter", "canceled"}}, 0),
			[]string{"Scan Backward using deliveries_status_idx"}, []string{"Filter: (status"}, 10},
		"status, next page": {
			list(st, store.Filter{Statuses: []delivery.Status{"dead_letter"}}, 6),
			[]string{"Index Cond: "}, nil, 5,
		},
		"canceled": {list(st, store.Filter{Statuses: []delivery.Status{"canceled"}}, 0),
			[]string{"Scan Backward using deliveries_status_idx"}, []string{"Filter: (status"}, 10},
		"organization and dead letters": {list(st, store.Filter{Organization: "large", Statuses: []delivery.Status{"dead_letter"}}, 0),
			[]string{"Scan Backward using deliveries_dead_letter_org_idx"}, []string{"Filter: (organization"}, 10},
		"organization and canceled, none": {list(st, store.Filter{Organization: "large", Statuses: []delivery.Status{"canceled"}}, 0),
			[]string{"deliveries_status_idx"}, []string{"Filter: (status"}, 0},
		"organization and pending": {list(st, store.Filter{Organization: "large", Statuses: []delivery.Status{"pending"}}, 0), nil, nil, 10},
		// By time: nothing walks from the newest to what is asked for, or through all the rest when there is nothing.
		"since": {list(st, store.Filter{Since: time.Now().Add(-3 * time.Minute)}, 0),
			[]string{"deliveries_pkey", `Index Cond: (id >= '29\d{4}'`}, nil, 10},
		"since, none": {list(st, store.Filter{Since: time.Now().Add(time.Hour)}, 0), []string{"Index Cond: (id >= '2[89]"}, nil, 0},
		"until": {list(st, store.Filter{Until: time.Now().Add(-200_000 * time.Second)}, 0),
			[]string{"deliveries_pkey", `Index Cond: (id < '10\d{4}'`}, nil, 10},
		"until, none": {list(st, store.Filter{Until: time.Now().Add(-400_000 * time.Second)}, 0), []string{`Index Cond: (id < '\d{2,3}'`}, nil, 0},
		"since and until": {list(st, store.Filter{Since: time.Now().Add(-200_200 * time.Second), Until: time.Now().Add(-200_000 * time.Second)}, 0),
			[]string{`Index Cond: ((id >= '9\d{4}'::bigint) AND (id < '10\d{4}'::bigint))`}, nil, 10},
		"since of an organization": {list(st, store.Filter{Organization: "small", Since: time.Now().Add(-time.Hour)}, 0),
			[]string{"deliveries_org_idx", "Index Cond: ((organization_id = 'small'::text) AND (id >= "}, nil, 0},
		"since of a status": {list(st, store.Filter{Statuses: []delivery.Status{"canceled"}, Since: time.Now().Add(-time.Hour)}, 0),
			[]string{"deliveries_status_idx", "AND (id >= "}, nil, 0},
		"since, count": {func() (int, error) {
			n, err := st.Count(t.Context(), store.ActionReplay, store.Filter{Since: time.Now().Add(-36_500 * time.Second)})
			return total(n), err
		}, []string{"AND (id >= "}, nil, 37},
		"origin of dead letters": {list(st, store.Filter{Origin: "https://rare.example", Statuses: []delivery.Status{"dead_letter"}}, 0),
			[]string{"deliveries_dead_letter_origin_idx", "Index Cond: (endpoint_origin = "}, []string{"Filter: (endpoint_origin"}, 1},
		"origin of pending": {list(st, store.Filter{Origin: "https://none.example", Statuses: []delivery.Status{"pending"}}, 0),
			[]string{"deliveries_origin_due_idx"}, []string{"Filter: (endpoint_origin"}, 0},
		"origin of both": {list(st, store.Filter{Origin: "https://rare.example", Statuses: []delivery.Status{"dead_letter", "pending"}}, 0),
			[]string{"deliveries_origin_due_idx", "deliveries_dead_letter_origin_idx"}, []string{"Filter: (endpoint_origin"}, 1},
		// The newest 100,000: not what is older.
		"origin":            {list(st, store.Filter{Origin: "https://rare.example"}, 0), []string{"deliveries_pkey"}, nil, 1},
		"error":             {list(st, store.Filter{Error: "500: odd"}, 0), []string{"deliveries_pkey"}, nil, 1},
		"credential":        {list(st, store.Filter{Credential: "c5a4b3f2-0000-4000-8000-00000000000a"}, 0), []string{"deliveries_pkey"}, nil, 1},
		"error of a tenant": {list(st, store.Filter{Error: "500: odd", Organization: "small"}, 0), []string{"deliveries_org_idx"}, nil, 1},
		"origin, replay": {func() (int, error) { // what changes deliveries looks at all of them
			n, err := st.Count(t.Context(), store.ActionReplay, store.Filter{Origin: "https://rare.example"})
			return total(n), err
		}, []string{"deliveries_dead_letter_origin_idx"}, nil, 1},
		"organization": {list(st, store.Filter{Organization: "small"}, 0),
			[]string{"Scan Backward using deliveries_org_idx"}, []string{"Filter: (organization"}, 10},
		"organization, none": {list(st, store.Filter{Organization: "none"}, 0),
			[]string{"deliveries_org_idx"}, []string{"Filter: (organization"}, 0},
		"run":   {list(st, store.Filter{Run: "run-5"}, 0), []string{"deliveries_get_or_create_key"}, []string{"Filter: (workflow_run"}, 3},
		"ids":   {list(st, store.Filter{IDs: []int64{1, 2}}, 0), []string{"Index Cond: (id = ANY"}, nil, 2},
		"uuids": {list(st, store.Filter{UUIDs: []string{uuid}}, 0), []string{"deliveries_delivery_uuid_key", "Index Cond: (id = ANY"}, nil, 1},
		"get": {func() (int, error) { _, attempts, err := st.Get(t.Context(), 3, ""); return len(attempts), err },
			[]string{"deliveries_pkey", "Scan Backward using attempts_pkey"}, nil, 1},
		"get by uuid": {func() (int, error) { _, attempts, err := st.Get(t.Context(), 0, uuid); return len(attempts), err },
			[]string{"deliveries_delivery_uuid_key", "Scan Backward using attempts_pkey"}, nil, 1},
		"count": {func() (int, error) {
			n, err := st.Count(t.Context(), store.ActionReplay, store.Filter{})
			assert.Equal(t, map[delivery.Status]int{"dead_letter": 399, "canceled": 100}, n)
			return total(n), err
		},
			[]string{"deliveries_status_idx"}, []string{"Filter: (status"}, 499},
		// Only the newest 100,000 of what the other filters leave are looked at.
		"endpoint":             {list(st, store.Filter{Endpoint: "RARE"}, 0), []string{"deliveries_pkey"}, nil, 1},
		"endpoint of a status": {list(st, store.Filter{Endpoint: "RARE", Statuses: []delivery.Status{"dead_letter"}}, 0), []string{"deliveries_(status|dead_letter)"}, nil, 1},
		"endpoint, count": {func() (int, error) {
			n, err := st.Count(t.Context(), store.ActionReplay, store.Filter{Endpoint: "rare", Statuses: []delivery.Status{"succeeded"}})
			return total(n), err
		}, []string{"deliveries_pkey"}, nil, 1},
		"endpoint of an organization": {list(st, store.Filter{Endpoint: "RARE", Organization: "small"}, 0), []string{"deliveries_org_idx"}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: they share the recorder
			n, err := test.do()
			require.NoError(t, err)
			assert.Equal(t, test.rows, n)
			plan := statements.plans(t, b)
			require.NotEmpty(t, plan)
			assert.NotContains(t, plan, "Seq Scan")
			for _, index := range test.indexes {
				assert.Regexp(t, quoteParentheses(index), plan)
			}
			for _, not := range test.not {
				assert.NotContains(t, plan, not)
			}
		})
	}

	// An action: the window of the endpoint is fixed at its start, and a page of it walks the statuses.
	result, err := st.Replay(t.Context(), store.Filter{Endpoint: "rare", Statuses: []delivery.Status{"succeeded", "dead_letter"}}, "", nil)
	require.NoError(t, err)
	assert.Equal(t, store.Result{Changed: 1}, result)
	assert.Equal(t, []int64{250_001}, pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.deliveries WHERE round > 0`))
	plan := statements.plans(t, b)
	assert.NotContains(t, plan, "Seq Scan")
	assert.Contains(t, plan, "LockRows")
	assert.Regexp(t, `deliveries_(status|dead_letter)`, plan)
}

// quoteParentheses makes a piece of a plan an expression.
func quoteParentheses(s string) string {
	if strings.Contains(s, "(status|") {
		return s
	}
	return strings.NewReplacer("(", `\(`, ")", `\)`).Replace(s)
}

func total(numbers map[delivery.Status]int) (n int) {
	for _, of := range numbers {
		n += of
	}
	return n
}

func list(st *store.Store, f store.Filter, before int64) func() (int, error) {
	return func() (int, error) {
		rows, err := st.List(context.Background(), f, before, 10)
		return len(rows), err
	}
}
