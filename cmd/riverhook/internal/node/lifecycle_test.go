package node_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/migrations/pgtest"
	"github.com/riverhook/riverhook/sweeper"
)

// answers is a receiver that answers the n-th request of each delivery with the n-th status, and the last one from then on.
func answers(t testing.TB, statuses ...int) *receiver {
	return newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		n, _ := strconv.Atoi(q.Header.Get("X-Riverhook-Delivery-Attempt"))
		w.WriteHeader(statuses[min(n, len(statuses))-1])
		_, _ = fmt.Fprint(w, "answer ", n)
	})
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	start(t, config(t, db))

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	ok := answers(t, 200)
	hanging := newReceiver(t, func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })
	redirecting := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, ok.URL+"/elsewhere", http.StatusFound)
	})

	cases := []struct {
		name     string
		url      string
		more     []any
		row      string
		ledger   []string
		requests int // of the delivery, when it has a receiver
		receiver *receiver
	}{
		{name: "success", receiver: ok, row: "succeeded round 0 attempts 1 abandoned 0 200 -", ledger: []string{"0.1 succeeded 200"}, requests: 1},
		{name: "any 2xx", receiver: answers(t, 299), row: "succeeded round 0 attempts 1 abandoned 0 299 -", ledger: []string{"0.1 succeeded 299"}, requests: 1},
		{name: "transient, then success", receiver: answers(t, 503, 429, 204), row: "succeeded round 0 attempts 3 abandoned 0 204 -",
			ledger: []string{"0.1 transient status 503", "0.2 transient status 429", "0.3 succeeded 204"}, requests: 3},
		{name: "permanent", receiver: answers(t, 404), row: "dead_letter round 0 attempts 1 abandoned 0 404 -",
			ledger: []string{"0.1 permanent status 404"}, requests: 1},
		{name: "redirect", receiver: redirecting, row: "dead_letter round 0 attempts 1 abandoned 0 302 -",
			ledger: []string{"0.1 permanent status 302"}, requests: 1},
		{name: "exhausted", receiver: answers(t, 500), row: "dead_letter round 0 attempts 3 abandoned 0 500 -",
			ledger: []string{"0.1 transient status 500", "0.2 transient status 500", "0.3 transient status 500"}, requests: 3},
		{name: "its own max_attempts", receiver: answers(t, 500), more: []any{"max_attempts", 1},
			row: "dead_letter round 0 attempts 1 abandoned 0 500 -", ledger: []string{"0.1 transient status 500"}, requests: 1},
		{name: "refused", url: "http://" + closed.Addr().String(), more: []any{"max_attempts", 2},
			row: "dead_letter round 0 attempts 2 abandoned 0 - -", ledger: []string{"0.1 transient refused", "0.2 transient refused"}},
		{name: "name does not resolve", url: "http://receiver.invalid/", more: []any{"max_attempts", 1},
			row: "dead_letter round 0 attempts 1 abandoned 0 - -", ledger: []string{"0.1 transient dns"}},
		{name: "timeout", receiver: hanging, more: []any{"max_attempts", 1},
			row: "dead_letter round 0 attempts 1 abandoned 0 - -", ledger: []string{"0.1 transient timeout"}, requests: 1},
		{name: "no URL", url: "not a url", row: "dead_letter round 0 attempts 1 abandoned 0 - -", ledger: []string{"0.1 permanent invalid"}},
		{name: "bad header", receiver: ok, more: []any{"custom_headers", `[{"key":"a b","value":"c"}]`},
			row: "dead_letter round 0 attempts 1 abandoned 0 - -", ledger: []string{"0.1 permanent invalid"}},
		{name: "unknown credential", receiver: ok, more: []any{"credential_uuid", "4a4c1d5e-0000-4000-8000-000000000000", "max_attempts", 1},
			row: "dead_letter round 0 attempts 1 abandoned 0 - -", ledger: []string{"0.1 transient credential"}},
		{name: "payload too large", receiver: ok, more: []any{"payload", `"` + string(make0(2<<20)) + `"`},
			row: "dead_letter round 0 attempts 1 abandoned 0 - -", ledger: []string{"0.1 permanent invalid"}},
	}
	for status := range delivery.DefaultRetryable().All() {
		cases = append(cases, cases[0])
		c := &cases[len(cases)-1]
		c.name, c.receiver, c.requests = fmt.Sprint("retryable ", status), answers(t, status, 200), 2
		c.row = "succeeded round 0 attempts 2 abandoned 0 200 -"
		c.ledger = []string{fmt.Sprint("0.1 transient status ", status), "0.2 succeeded 200"}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := c.url
			if c.receiver != nil {
				url = c.receiver.URL + "/hook"
			}
			id := insert(t, db, url, c.more...)
			eventually(t, db, c.row, rowSQL, id)
			assert.Equal(t, c.ledger, ledger(t, db, id))
			uuid := pgtest.Scalar[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = $1`, id)
			if c.receiver != nil {
				assert.Equal(t, c.requests, c.receiver.countOf(uuid))
			}
			assert.True(t, pgtest.Scalar[bool](t, db, `SELECT (status = 'succeeded') = (last_error IS NULL) AND finished_at IS NOT NULL
				AND scheduled_for IS NULL AND leased_until IS NULL FROM riverhook.deliveries WHERE id = $1`, id), "a terminal row is clean")
			for _, text := range pgtest.Column[string](t, db, `SELECT error FROM riverhook.attempts WHERE delivery_id = $1 AND outcome <> 'succeeded'`, id) {
				assert.NotEmpty(t, text)
				assert.NotContains(t, text, "127.0.0.1", "an error names no address")
			}
		})
	}
	t.Cleanup(func() { assert.Zero(t, ok.countPath("/elsewhere"), "a redirect is never followed") })
}

func make0(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = '0'
	}
	return b
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	start(t, config(t, db))
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte("no \x00 good \xff" + string(make0(300))))
	})
	id := insert(t, db, r.URL)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	want := "HTTP 400: no \uFFFD good \uFFFD" + string(make0(200-11))
	assert.Equal(t, want, pgtest.Scalar[string](t, db, `SELECT last_error FROM riverhook.deliveries WHERE id = $1`, id))
	assert.Equal(t, []byte("no \x00 good \xff"+string(make0(300))), pgtest.Scalar[[]byte](t, db, `SELECT response_body FROM riverhook.attempts WHERE delivery_id = $1`, id))
}

func TestRequest(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	start(t, config(t, db))
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "post"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, nil)
			payload := `{ "b" : 1.50, "a": "ü\u0000" }`
			id := insert(t, db, r.URL+"/path?q=1", "http_method", method, "payload", payload, "workflow_run_id", "run 7",
				"custom_headers", `[{"key":"X-Custom","value":"1"},{"key":"","value":"x"},{"key":"x-riverhook-delivery-id","value":"forged"},{"key":"Idempotency-Key","value":"k"}]`)
			eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
			got := r.all()[0]
			uuid := pgtest.Scalar[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = $1`, id)
			if method == "GET" || method == "DELETE" {
				payload = ""
			}
			assert.Equal(t, payload, got.body)
			for name, value := range map[string]string{
				"X-Riverhook-Delivery-Id": uuid, "X-Riverhook-Workflow-Run-Id": "run 7", "X-Riverhook-Delivery-Attempt": "1",
				"Webhook-Id": uuid, "Content-Type": "application/json", "User-Agent": "riverhook/test", "X-Custom": "1", "Idempotency-Key": "k",
			} {
				assert.Equal(t, []string{value}, got.header[name], name)
			}
		})
	}
}

