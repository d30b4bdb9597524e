package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/egress"
)

// What runs in the child of river and steps has River's settings, and the numbers of connections, that riverhook's node has
// by default.
const (
	nodeConcurrency       = 2000
	nodeFetchCooldown     = 10 * time.Millisecond
	nodeFetchPollInterval = 100 * time.Millisecond
	nodeJobTimeout        = time.Minute
	nodeRescueAfter       = 150 * time.Second
	nodeRiverConns        = 10
	nodeStepConns         = 9 // for claims, records and everything else; River's listener has the twentieth connection
	nodeAttemptTimeout    = 30 * time.Second
)

// The lines by which a child of river says how far it is.
const (
	firstJob = "first"
	lastJob  = "last"
)

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// noopArgs is a job that does nothing.
type noopArgs struct {
	N int `json:"n"`
}

// Kind is its name.
func (noopArgs) Kind() string { return "bench_noop" }

type noopWorker struct {
	river.WorkerDefaults[noopArgs]

	jobs int64
	done atomic.Int64
	out  io.Writer
}

// Work says when it does the first job and the last one.
func (w *noopWorker) Work(context.Context, *river.Job[noopArgs]) error {
	switch w.done.Add(1) {
	case 1:
		fmt.Fprintln(w.out, firstJob, time.Now().UnixNano())
		if w.jobs > 1 {
			break
		}
		fallthrough
	case w.jobs:
		fmt.Fprintln(w.out, lastJob, time.Now().UnixNano())
	}
	return nil
}

// WorkRiver works no-op jobs until ctx ends, and says on out when it began the first of them and the last.
func WorkRiver(ctx context.Context, database *pgxpool.Config, schema string, jobs int, out io.Writer) error {
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{jobs: int64(jobs), out: out})
	return workUntil(ctx, database, schema, river.QueueDefault, workers)
}

// workUntil runs River as riverhook's node does.
func workUntil(ctx context.Context, database *pgxpool.Config, schema, queue string, workers *river.Workers) error {
	pool, err := newPool(database, nodeRiverConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema:                      schema,
		Logger:                      silent(),
		Workers:                     workers,
		Queues:                      map[string]river.QueueConfig{queue: {MaxWorkers: nodeConcurrency}},
		MaxAttempts:                 1,
		JobTimeout:                  nodeJobTimeout,
		RescueStuckJobsAfter:        nodeRescueAfter,
		FetchCooldown:               nodeFetchCooldown,
		FetchPollInterval:           nodeFetchPollInterval,
		CompletedJobRetentionPeriod: time.Hour,
		SoftStopTimeout:             nodeAttemptTimeout + 5*time.Second,
	})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	<-client.Stopped()
	return nil
}

func newPool(database *pgxpool.Config, size int32) (*pgxpool.Pool, error) {
	config := database.Copy()
	config.MaxConns, config.MinConns, config.MinIdleConns = size, 0, 0
	return pgxpool.NewWithConfig(context.Background(), config)
}

// stepWorker delivers in the plain way: the claim is a transaction, the request is sent, and the record is a transaction.
// It logs nothing, signs nothing and knows no credentials, which is in its favor.
type stepWorker struct {
	river.WorkerDefaults[delivery.JobArgs]

	pool                  *pgxpool.Pool
	transport             http.RoundTripper
	claim, record, ledger string
}

const (
	stepClaimSQL = `
UPDATE {schema}.deliveries
   SET claim = claim + 1, claimed_by = 'steps', leased_until = now() + interval '90 seconds', updated_at = now()
 WHERE id = $1 AND claim = $2 AND status = 'pending' AND claimed_by IS NULL AND (scheduled_for IS NULL OR scheduled_for <= now())
RETURNING claim, delivery_uuid::text, endpoint_url, http_method, payload::text`
	stepRecordSQL = `
UPDATE {schema}.deliveries
   SET status = $3, scheduled_for = NULL, finished_at = now(), claimed_by = NULL, leased_until = NULL, attempt_count = 1,
       last_status_code = $4, updated_at = now()
 WHERE id = $1 AND claim = $2 AND claimed_by = 'steps'`
	stepLedgerSQL = `
INSERT INTO {schema}.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, response_body, node)
VALUES ($1, 0, 1, now() - make_interval(secs => $2), $3, $4, $5, $6, $7, 'steps')`
)

// WorkSteps delivers one transaction at a time until ctx ends.
func WorkSteps(ctx context.Context, database *pgxpool.Config, schema string) error {
	pool, err := newPool(database, nodeStepConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	guard := egress.NewGuard(egress.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	workers := river.NewWorkers()
	river.AddWorker(workers, &stepWorker{
		pool: pool, transport: egress.NewTransport(guard),
		claim: in(schema, stepClaimSQL), record: in(schema, stepRecordSQL), ledger: in(schema, stepLedgerSQL),
	})
	return workUntil(ctx, database, schema, delivery.JobQueue, workers)
}

// Work does one job.
func (w *stepWorker) Work(ctx context.Context, job *river.Job[delivery.JobArgs]) error {
	id := job.Args.DeliveryID
	var claim int64
	var uuid, url, method, body string
	err := w.pool.QueryRow(ctx, w.claim, id, job.Args.Claim).Scan(&claim, &uuid, &url, &method, &body)
	if err != nil {
		return err
	}
	started := time.Now()
	status, answer, err := w.send(ctx, uuid, url, method, body)
	if err != nil {
		return err
	}
	outcome, result, failure := delivery.OutcomeSucceeded, delivery.StatusSucceeded, any(nil)
	if status < 200 || status > 299 {
		outcome, result, failure = delivery.OutcomePermanent, delivery.StatusDeadLetter, string(delivery.FailureStatus)
	}
	took := time.Since(started)
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, w.record, id, claim, string(result), status); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, w.ledger, id, took.Seconds(), took.Milliseconds(), string(outcome), failure, status, answer)
		return err
	})
}

func (w *stepWorker) send(ctx context.Context, uuid, url, method, body string) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, nodeAttemptTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(deliveryIDHeader, uuid)
	response, err := w.transport.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 8<<10))
	return response.StatusCode, answer, err
}
