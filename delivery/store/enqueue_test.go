package store_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtemp"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

const (
	jobsSQL = `SELECT count(*)::int FROM riverhook.river_job`
	rowsSQL = `SELECT count(*)::int FROM riverhook.deliveries`
	// matchedSQL counts the rows whose job is the one that River's unique key says.
	matchedSQL = `SELECT count(*)::int FROM riverhook.deliveries d JOIN riverhook.river_job j
		ON (j.args->>'delivery_id')::bigint = d.id AND (j.args->>'claim')::bigint = d.claim AND j.unique_key = riverhook.delivery_job_key(d.id, d.claim)`
)

// uniqueStates are those of every delivery's job: while a job is in one of them, there is no second with the same key.
var uniqueStates = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// asApplication connects as a role that may do what an application may, and nothing else.
func asApplication(t testing.TB, db *pgtest.DB) *pgx.Conn {
	t.Helper()
	random := make([]byte, 6)
	_, _ = rand.Read(random)
	role := "rh_app_" + hex.EncodeToString(random)
	ctx := context.Background()
	db.Exec(t, `CREATE ROLE `+role+` LOGIN`)
	t.Cleanup(func() {
		db.Exec(t, `DROP OWNED BY `+role)
		db.Exec(t, `DROP ROLE `+role)
	})
	require.NoError(t, migrations.Grant(ctx, db.Pool, db.Schema, role, "application"))
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	config.User = role
	config.RuntimeParams["search_path"] = "elsewhere"
	conn, err := pgx.ConnectConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn
}

// The trigger's job is, column by column, what River's own client inserts for the same arguments.
func TestJobIsRivers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/') RETURNING id`)
	later := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ('http://a/', now() + interval '1 hour') RETURNING id`)
	db.Exec(t, `ALTER TABLE riverhook.river_job RENAME TO ours; CREATE TABLE riverhook.river_job (LIKE riverhook.ours INCLUDING ALL)`)

	client, err := river.NewClient(riverpgxv5.New(db.Pool), &river.Config{Schema: db.Schema})
	require.NoError(t, err)
	opts := river.InsertOpts{
		MaxAttempts: 1, Queue: delivery.JobQueue,
		UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: uniqueStates},
	}
	_, err = client.Insert(ctx, delivery.JobArgs{DeliveryID: id}, &opts)
	require.NoError(t, err)
	opts.ScheduledAt = pgtest.Scalar[time.Time](t, db, `SELECT scheduled_for FROM riverhook.deliveries WHERE id = $1`, later)
	_, err = client.Insert(ctx, delivery.JobArgs{DeliveryID: later}, &opts)
	require.NoError(t, err)

	// All of a row, but for its number and (where now is meant) its times.
	const image = `SELECT (to_jsonb(j) - 'id' - 'created_at' - CASE WHEN state = 'available' THEN 'scheduled_at' ELSE '' END)::text FROM riverhook.%s j ORDER BY id`
	assert.Equal(t, pgtest.Column[string](t, db, fmt.Sprintf(image, "river_job")), pgtest.Column[string](t, db, fmt.Sprintf(image, "ours")))

	db.Exec(t, `DROP TABLE riverhook.river_job CASCADE; ALTER TABLE riverhook.ours RENAME TO river_job`)
	opts.ScheduledAt = time.Time{}
	result, err := client.Insert(ctx, delivery.JobArgs{DeliveryID: id}, &opts)
	require.NoError(t, err)
	assert.True(t, result.UniqueSkippedAsDuplicate, "River takes the trigger's job for its own")
}

func TestPsqlInATransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	script(t, db.URL, `
		CREATE TABLE public.orders (id int);
		BEGIN;
		INSERT INTO public.orders VALUES (1);
		INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ('https://example.com/hook', '{"event":"call.done"}');
		SAVEPOINT s;
		INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://rolled.back/to/the/savepoint');
		ROLLBACK TO SAVEPOINT s;
		INSERT INTO public.orders VALUES (2);
		COMMIT;
		BEGIN;
		INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://rolled.back/');
		ROLLBACK;`)
	assert.Equal(t, []string{"https://example.com/hook"}, pgtest.Column[string](t, db, `SELECT endpoint_url FROM riverhook.deliveries`))
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, jobsSQL))
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, matchedSQL))
}

// script runs a script as a user would: with psql.
func script(t testing.TB, url, text string) {
	t.Helper()
	psql, err := exec.LookPath("psql")
	if err != nil {
		bin, err := pgtemp.Find()
		require.NoError(t, err)
		psql = filepath.Join(bin, "psql")
	}
	command := exec.CommandContext(t.Context(), psql, "-X", "-v", "ON_ERROR_STOP=1", "-q", "-d", url)
	command.Stdin = strings.NewReader(text)
	out, err := command.CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestBulk(t *testing.T) {
	t.Parallel()
	const n = 100_000
	for name, insert := range map[string]func(t *testing.T, conn *pgx.Conn){
		"multi-row": func(t *testing.T, conn *pgx.Conn) {
			_, err := conn.Exec(context.Background(), `INSERT INTO riverhook.deliveries (endpoint_url, payload)
				SELECT 'http://a/' || i, json_build_object('i', i) FROM generate_series(1, $1) i`, n)
			require.NoError(t, err)
		},
		"COPY": func(t *testing.T, conn *pgx.Conn) {
			copied, err := conn.CopyFrom(context.Background(), pgx.Identifier{"riverhook", "deliveries"}, []string{"endpoint_url", "payload"},
				pgx.CopyFromSlice(n, func(i int) ([]any, error) { return []any{fmt.Sprint("http://a/", i), []byte(`{}`)}, nil }))
			require.NoError(t, err)
			require.EqualValues(t, n, copied)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			insert(t, asApplication(t, db))
			assert.Equal(t, n, pgtest.Scalar[int](t, db, rowsSQL))
			assert.Equal(t, n, pgtest.Scalar[int](t, db, jobsSQL))
			assert.Equal(t, n, pgtest.Scalar[int](t, db, matchedSQL))
		})
	}
}

func TestExplicitNulls(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := asApplication(t, db)
	_, err := conn.Exec(context.Background(), `INSERT INTO riverhook.deliveries (delivery_uuid, organization_id, workflow_run_id, webhook_node_id,
			webhook_name, endpoint_url, http_method, payload, custom_headers, credential_uuid, max_attempts, scheduled_for)
		VALUES (NULL, NULL, NULL, NULL, NULL, 'http://a/', NULL, NULL, NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL, NULL, 'http://a/', NULL, NULL, NULL, NULL, NULL, NULL)`)
	require.NoError(t, err)
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE organization_id = 'default' AND http_method = 'POST'
		AND payload::text = '{}' AND scheduled_for <= now() AND delivery_uuid IS NOT NULL AND status = 'pending'`))
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, matchedSQL))
}

