package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Insertion is one delivery to be inserted. It is taken as it is: whoever makes one has checked it.
type Insertion struct {
	UUID           string // required
	OrganizationID string // required
	WorkflowRunID  *string
	WebhookNodeID  *string
	WebhookName    *string
	EndpointURL    string
	HTTPMethod     string
	Payload        []byte // JSON
	CustomHeaders  []byte // JSON; nil for none
	CredentialUUID *string
	MaxAttempts    *int
	ScheduledFor   *time.Time // nil: now
	Traceparent    *string
}

// bytes is about how much memory and wire the row takes.
func (i *Insertion) bytes() int {
	return len(i.Payload) + len(i.CustomHeaders) + len(i.EndpointURL) + 256
}

// Request is what one caller wants to have inserted: all of it, or nothing.
type Request struct {
	Deliveries []Insertion

	// With a Key, the same request (by its Hash) of the organization is done once in KeyLifetime: a repetition gets the
	// answer of the first.
	Organization string
	Key          string
	Hash         []byte
}

// Bytes is about how much memory the request takes.
func (r *Request) Bytes() (n int) {
	for i := range r.Deliveries {
		n += r.Deliveries[i].bytes()
	}
	return n
}

// Accepted is a delivery that was inserted, or that was there already.
type Accepted struct {
	ID      int64  `json:"id"`
	UUID    string `json:"delivery_uuid"`
	Created bool   `json:"created"` // false: one with the same organization, run and node was there
}

// Answer is what became of a Request.
type Answer struct {
	Deliveries []Accepted // in the order of the request; nil with an error
	Repeated   bool       // this is the answer that the first request with this key got
	Err        error
}

// KeyLifetime is how long a repeated key gets the stored answer.
const KeyLifetime = 24 * time.Hour

// Reasons for an Answer's Err that are the caller's.
var (
	// ErrKeyReused: the key was used for another request.
	ErrKeyReused = errors.New("store: the idempotency key was used for another request")
	// ErrTryAgain: the row that was in the way went away meanwhile.
	ErrTryAgain = errors.New("store: the delivery with this organization, run and node comes and goes: try again")
)

// TakenError says that a delivery has that uuid already.
type TakenError struct{ Index int } // in the request's deliveries

func (e *TakenError) Error() string {
	return "store: there is a delivery with this delivery_uuid already"
}

// TuneForRequests prepares a pool whose connections work for people and programs that wait for an answer: a lock that
// somebody else holds is waited for a short time only. Statements are planned as those of TuneForBatches, for the same
// reason.
func TuneForRequests(config *pgxpool.Config) {
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf(`%s; SET lock_timeout = %d`, settings(false, requestTimeout.String()), requestLockTimeout.Milliseconds()))
		return err
	}
}

const (
	requestLockTimeout = time.Second
	requestTimeout     = 10 * time.Second
	// acceptTimeout is for a server that does not answer any more.
	acceptTimeout = 15 * time.Second
	// aloneAtOnce is how many requests of a group that failed are tried at a time.
	aloneAtOnce = 2
)

const acceptSQL = `
INSERT INTO {schema}.deliveries
       (delivery_uuid, organization_id, workflow_run_id, webhook_node_id, webhook_name, endpoint_url, http_method, payload,
        custom_headers, credential_uuid, max_attempts, scheduled_for, traceparent)
SELECT r.uuid, r.organization, r.run, r.node, r.name, r.endpoint, r.method, r.payload::json, r.headers::jsonb, r.credential,
       r.max_attempts, coalesce(r.scheduled_for, now()), r.traceparent
  FROM unnest($1::text[]::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
              $10::text[]::uuid[], $11::int[], $12::timestamptz[], $13::text[])
       AS r (uuid, organization, run, node, name, endpoint, method, payload, headers, credential, max_attempts, scheduled_for, traceparent)
    ON CONFLICT DO NOTHING
RETURNING id, delivery_uuid::text`