// One request per ledger row, whatever net/http thinks may be repeated: the receiver reads each request on a reused
// connection and closes it without an answer.
func TestOneRequestPerAttempt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	c := config(t, db)
	c.Concurrency = 1 // one connection, so that it is reused
	start(t, c)
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		var requests atomic.Int64
		r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
			if requests.Add(1)%2 == 0 {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					_ = conn.Close()
				}
			}
		})
		for range 6 {
			id := insert(t, db, r.URL, "http_method", method, "custom_headers", `[{"key":"Idempotency-Key","value":"k"},{"key":"x-idempotency-key","value":"k"}]`)
			eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
		}
		assert.Equal(t, pgtest.Scalar[int64](t, db, `SELECT count(*) FROM riverhook.attempts a JOIN riverhook.deliveries d ON d.id = a.delivery_id WHERE d.endpoint_url = $1`, r.URL),
			int64(r.count()), method)
		assert.Greater(t, r.count(), 6, "%s: some attempts were cut off", method)
	}
}

func TestDuplicateJobsSendOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	ids := make([]int64, 20)
	for i := range ids {
		ids[i] = insert(t, db, r.URL)
	}
	db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, queue, max_attempts) SELECT kind, args, queue, max_attempts
		FROM riverhook.river_job, generate_series(1, 30) WHERE kind = 'deliver_webhook'`)
	start(t, config(t, db))
	second := config(t, db)
	start(t, second)
	eventually(t, db, 20, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'deliver_webhook' AND state <> 'completed'`)
	assert.Equal(t, 20, r.count())
	assert.Equal(t, 20, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`))
}

// A job ends with the record of its attempt, in one transaction: where there is an outcome there is no job that a crash
// could leave behind, and a queue of millions a day stays small.
func TestRecordEndsTheJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE FUNCTION job_of_an_outcome() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF EXISTS (SELECT FROM riverhook.river_job WHERE kind = 'deliver_webhook' AND state = 'running') THEN RAISE 'the job is still there'; END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER job_of_an_outcome AFTER UPDATE ON riverhook.deliveries DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.status = 'succeeded') EXECUTE FUNCTION job_of_an_outcome()`)
	id := insert(t, db, newReceiver(t, nil).URL)
	start(t, config(t, db))
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'deliver_webhook'`))
}

func TestNotYetDue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	id := insert(t, db, r.URL, "scheduled_for", time.Now().Add(time.Hour))
	assert.Equal(t, "scheduled", pgtest.Scalar[string](t, db, `SELECT state::text FROM riverhook.river_job`))
	db.Exec(t, `UPDATE riverhook.river_job SET state = 'available', scheduled_at = now()`) // a job that comes too early
	start(t, config(t, db))
	eventually(t, db, "completed", `SELECT state::text FROM riverhook.river_job WHERE kind = 'deliver_webhook'`)
	assert.Equal(t, "pending round 0 attempts 0 abandoned 0 - -", pgtest.Scalar[string](t, db, rowSQL, id))
	assert.Zero(t, r.count())
}

func TestScheduledStartsWithinASecond(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	start(t, config(t, db))
	for _, delay := range []time.Duration{time.Second, 12 * time.Second} { // available at once; promoted by the leader
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ($1, now() + make_interval(secs => $2)) RETURNING id`,
				r.URL, delay.Seconds())
			eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
			late := pgtest.Scalar[float64](t, db, `SELECT extract(epoch FROM a.started_at - d.created_at)::float8 - $2
				FROM riverhook.attempts a JOIN riverhook.deliveries d ON d.id = a.delivery_id WHERE d.id = $1`, id, delay.Seconds())
			assert.GreaterOrEqual(t, late, -0.001, "not before its time")
			// How late is no test of ours on a busy machine; a lost promotion would take a sweep or two.
			assert.Less(t, late, 10.0)
		})
	}
}

