package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
)

// Attempt is one finished attempt with what was decided about it: what Record writes.
type Attempt struct {
	Fence    delivery.Fence
	Receiver Receiver // whom a reclaimed one was for; it is not stored
	Job      int64    // River's, which ends with the record; 0 when there is none
	Round    int
	Number   int               // 1-based within the round
	Started  time.Time         // monotonic: stored as "so long before now, by the database's clock"; zero: the time of the claim
	Duration time.Duration     // 0 when unknown
	Decision delivery.Decision // what becomes of the delivery

	StatusCode int    // 0 when there was no answer
	Error      string // what the ledger says; also after a success whose answer could not be read to its end
	Body       []byte // what was read of the answer

	// Ended is set once it is recorded: a person had ended the delivery, so the decision was not taken.
	Ended bool
}

// RecordVerdict says what became of one attempt of a record.
type RecordVerdict int

const (
	// RecordLost says that the claim was taken away. Nothing was changed but, where there is one, the attempt's own abandoned row
	// in the ledger, which now says what really happened.
	RecordLost RecordVerdict = iota
	// RecordBusy says that the row is still this claim's, but somebody holds its lock. Try again.
	RecordBusy
	// Recorded says that the outcome is in the row and in the ledger, and the job of the next attempt, if any, is in the queue.
	Recorded
	// RecordedEnded says as much of a delivery that a person canceled meanwhile (or otherwise ended): it keeps its status,
	// and there is no next attempt.
	RecordedEnded
)

// recordSQL: a person may have canceled the row meanwhile; then it is recorded all the same and only keeps its status.
const recordSQL = `
WITH o AS (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::int[], $5::int[], $6::float8[], $7::int[], $8::text[], $9::text[],
                         $10::text[], $11::float8[], $12::text[], $13::int[], $14::text[], $15::bytea[], $16::bigint[])
           WITH ORDINALITY AS o (id, claim, node, round, attempt, age, duration_ms, outcome, failure_kind,
                                 status, delay, last_error, status_code, error, response_body, job, n)
), fenced AS (
    -- As the claim's.
    SELECT o.*, d.updated_at AS claimed_at
      FROM o
     CROSS JOIN LATERAL (SELECT d.claim, d.claimed_by, d.updated_at
                           FROM {schema}.deliveries d WHERE d.id = o.id OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) d
     WHERE d.claim = o.claim AND d.claimed_by = o.node
), updated AS (
    UPDATE {schema}.deliveries d
       SET status           = CASE WHEN d.status = 'pending' THEN f.status ELSE d.status END,
           scheduled_for    = CASE WHEN d.status = 'pending' AND f.status = 'pending' THEN now() + make_interval(secs => f.delay) END,
           finished_at      = CASE WHEN d.status = 'pending' AND f.status = 'pending' THEN NULL ELSE now() END,
           claim            = CASE WHEN f.outcome = 'abandoned' THEN d.claim + 1 ELSE d.claim END,
           claimed_by       = NULL,
           leased_until     = NULL,
           attempt_count    = f.attempt,
           abandoned_count  = CASE WHEN f.outcome = 'abandoned' THEN d.abandoned_count + 1 ELSE 0 END,
           last_status_code = f.status_code,
           last_error       = f.last_error,
           updated_at       = now()
      FROM fenced f
     WHERE d.id = f.id
    RETURNING f.*, d.claim AS next_claim, d.status AS next_status, d.scheduled_for AS next_due
), ledger AS (
    INSERT INTO {schema}.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node)
    SELECT u.id, u.round, u.attempt, coalesce(now() - make_interval(secs => u.age), u.claimed_at), u.duration_ms, u.outcome, u.failure_kind,
           u.status_code, u.error, u.response_body, u.node
      FROM updated u
), ended AS (
    -- The job is done for, and is not kept: the ledger says what happened, and a job less is a row version in every index
    -- of River's less, now and when it would be cleaned up. What River reports about it afterwards finds nothing.
    DELETE FROM {schema}.river_job j
     USING (SELECT j.id
              FROM updated u
             CROSS JOIN LATERAL (SELECT j.id, j.state FROM {schema}.river_job j WHERE j.id = u.job OFFSET 0) j
             WHERE j.state = 'running') f
     WHERE j.id = f.id
), retry AS (
    INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
    SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{schema}.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
      FROM updated u, {schema}.delivery_job(u.id, u.next_claim, u.next_due) j
     WHERE u.next_status = 'pending'
        ON CONFLICT (unique_key)
     WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(unique_states, state)
        DO NOTHING
)
SELECT u.n, u.next_status <> u.status FROM updated u`

// unrecordedSQL says of attempts that were not recorded: 1, the row is still this claim's (somebody holds its lock); 2, an
// earlier try whose COMMIT was not answered has recorded it.
const unrecordedSQL = `
SELECT o.n, 1
  FROM unnest($1::bigint[], $2::bigint[], $3::text[]) WITH ORDINALITY AS o (id, claim, node, n)
 CROSS JOIN LATERAL (SELECT d.claim, d.claimed_by FROM {schema}.deliveries d WHERE d.id = o.id OFFSET 0) d
 WHERE d.claim = o.claim AND d.claimed_by = o.node
 UNION ALL
SELECT o.n, 2
  FROM unnest($1::bigint[], $3::text[], $4::int[], $5::int[]) WITH ORDINALITY AS o (id, node, round, attempt, n)
  JOIN {schema}.attempts a ON a.delivery_id = o.id AND a.round = o.round AND a.attempt = o.attempt
   AND a.node = o.node AND a.outcome <> 'abandoned'`