// Without one of the application's, a delivery has a UUID of version 7, whatever way it comes in.
func TestUUIDsInOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := asApplication(t, db)
	before := time.Now()
	for _, insert := range []string{
		`INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/'), ('http://a/')`,
		`INSERT INTO riverhook.deliveries (endpoint_url, delivery_uuid) VALUES ('http://a/', NULL), ('http://a/', DEFAULT)`,
	} {
		_, err := conn.Exec(t.Context(), insert)
		require.NoError(t, err)
	}
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = store.EnqueueTx(t.Context(), tx, store.NewDelivery{EndpointURL: "http://a/"})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	uuids := pgtest.Column[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries ORDER BY id`)
	require.Len(t, uuids, 5)
	for _, uuid := range uuids {
		assert.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, uuid)
		ms, err := strconv.ParseInt(uuid[:8]+uuid[9:13], 16, 64)
		require.NoError(t, err)
		assert.WithinRange(t, time.UnixMilli(ms), before.Add(-time.Minute), time.Now().Add(time.Minute))
	}
	assert.Equal(t, "0189f7fa-6c00-4000-8000-000000000000", pgtest.Scalar[string](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, delivery_uuid)
		VALUES ('http://a/', '0189f7fa-6c00-4000-8000-000000000000') RETURNING delivery_uuid::text`))
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	long := strings.Repeat("a", 5000)
	for url, want := range map[string]string{
		"https://Example.com/Hook?a=b#c":             "https://example.com",
		"https://example.com/hook":                   "https://example.com",
		"http://example.com":                         "http://example.com",
		"http://127.0.0.1:8080/hook":                 "http://127.0.0.1:8080",
		"http://example.com:8080":                    "http://example.com:8080",
		"http://example.com:080/":                    "http://example.com:080",
		"http://example.com:123456/":                 "",
		"http://example.com:/":                       "http://example.com:",
		"http://example.com:80?x":                    "http://example.com",
		"http://a:1:2/":                              "",
		"http://a:b/":                                "",
		"http:///x":                                  "",
		"http://:80/":                                "",
		"http:x//y":                                  "",
		"ftp://example.com/":                         "ftp://example.com",
		"https://example.com?x=/y":                   "https://example.com",
		"https://example.com#/y":                     "https://example.com",
		"https://example.com:444#/y":                 "https://example.com:444",
		"HTTP://example.com:80":                      "http://example.com",
		"https://example.com:443/":                   "https://example.com",
		"https://example.com:80/":                    "https://example.com:80",
		"http://example.com:443/":                    "http://example.com:443",
		"https://user:pa@ss:word@example.com:8443/x": "https://example.com:8443",
		"http://[2001:DB8::1]:8080/":                 "http://[2001:db8::1]:8080",
		"http://a?x=http://user@b":                   "http://a",
		"http://a#@b":                                "http://a",
		"http://user:hunter2#1@host/":                "",
		"http://user:hunter2/1@host/":                "",
		"http://ho st/":                              "",
		"http://host\\x/":                            "",
		"http://bücher.example:8080/":                "http://bücher.example:8080",
		"not a url":                                  "",
		"":                                           "",
		"/path":                                      "",
		"http://" + long + "/":                       ("http://" + long)[:300],
	} {
		got := pgtest.Scalar[string](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1) RETURNING coalesce(endpoint_origin, '')`, url)
		assert.Equal(t, want, got, url)
	}

	// It follows the URL, and nothing else.
	const of = ` RETURNING endpoint_origin`
	id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, endpoint_origin) VALUES ('http://a/1', 'http://b') RETURNING id`)
	assert.Equal(t, "http://a", pgtest.Scalar[string](t, db, `UPDATE riverhook.deliveries SET endpoint_origin = 'http://b' WHERE id = $1`+of, id))
	assert.Equal(t, "http://c", pgtest.Scalar[string](t, db, `UPDATE riverhook.deliveries SET endpoint_url = 'http://c/' WHERE id = $1`+of, id))
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context()) //nolint:errcheck // it is only looked at
	_, err = tx.Exec(t.Context(), `SET LOCAL session_replication_role = replica; CREATE SCHEMA mine; SET LOCAL search_path = mine, public`)
	require.NoError(t, err)
	var got string
	require.NoError(t, tx.QueryRow(t.Context(), `UPDATE riverhook.deliveries SET endpoint_url = 'http://d/' WHERE id = $1`+of, id).Scan(&got))
	assert.Equal(t, "http://d", got)
	require.NoError(t, tx.QueryRow(t.Context(), `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('HTTP://e/')`+of).Scan(&got))
	assert.Equal(t, "http://e", got)
}