// gate is a receiver whose requests wait until they are let go.
type gate struct {
	*receiver
	open chan int // a status for one waiting request each
}

func newGate(t testing.TB) *gate {
	g := &gate{open: make(chan int, 1000)}
	g.receiver = newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		select {
		case status := <-g.open:
			w.WriteHeader(status)
		case <-q.Context().Done():
		}
	})
	return g
}

func (g *gate) wait(t testing.TB) request {
	t.Helper()
	select {
	case r := <-g.arrived:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("no request arrived")
		return request{}
	}
}

func TestCancelInFlight(t *testing.T) {
	t.Parallel()
	for status, outcome := range map[int]string{200: "0.1 succeeded 200", 503: "0.1 transient status 503"} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			g := newGate(t)
			start(t, config(t, db))
			id := insert(t, db, g.URL)
			g.wait(t)
			db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, id)
			assert.True(t, pgtest.Scalar[bool](t, db, `SELECT finished_at IS NULL AND claimed_by IS NOT NULL FROM riverhook.deliveries WHERE id = $1`, id))
			g.open <- status
			eventually(t, db, fmt.Sprint("canceled round 0 attempts 1 abandoned 0 ", status, " -"), rowSQL, id)
			assert.Equal(t, []string{outcome}, ledger(t, db, id))
			assert.True(t, pgtest.Scalar[bool](t, db, `SELECT finished_at IS NOT NULL FROM riverhook.deliveries WHERE id = $1`, id))
			assert.Equal(t, 1, g.count())
		})
	}
}

func TestCancelBeforeItIsSent(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	id := insert(t, db, r.URL)
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, id)
	start(t, config(t, db))
	eventually(t, db, "completed", `SELECT state::text FROM riverhook.river_job WHERE kind = 'deliver_webhook'`)
	assert.Equal(t, "canceled round 0 attempts 0 abandoned 0 - -", pgtest.Scalar[string](t, db, rowSQL, id))
	assert.Zero(t, r.count())
}