const correctAbandonedSQL = `
UPDATE {schema}.attempts a
   SET outcome = o.outcome, failure_kind = o.failure_kind, status_code = o.status_code, error = o.error,
       response_body = o.response_body, duration_ms = o.duration_ms
  FROM unnest($1::bigint[], $2::text[], $3::int[], $4::int[], $5::int[], $6::text[], $7::text[], $8::int[], $9::text[], $10::bytea[])
       AS o (id, node, round, attempt, duration_ms, outcome, failure_kind, status_code, error, response_body)
 WHERE a.delivery_id = o.id AND a.round = o.round AND a.attempt = o.attempt AND a.node = o.node AND a.outcome = 'abandoned'`

// Record writes the outcomes of many attempts: row, ledger and the job of the next attempt of each, in one transaction.
// It says for each, in their order, what became of it; each claim may stand in attempts once. After an error nothing was
// written, or (the connection broke) all of it was: calling it again with the same attempts finds out.
func (s *Store) Record(ctx context.Context, attempts []Attempt) (verdicts []RecordVerdict, err error) {
	err = s.inBatch(ctx, func(db Querier) error {
		verdicts, err = s.record(ctx, db, attempts)
		return err
	})
	return verdicts, err
}

func (s *Store) record(ctx context.Context, db Querier, attempts []Attempt) ([]RecordVerdict, error) {
	c := columnsOf(attempts)
	rows, err := db.Query(ctx, s.sql(recordSQL), c.id, c.claim, c.node, c.round, c.attempt, c.age, c.durationMS, c.outcome, c.failureKind,
		c.status, c.delay, c.lastError, c.statusCode, c.err, c.body, c.job)
	if err != nil {
		return nil, fmt.Errorf("store: record: %w", err)
	}
	verdicts := make([]RecordVerdict, len(attempts))
	var n int
	var ended bool
	missing := len(attempts)
	_, err = pgx.ForEachRow(rows, []any{&n, &ended}, func() error {
		if verdicts[n-1] = Recorded; ended {
			verdicts[n-1] = RecordedEnded
		}
		missing--
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: record: %w", err)
	}
	if missing == 0 {
		return verdicts, nil
	}
	if err := s.explainUnrecorded(ctx, db, c, verdicts); err != nil {
		return nil, err
	}
	var lost []Attempt
	for i, v := range verdicts {
		if v == RecordLost {
			lost = append(lost, attempts[i])
		}
	}
	if len(lost) == 0 {
		return verdicts, nil
	}
	c = columnsOf(lost)
	_, err = db.Exec(ctx, s.sql(correctAbandonedSQL), c.id, c.node, c.round, c.attempt, c.durationMS, c.outcome, c.failureKind,
		c.statusCode, c.err, c.body)
	if err != nil {
		return nil, fmt.Errorf("store: record a late outcome: %w", err)
	}
	return verdicts, nil
}

// explainUnrecorded turns the verdict on those that were not recorded from lost to busy or recorded where it must.
func (s *Store) explainUnrecorded(ctx context.Context, db Querier, c *columns, verdicts []RecordVerdict) error {
	rows, err := db.Query(ctx, s.sql(unrecordedSQL), c.id, c.claim, c.node, c.round, c.attempt)
	if err != nil {
		return fmt.Errorf("store: record: %w", err)
	}
	var n int
	var verdict RecordVerdict
	_, err = pgx.ForEachRow(rows, []any{&n, &verdict}, func() error {
		if verdicts[n-1] == RecordLost {
			verdicts[n-1] = verdict
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store: record: %w", err)
	}
	return nil
}

// columns are attempts turned by a quarter, as unnest wants them.
type columns struct {
	id, claim, job              []int64
	round, attempt              []int
	node, outcome, status       []string
	age                         []*float64
	delay                       []float64
	durationMS, statusCode      []*int
	failureKind, lastError, err []*string
	body                        [][]byte
}

func columnsOf(attempts []Attempt) *columns {
	n := len(attempts)
	c := &columns{
		id: make([]int64, n), claim: make([]int64, n), job: make([]int64, n), round: make([]int, n), attempt: make([]int, n),
		node: make([]string, n), outcome: make([]string, n), status: make([]string, n), age: make([]*float64, n),
		delay: make([]float64, n), durationMS: make([]*int, n), statusCode: make([]*int, n),
		failureKind: make([]*string, n), lastError: make([]*string, n), err: make([]*string, n), body: make([][]byte, n),
	}
	for i := range attempts {
		a := &attempts[i]
		c.id[i], c.claim[i], c.node[i], c.job[i] = a.Fence.ID, a.Fence.Claim, a.Fence.Node, a.Job
		c.round[i], c.attempt[i] = a.Round, a.Number
		if !a.Started.IsZero() {
			elapsed, ms := seconds(time.Since(a.Started)), int(a.Duration.Milliseconds())
			c.age[i], c.durationMS[i] = &elapsed, &ms
		}
		c.outcome[i], c.status[i] = string(a.Decision.Outcome), string(a.Decision.Status)
		c.failureKind[i] = null(string(a.Decision.Failure))
		c.delay[i] = seconds(a.Decision.Delay)
		c.lastError[i] = null(Text(a.Decision.Error, maxErrorLength))
		c.statusCode[i] = null(a.StatusCode)
		c.err[i] = null(Text(a.Error, maxErrorLength))
		c.body[i] = a.Body
	}
	return c
}