// inTheWaySQL is what the rows that were not inserted ran into.
const inTheWaySQL = `
SELECT r.n - 1, coalesce(d.id, 0), coalesce(d.uuid, ''), u.id IS NOT NULL
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS r (organization, run, node, uuid, n)
  LEFT JOIN LATERAL (SELECT d.id, d.delivery_uuid::text AS uuid FROM {schema}.deliveries d
                      WHERE d.workflow_run_id = r.run AND d.webhook_node_id = r.node AND d.organization_id = r.organization
                      OFFSET 0) d ON true
  LEFT JOIN LATERAL (SELECT d.id FROM {schema}.deliveries d WHERE d.delivery_uuid = r.uuid::uuid OFFSET 0) u ON true
 ORDER BY r.n`

const storedKeysSQL = `
SELECT k.n - 1, i.request_hash, i.answer::text
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (organization, key, n),
       LATERAL (SELECT i.request_hash, i.answer, i.expires_at FROM {schema}.idempotency_keys i
                 WHERE i.organization_id = k.organization AND i.key = k.key OFFSET 0) i
 WHERE i.expires_at > now()
 ORDER BY k.n`

// keepKeysSQL: whoever comes second with a key waits here for the first one's commit, and gets nothing back. An expired
// key is as good as none.
const keepKeysSQL = `
INSERT INTO {schema}.idempotency_keys (organization_id, key, request_hash, answer, expires_at)
SELECT k.organization, k.key, k.hash, k.answer::json, now() + make_interval(secs => $5)
  FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) AS k (organization, key, hash, answer)
    ON CONFLICT (organization_id, key) DO UPDATE
   SET request_hash = excluded.request_hash, expires_at = excluded.expires_at, answer = excluded.answer
 WHERE idempotency_keys.expires_at <= now()`

// Accept inserts the deliveries of many requests in one transaction, and returns an answer for each, in their order, once
// it is committed. What goes wrong with one does not fail the others: then each has a transaction of its own. After an
// error of the connection nobody knows what was done.
func (s *Store) Accept(ctx context.Context, requests []Request) []Answer {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	answers := make([]Answer, len(requests))
	first, again := apart(requests)
	s.accept(ctx, requests, first, answers)
	for _, i := range again { // the same key twice: the second one finds the first one's answer
		s.accept(ctx, requests, []int{i}, answers)
	}
	return answers
}

// apart separates the requests whose key an earlier one has: one statement cannot take a key twice.
func apart(requests []Request) (first, again []int) {
	seen := make(map[[2]string]bool)
	for i := range requests {
		key := [2]string{requests[i].Organization, requests[i].Key}
		if key[1] != "" && seen[key] {
			again = append(again, i)
			continue
		}
		seen[key] = true
		first = append(first, i)
	}
	return first, again
}

func (s *Store) accept(ctx context.Context, requests []Request, members []int, answers []Answer) {
	g := &acceptance{store: s, requests: requests, members: members, answers: answers}
	err := g.run(ctx)
	for try := 1; len(members) == 1 && errors.Is(err, errAllOrNothing) && try < enqueueTries; try++ {
		err = g.run(ctx) // somebody had the same key at the same time: his answer is there now
	}
	if err == nil {
		return
	}
	if len(members) == 1 || !splits(err) {
		if errors.Is(err, errAllOrNothing) {
			err = ErrTryAgain
		}
		for _, m := range members {
			answers[m] = Answer{Err: fmt.Errorf("store: accept: %w", err)}
		}
		return
	}
	slots := make(chan struct{}, aloneAtOnce)
	var wg sync.WaitGroup
	for _, m := range members {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			s.accept(ctx, requests, []int{m}, answers)
		})
	}
	wg.Wait()
}

// splits says whether the requests of a group that failed may pass one by one: nothing of it was done, and it was one
// row's doing, or a lock's.
func splits(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return errors.Is(err, errAllOrNothing)
	}
	return IsRowError(err) || pg.Code == "55P03" || strings.HasPrefix(pg.Code, "40")
}

// errAllOrNothing ends a transaction of which a request may not keep a part, or does over what another one has just done.
var errAllOrNothing = errors.New("a request cannot be done as a whole")

// acceptance is one transaction.
type acceptance struct {
	store    *Store
	requests []Request
	members  []int // of requests
	answers  []Answer
}