func TestConstraints(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, values := range []string{
		`(endpoint_url) VALUES (NULL)`,
		`(endpoint_url, http_method) VALUES ('http://a/', 'HEAD')`,
		`(endpoint_url, max_attempts) VALUES ('http://a/', 0)`,
		`(endpoint_url, scheduled_for) VALUES ('http://a/', 'infinity')`,
		`(endpoint_url, status) VALUES ('http://a/', 'done')`,
		`(endpoint_url, payload) VALUES ('http://a/', '{')`,
	} {
		_, err := db.Pool.Exec(context.Background(), `INSERT INTO riverhook.deliveries `+values)
		require.Error(t, err, values)
	}
	assert.Zero(t, pgtest.Scalar[int](t, db, jobsSQL))
}

func TestScheduledFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for interval, want := range map[string]string{"-1 hour": "available", "0": "available", "9 seconds": "available", "11 seconds": "scheduled", "3 days": "scheduled"} {
		id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ('http://a/', now() + $1::text::interval) RETURNING id`, interval)
		assert.Equal(t, want, pgtest.Scalar[string](t, db, `SELECT state::text FROM riverhook.river_job WHERE (args->>'delivery_id')::bigint = $1`, id), interval)
		assert.True(t, pgtest.Scalar[bool](t, db, `SELECT j.scheduled_at = greatest(d.scheduled_for, d.created_at) FROM riverhook.river_job j
			JOIN riverhook.deliveries d ON (j.args->>'delivery_id')::bigint = d.id WHERE d.id = $1`, id), interval)
	}
}

func TestGetOrCreateBySQL(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := asApplication(t, db)
	const insert = `INSERT INTO riverhook.deliveries (endpoint_url, workflow_run_id, webhook_node_id) VALUES ('http://a/', $1, $2)
		ON CONFLICT (organization_id, workflow_run_id, webhook_node_id) DO NOTHING`
	for range 3 {
		_, err := conn.Exec(context.Background(), insert, "run", "node")
		require.NoError(t, err)
	}
	assert.Equal(t, [2]int{1, 1}, [2]int{pgtest.Scalar[int](t, db, rowsSQL), pgtest.Scalar[int](t, db, jobsSQL)})
	for range 2 { // one half of the key: no dedupe
		_, err := conn.Exec(context.Background(), insert, "run", nil)
		require.NoError(t, err)
	}
	assert.Equal(t, [2]int{3, 3}, [2]int{pgtest.Scalar[int](t, db, rowsSQL), pgtest.Scalar[int](t, db, jobsSQL)})
}

// The application's INSERT succeeds, and at once, whatever state River's table is in; the sweep gives the row its job.
func TestInsertWhileRiverIsOutOfOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ breakIt, mendIt string }{
		"locked": {`LOCK TABLE riverhook.river_job IN ACCESS EXCLUSIVE MODE`, ``},
		"gone":   {`ALTER TABLE riverhook.river_job RENAME TO river_job_away`, `ALTER TABLE riverhook.river_job_away RENAME TO river_job`},
		"full":   {`ALTER TABLE riverhook.river_job ADD CONSTRAINT full_up CHECK (false) NOT VALID`, `ALTER TABLE riverhook.river_job DROP CONSTRAINT full_up`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := asApplication(t, db)
			ctx := context.Background()
			tx, err := db.Pool.Begin(ctx)
			require.NoError(t, err)
			defer tx.Rollback(ctx) //nolint:errcheck // ends the lock
			_, err = tx.Exec(ctx, c.breakIt)
			require.NoError(t, err)
			if c.mendIt != "" {
				require.NoError(t, tx.Commit(ctx))
			}
			// A statement that waited for the lock would be ended by this.
			_, err = conn.Exec(ctx, `SET statement_timeout = '5s'`)
			require.NoError(t, err)
			_, err = conn.Exec(ctx, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
			require.NoError(t, err)
			if c.mendIt == "" {
				require.NoError(t, tx.Rollback(ctx))
			} else {
				db.Exec(t, c.mendIt)
			}
			assert.Equal(t, [2]int{1, 0}, [2]int{pgtest.Scalar[int](t, db, rowsSQL), pgtest.Scalar[int](t, db, jobsSQL)})
			page, err := store.New(db.Pool, db.Schema).SweepPage(ctx, store.SweepCursor{}, 100, nil)
			require.NoError(t, err)
			assert.Equal(t, 1, page.Requeued)
		})
	}
}

func TestPrepareTransaction(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"max_prepared_transactions": "5"})
	db := pgtest.NewOn(t, server.URL("postgres"))
	script(t, db.URL, `
		BEGIN;
		INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/');
		PREPARE TRANSACTION 'one';
		BEGIN;
		INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://b/');
		PREPARE TRANSACTION 'two';
		COMMIT PREPARED 'one';
		ROLLBACK PREPARED 'two';`)
	assert.Equal(t, []string{"http://a/"}, pgtest.Column[string](t, db, `SELECT endpoint_url FROM riverhook.deliveries`))
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, matchedSQL))
	assert.False(t, notifies(t, db, ""), "no NOTIFY where a transaction might be prepared")
	assert.True(t, notifies(t, db, "on"), "unless it is asked for")
}

func TestNotify(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	assert.True(t, notifies(t, db, ""))
	assert.False(t, notifies(t, db, "off"))
	db.Exec(t, `ALTER TABLE riverhook.deliveries ALTER scheduled_for SET DEFAULT now() + interval '1 hour'`)
	assert.False(t, notifies(t, db, ""), "nothing is due yet")
}

// notifies says whether an insert wakes River up, under a setting of riverhook.notify.
func notifies(t testing.TB, db *pgtest.DB, setting string) bool {
	t.Helper()
	ctx := context.Background()
	listener, err := pgx.Connect(ctx, db.URL)
	require.NoError(t, err)
	defer listener.Close(ctx) //nolint:errcheck // a test's
	_, err = listener.Exec(ctx, `LISTEN "riverhook.river_insert"`)
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('riverhook.notify', $1, true)`, setting); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
		return err
	}))
	// What was notified before this is delivered before it.
	db.Exec(t, `SELECT pg_notify('riverhook.river_insert', 'end')`)
	n, err := listener.WaitForNotification(ctx)
	require.NoError(t, err)
	if n.Payload != "end" {
		assert.JSONEq(t, `{"queue":"webhooks"}`, n.Payload)
	}
	return n.Payload != "end"
}