// A late outcome, of a claim that was taken away while its request was in flight, changes its own abandoned row in the
// ledger and nothing else.
func TestLateOutcome(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		steal  func(t *testing.T, db *pgtest.DB, id int64, sweep func())
		after  string   // the row after the second attempt, and still after the late outcome
		before []string // the ledger before the late outcome
		late   []string
	}{
		{
			name: "the lease ended",
			steal: func(t *testing.T, db *pgtest.DB, id int64, sweep func()) {
				db.Exec(t, `UPDATE riverhook.deliveries SET leased_until = now() - interval '1 second' WHERE id = $1`, id)
				sweep()
			},
			after:  "succeeded round 0 attempts 2 abandoned 0 200 -",
			before: []string{"0.1 abandoned", "0.2 succeeded 200"},
			late:   []string{"0.1 transient status 503", "0.2 succeeded 200"},
		}, {
			name: "canceled and replayed within the lease",
			steal: func(t *testing.T, db *pgtest.DB, id int64, _ func()) {
				db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, id)
				db.Exec(t, `UPDATE riverhook.deliveries SET status = 'pending' WHERE id = $1`, id)
			},
			after:  "succeeded round 1 attempts 1 abandoned 0 200 -",
			before: []string{"0.1 abandoned", "1.1 succeeded 200"},
			late:   []string{"0.1 transient status 503", "1.1 succeeded 200"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			first, second := newGate(t), newReceiver(t, nil)
			n, _ := start(t, config(t, db))
			id := insert(t, db, first.URL)
			first.wait(t)
			db.Exec(t, `UPDATE riverhook.deliveries SET endpoint_url = $2 WHERE id = $1`, id, second.URL)
			c.steal(t, db, id, func() {
				if _, err := n.NewSweeper().Sweep(context.Background()); !errors.Is(err, sweeper.ErrRunning) {
					require.NoError(t, err)
				} // otherwise the node is at it itself
			})
			eventually(t, db, c.after, rowSQL, id)
			assert.Equal(t, c.before, ledger(t, db, id))
			first.open <- 503
			eventually(t, db, c.late[0], `SELECT concat_ws(' ', round || '.' || attempt, outcome, failure_kind, status_code)
				FROM riverhook.attempts WHERE delivery_id = $1 ORDER BY round, attempt LIMIT 1`, id)
			assert.Equal(t, c.late, ledger(t, db, id))
			assert.Equal(t, c.after, pgtest.Scalar[string](t, db, rowSQL, id))
			assert.Equal(t, first.all()[0].header["X-Riverhook-Delivery-Id"], second.all()[0].header["X-Riverhook-Delivery-Id"])
		})
	}
}