func (g *acceptance) run(ctx context.Context) error {
	var keyed, plain []int
	whole := false
	for _, m := range g.members {
		g.answers[m] = Answer{Deliveries: make([]Accepted, len(g.requests[m].Deliveries))}
		whole = whole || len(g.requests[m].Deliveries) > 1
		if g.requests[m].Key != "" {
			keyed = append(keyed, m)
		} else {
			plain = append(plain, m)
		}
	}
	if len(keyed) == 0 && !whole {
		return g.insert(ctx, g.store.db, plain) // one statement, and another one to look: no transaction is needed
	}
	return pgx.BeginTxFunc(ctx, g.store.db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		fresh, err := g.repeat(ctx, tx, keyed)
		if err != nil {
			return err
		}
		if err := g.insert(ctx, tx, append(plain, fresh...)); err != nil {
			return err
		}
		return g.keep(ctx, tx, fresh)
	})
}

// keys are the keys of requests as columns.
func (g *acceptance) keys(members []int) (organizations, keys []string, hashes [][]byte) {
	for _, m := range members {
		r := &g.requests[m]
		organizations, keys, hashes = append(organizations, r.Organization), append(keys, r.Key), append(hashes, r.Hash)
	}
	return organizations, keys, hashes
}

// repeat gives requests whose keys were used the answers that are stored for them, and returns the others.
func (g *acceptance) repeat(ctx context.Context, tx pgx.Tx, keyed []int) (fresh []int, err error) {
	if len(keyed) == 0 {
		return nil, nil
	}
	organizations, keys, hashes := g.keys(keyed)
	rows, err := tx.Query(ctx, g.store.sql(storedKeysSQL), organizations, keys)
	if err != nil {
		return nil, err
	}
	used := make(map[int]bool)
	var n int
	var hash []byte
	var answer string
	_, err = pgx.ForEachRow(rows, []any{&n, &hash, &answer}, func() error {
		m := keyed[n]
		used[m] = true
		if !bytes.Equal(hash, hashes[n]) {
			g.answers[m] = Answer{Err: ErrKeyReused}
			return nil
		}
		g.answers[m] = Answer{Repeated: true}
		return json.Unmarshal([]byte(answer), &g.answers[m].Deliveries)
	})
	for _, m := range keyed {
		if !used[m] {
			fresh = append(fresh, m)
		}
	}
	return fresh, err
}

// keep stores the answers of requests with keys. A request that was refused leaves its key free.
func (g *acceptance) keep(ctx context.Context, tx pgx.Tx, fresh []int) error {
	done := slices.DeleteFunc(fresh, func(m int) bool { return g.answers[m].Err != nil })
	if len(done) == 0 {
		return nil
	}
	// In one order, so that two groups cannot wait for each other.
	slices.SortFunc(done, func(a, b int) int {
		return cmp.Or(cmp.Compare(g.requests[a].Organization, g.requests[b].Organization), cmp.Compare(g.requests[a].Key, g.requests[b].Key))
	})
	texts := make([]string, len(done))
	for i, m := range done {
		text, err := json.Marshal(g.answers[m].Deliveries)
		if err != nil {
			return err
		}
		texts[i] = string(text)
	}
	organizations, keys, hashes := g.keys(done)
	tag, err := tx.Exec(ctx, g.store.sql(keepKeysSQL), organizations, keys, hashes, texts, seconds(KeyLifetime))
	if err == nil && int(tag.RowsAffected()) < len(done) {
		return errAllOrNothing // another transaction used one of the keys meanwhile
	}
	return err
}

// place is where the answer for a row goes.
type place struct{ member, index int }

// insertColumns are rows as acceptSQL wants them.
type insertColumns struct {
	uuids, organizations, endpoints, methods, payloads []string
	runs, nodes, names, headers, credentials, traces   []*string
	attempts                                           []*int
	times                                              []*time.Time
}