func TestEnqueueTx(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := asApplication(t, db)
	ctx := context.Background()
	enqueue := func(d store.NewDelivery, commit bool) (e store.Enqueued) {
		tx, err := conn.Begin(ctx)
		require.NoError(t, err)
		e, err = store.EnqueueTx(ctx, tx, d)
		require.NoError(t, err)
		if commit {
			require.NoError(t, tx.Commit(ctx))
		} else {
			require.NoError(t, tx.Rollback(ctx))
		}
		return e
	}
	plain := enqueue(store.NewDelivery{EndpointURL: "http://a/"}, true)
	assert.True(t, plain.Created)
	enqueue(store.NewDelivery{EndpointURL: "http://rolled.back/"}, false)

	full := store.NewDelivery{
		EndpointURL: "https://a/b", Payload: []byte(`{ "b": 1,  "a": 1.0}`), UUID: "018f0000-0000-7000-8000-000000000001", OrganizationID: "acme",
		WorkflowRunID: "r1", WebhookNodeID: "n1", WebhookName: "orders", Method: "put", Headers: map[string]string{"X-A": "b"},
		CredentialUUID: "018f0000-0000-7000-8000-000000000002", MaxAttempts: 7, ScheduledFor: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	first := enqueue(full, true)
	assert.Equal(t, store.Enqueued{ID: first.ID, UUID: full.UUID, Created: true}, first)
	again := full
	again.UUID, again.EndpointURL = "", "http://other/"
	assert.Equal(t, store.Enqueued{ID: first.ID, UUID: full.UUID, Created: false}, enqueue(again, true), "the same row")
	again.OrganizationID = "other"
	assert.True(t, enqueue(again, true).Created)

	assert.Equal(t, `https://a/b|{ "b": 1,  "a": 1.0}|acme|r1|n1|orders|put|[{"key": "X-A", "value": "b"}]|018f0000-0000-7000-8000-000000000002|7|2100-01-01 00:00:00+00|00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`,
		pgtest.Scalar[string](t, db, `SELECT concat_ws('|', endpoint_url, payload::text, organization_id, workflow_run_id, webhook_node_id, webhook_name, http_method,
			custom_headers, credential_uuid, max_attempts, scheduled_for, traceparent) FROM riverhook.deliveries WHERE id = $1`, first.ID))
	odd := enqueue(store.NewDelivery{EndpointURL: "http://a/", Traceparent: "no trace\x00\xff"}, false)
	assert.True(t, odd.Created, "what is not valid is ignored")
	assert.Equal(t, 3, pgtest.Scalar[int](t, db, rowsSQL))
	assert.Equal(t, 3, pgtest.Scalar[int](t, db, matchedSQL))

	_, err := store.EnqueueTx(ctx, nil, store.NewDelivery{})
	require.ErrorContains(t, err, "EndpointURL is empty")
	for _, bad := range []string{"ftp://a/", "http://u:secret@a/", "http:///x", "a", "http://a/" + strings.Repeat("x", 8192)} {
		_, err = store.EnqueueTx(ctx, nil, store.NewDelivery{EndpointURL: bad})
		require.ErrorContains(t, err, "endpoint_url", bad)
		assert.NotContains(t, err.Error(), "secret")
	}
	_, err = store.EnqueueTx(ctx, nil, store.NewDelivery{EndpointURL: "http://a/", Headers: map[string]string{"a b": "c"}})
	require.ErrorContains(t, err, "no header name")
	require.Error(t, pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := store.EnqueueTx(ctx, tx, store.NewDelivery{EndpointURL: "http://a/", Payload: []byte("{")})
		return err
	}))
}