// Delivered, but the record fails: not dead-lettered, sent again after the lease with the same id; and its neighbours in
// the batch are recorded.
func TestRecordFails(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	g := newGate(t)
	c := config(t, db)
	c.Timeout, c.Lease = time.Second, 3*time.Second
	start(t, c)
	bad := insert(t, db, g.URL, "webhook_name", "bad")
	db.Exec(t, `CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.attempt = 1 AND NEW.outcome <> 'abandoned' AND (SELECT webhook_name FROM riverhook.deliveries WHERE id = NEW.delivery_id) = 'bad' THEN
			RAISE EXCEPTION 'bad row' USING ERRCODE = '22000';
		END IF; RETURN NEW; END $$`)
	db.Exec(t, `CREATE TRIGGER fail BEFORE INSERT ON riverhook.attempts FOR EACH ROW EXECUTE FUNCTION public.fail()`)
	for range 9 {
		insert(t, db, g.URL)
	}
	for range 10 {
		g.wait(t)
		defer func() { g.open <- 200 }() // should a wait fail
	}
	for range 10 {
		g.open <- 200
	}
	eventually(t, db, 9, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Regexp(t, `^pending round 0 attempts 0 abandoned 0 - .+`, pgtest.Scalar[string](t, db, rowSQL, bad), "still claimed")
	g.open <- 200
	eventually(t, db, "succeeded round 0 attempts 2 abandoned 0 200 -", rowSQL, bad)
	assert.Equal(t, []string{"0.1 abandoned", "0.2 succeeded 200"}, ledger(t, db, bad))
	uuid := pgtest.Scalar[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = $1`, bad)
	assert.Equal(t, 2, g.countOf(uuid))
	assert.Equal(t, 11, g.count())
}

// A row that somebody holds the lock of does not delay the others of its batch, neither at the claim nor at the record.
func TestLockedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	g := newGate(t)
	start(t, config(t, db))
	ids := make([]int64, 50)
	for i := range ids {
		ids[i] = insert(t, db, g.URL)
	}
	for range ids {
		g.wait(t)
	}
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, ids[25])
	require.NoError(t, err)
	for range ids {
		g.open <- 200
	}
	eventually(t, db, 49, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	require.NoError(t, tx.Rollback(ctx))
	eventually(t, db, 50, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, 50, g.count())
	assert.Equal(t, []string{"0.1 succeeded 200"}, ledger(t, db, ids[25]))
}

func TestClaimOfALockedRowWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	ids := []int64{insert(t, db, r.URL), insert(t, db, r.URL)}
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, ids[0])
	require.NoError(t, err)
	start(t, config(t, db))
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, ids[1])
	require.NoError(t, tx.Rollback(ctx))
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, ids[0])
	assert.Equal(t, 2, r.count())
}

func TestReplay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status string
		answer int
		prep   string
	}{{"succeeded", 200, ""}, {"dead_letter", 404, ""}, {"canceled", 503, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`}} {
		t.Run(c.status, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			g := newGate(t)
			start(t, config(t, db))
			id := insert(t, db, g.URL)
			for round := range 3 {
				g.wait(t)
				if c.prep != "" {
					db.Exec(t, c.prep, id)
				}
				g.open <- c.answer
				eventually(t, db, fmt.Sprintf("%s round %d attempts 1 abandoned 0 %d -", c.status, round, c.answer), rowSQL, id)
				db.Exec(t, `UPDATE riverhook.deliveries SET status = 'pending' WHERE id = $1 AND status = $2`, id, c.status)
			}
			g.wait(t)
			g.open <- 200
			eventually(t, db, "succeeded round 3 attempts 1 abandoned 0 200 -", rowSQL, id)
			assert.Len(t, ledger(t, db, id), 4)
			assert.Equal(t, 4, g.count())
		})
	}
}

func TestReplayElsewhereLater(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bad, good := answers(t, 410), newReceiver(t, nil)
	start(t, config(t, db))
	id := insert(t, db, bad.URL)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'pending', endpoint_url = $2, scheduled_for = now() + interval '1 second' WHERE id = $1`, id, good.URL)
	assert.Equal(t, "pending round 1 attempts 0 abandoned 0 410 -", pgtest.Scalar[string](t, db, rowSQL, id))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT scheduled_for > now() FROM riverhook.deliveries WHERE id = $1`, id))
	eventually(t, db, "succeeded round 1 attempts 1 abandoned 0 200 -", rowSQL, id)
	assert.Equal(t, []int{1, 1}, []int{bad.count(), good.count()})
}

func TestRetryNow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	start(t, config(t, db))
	id := insert(t, db, r.URL, "scheduled_for", time.Now().Add(5*time.Hour))
	assert.Equal(t, "scheduled", pgtest.Scalar[string](t, db, `SELECT state::text FROM riverhook.river_job WHERE kind = 'deliver_webhook'`))
	db.Exec(t, `UPDATE riverhook.deliveries SET scheduled_for = now() WHERE id = $1 AND status = 'pending'`, id)
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
	assert.Equal(t, 1, r.count())
}

// All pools together stay within the one setting.
func TestConnections(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	g := newGate(t)
	c := config(t, db)
	c.MaxConns = node.MinConns
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 500)`, g.URL)
	start(t, c)
	most := 0
	for range 500 {
		g.wait(t)
		g.open <- 200
		most = max(most, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'riverhook %'`))
	}
	eventually(t, db, 500, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Greater(t, most, 3)
	assert.LessOrEqual(t, most, node.MinConns)
}

func TestPollOnly(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := answers(t, 503, 200)
	c := config(t, db)
	c.PollOnly = true
	start(t, c)
	id := insert(t, db, r.URL)
	eventually(t, db, "succeeded round 0 attempts 2 abandoned 0 200 -", rowSQL, id)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'`))
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("X-Riverhook-Delivery-Attempt") == "1" {
			w.Header().Set("Retry-After", "100000") // capped by the policy's second
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	start(t, config(t, db))
	id := insert(t, db, r.URL)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	gap := pgtest.Scalar[float64](t, db, `SELECT extract(epoch FROM max(started_at) - min(started_at))::float8 FROM riverhook.attempts WHERE delivery_id = $1`, id)
	assert.GreaterOrEqual(t, gap, 1.0)
}