// insert inserts the deliveries of members, and looks up those that are there already.
func (g *acceptance) insert(ctx context.Context, db Querier, members []int) error {
	var places []place
	for _, m := range members {
		for i := range g.requests[m].Deliveries {
			places = append(places, place{m, i})
		}
	}
	if len(places) == 0 {
		return nil
	}
	// What may have to wait for another transaction comes first and in one order, so that two groups cannot wait for each
	// other.
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(g.row(a).conflictKey(), g.row(b).conflictKey()) })
	c := g.columns(places)
	rows, err := db.Query(ctx, g.store.sql(acceptSQL), c.uuids, c.organizations, c.runs, c.nodes, c.names, c.endpoints, c.methods,
		c.payloads, c.headers, c.credentials, c.attempts, c.times, c.traces)
	if err != nil {
		return err
	}
	inserted := make(map[string]int64, len(places))
	var id int64
	var uuid string
	if _, err := pgx.ForEachRow(rows, []any{&id, &uuid}, func() error { inserted[uuid] = id; return nil }); err != nil {
		return err
	}
	var left []place
	for _, p := range places {
		row := g.row(p)
		id, ok := inserted[row.UUID]
		if !ok {
			left = append(left, p)
			continue
		}
		delete(inserted, row.UUID) // a uuid that the request has twice: the second one was not inserted
		g.answers[p.member].Deliveries[p.index] = Accepted{ID: id, UUID: row.UUID, Created: true}
	}
	if len(left) == 0 {
		return nil
	}
	return g.inTheWay(ctx, db, left)
}

func (g *acceptance) row(p place) *Insertion { return &g.requests[p.member].Deliveries[p.index] }

// conflictKey orders rows that have a get-or-create key before those that have none.
func (i *Insertion) conflictKey() string {
	if i.WorkflowRunID == nil || i.WebhookNodeID == nil {
		return "\xff"
	}
	return *i.WorkflowRunID + "\x00" + *i.WebhookNodeID + "\x00" + i.OrganizationID
}

func (g *acceptance) columns(places []place) (c insertColumns) {
	for _, p := range places {
		r := g.row(p)
		c.uuids, c.organizations = append(c.uuids, r.UUID), append(c.organizations, r.OrganizationID)
		c.endpoints, c.methods = append(c.endpoints, r.EndpointURL), append(c.methods, r.HTTPMethod)
		c.payloads, c.headers = append(c.payloads, string(r.Payload)), append(c.headers, null(string(r.CustomHeaders)))
		c.runs, c.nodes, c.names = append(c.runs, r.WorkflowRunID), append(c.nodes, r.WebhookNodeID), append(c.names, r.WebhookName)
		c.credentials, c.attempts, c.times = append(c.credentials, r.CredentialUUID), append(c.attempts, r.MaxAttempts), append(c.times, r.ScheduledFor)
		c.traces = append(c.traces, r.Traceparent)
	}
	return c
}

// inTheWay finds out why rows were not inserted: their get-or-create key is taken, and then that row is the answer, or
// their uuid is, which is the caller's error.
func (g *acceptance) inTheWay(ctx context.Context, db Querier, left []place) error {
	c := g.columns(left)
	rows, err := db.Query(ctx, g.store.sql(inTheWaySQL), c.organizations, c.runs, c.nodes, c.uuids)
	if err != nil {
		return err
	}
	refused := false
	var n int
	var found Accepted
	var uuidTaken bool
	_, err = pgx.ForEachRow(rows, []any{&n, &found.ID, &found.UUID, &uuidTaken}, func() error {
		p := left[n]
		a := &g.answers[p.member]
		switch {
		case found.ID > 0:
			if a.Err == nil {
				a.Deliveries[p.index] = found
			}
			return nil
		case uuidTaken:
			*a = Answer{Err: &TakenError{Index: p.index}}
		default:
			*a = Answer{Err: ErrTryAgain}
		}
		refused = refused || len(g.requests[p.member].Deliveries) > 1
		return nil
	})
	switch {
	case err != nil:
		return err
	case refused && len(g.members) == 1:
		return g.answers[g.members[0]].Err // and roll its other rows back
	case refused:
		return errAllOrNothing
	}
	return nil
}

const expireKeysSQL = `
DELETE FROM {schema}.idempotency_keys i
 WHERE (i.organization_id, i.key) IN (
       SELECT x.organization_id, x.key FROM {schema}.idempotency_keys x
        WHERE x.expires_at <= now()
        ORDER BY x.expires_at
        LIMIT $1
          FOR UPDATE SKIP LOCKED)`

// ExpireKeys removes up to limit idempotency keys that have expired, and returns how many.
func (s *Store) ExpireKeys(ctx context.Context, limit int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	tag, err := s.db.Exec(ctx, s.sql(expireKeysSQL), limit)
	if err != nil {
		return 0, fmt.Errorf("store: expire idempotency keys: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
