package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/riverhook/riverhook/cmd/torture/internal/check"
)

// role is whose rights the application has: no more than `migrate grant --as application` gives.
const role = "torture_app"

// sessions of the application, each with a connection of its own.
const sessions = 4

// application inserts deliveries at a steady rate, changes its mind about some, and writes down what it knows of each.
type application struct {
	link    *link
	log     *journal
	origins []string
	rate    float64 // rows a second

	cutting               atomic.Bool // connections break while a COMMIT is under way
	committed, rolledBack atomic.Int64
}

// row is one delivery that is to be inserted.
type row struct {
	check.Insert
	run, hook   *string // the get-or-create key
	delay       time.Duration
	maxAttempts *int
	noTime      bool // scheduled_for is explicitly null, as ORMs write it
}

// run inserts until ctx ends.
func (a *application) run(ctx context.Context) {
	var all sync.WaitGroup
	for range sessions {
		all.Go(func() { a.session(ctx) })
	}
	all.Wait()
}

func (a *application) session(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			closeConn(conn)
		}
	}()
	for wait(ctx, 10*time.Millisecond) {
		if conn == nil || conn.IsClosed() {
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			fresh, err := pgx.Connect(try, a.link.url(role))
			cancel()
			if err != nil {
				wait(ctx, 100*time.Millisecond)
				continue
			}
			conn = fresh
		}
		started := time.Now()
		n := a.transaction(ctx, conn)
		wait(ctx, time.Duration(float64(n)/a.rate*sessions*float64(time.Second))-time.Since(started))
	}
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is given up in any case
}

// transaction is one of the application's, of a random kind. It says how many rows it was about.
func (a *application) transaction(ctx context.Context, conn *pgx.Conn) int {
	n, kind, give := 1, "insert", "commit"
	insert := a.insert
	switch chance := mathrand.IntN(100); { //nolint:gosec // not a secret
	case chance < 40:
	case chance < 55:
		give = "rollback"
	case chance < 70:
		n, kind = 2+mathrand.IntN(6), "multi-row insert" //nolint:gosec // not a secret
	case chance < 75:
		n, kind, give = 2+mathrand.IntN(6), "multi-row insert", "rollback" //nolint:gosec // not a secret
	case chance < 80:
		n, kind, insert = 5+mathrand.IntN(15), "copy", a.copy //nolint:gosec // not a secret
	case chance < 83:
		n, kind, insert, give = 5+mathrand.IntN(15), "copy", a.copy, "rollback" //nolint:gosec // not a secret
	case chance < 90:
		kind, insert = "get or create", a.getOrCreate
	default:
		kind = "delayed insert"
	}
	open := time.Duration(0)
	if mathrand.IntN(10) == 0 { //nolint:gosec // not a secret
		open = time.Duration(mathrand.IntN(400)) * time.Millisecond //nolint:gosec // not a secret
	}
	rows := a.rows(n, kind)
	a.finish(rows, a.try(ctx, conn, rows, insert, give == "rollback", open))
	return n
}

func (a *application) rows(n int, kind string) []row {
	rows := make([]row, n)
	for i := range rows {
		r := &rows[i]
		r.UUID, r.Kind = newUUID(), kind
		r.Origin = a.origins[mathrand.IntN(len(a.origins))] //nolint:gosec // not a secret
		switch kind {
		case "delayed insert":
			r.delay = time.Duration(500+mathrand.IntN(11_500)) * time.Millisecond //nolint:gosec // not a secret
		case "get or create":
			// Few keys at a time, so that sessions meet.
			run, hook := fmt.Sprintf("run-%d", time.Now().UnixMilli()/200), "hook"
			r.run, r.hook = &run, &hook
		}
		switch chance := mathrand.IntN(20); { //nolint:gosec // not a secret
		case chance == 0:
			two := 2
			r.maxAttempts = &two
		case chance == 1 && r.delay == 0:
			r.noTime = true
		}
	}
	return rows
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// try inserts rows, leaves the transaction open for a while, commits or rolls back, and says what came of that. The COMMIT has
// a time of its own: from then on, a broken connection tells nothing.
func (a *application) try(
	ctx context.Context, conn *pgx.Conn, rows []row, insert func(context.Context, pgx.Tx, []row) error, rollBack bool,
	open time.Duration,
) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	defer cancel()
	set := func(result check.Result) {
		for i := range rows {
			if rows[i].Result == "" {
				rows[i].Result = result
			}
			rows[i].Ended = time.Now()
		}
	}
	tx, err := conn.Begin(ctx)
	if err == nil {
		began := time.Now()
		err = insert(ctx, tx, rows)
		for i := range rows {
			rows[i].Took = time.Since(began)
		}
	}
	wait(ctx, open)
	if err != nil || rollBack {
		if tx != nil {
			err = errors.Join(err, tx.Rollback(ctx))
		}
		set(check.RolledBack)
		return err
	}
	for i := range rows {
		rows[i].CommitSent = time.Now()
	}
	if a.cutting.Load() {
		go a.link.cutFor(time.Duration(mathrand.IntN(2000)) * time.Microsecond) //nolint:gosec // not a secret
	}
	err = tx.Commit(ctx)
	switch {
	case err == nil:
		set(check.Committed)
	case errors.Is(err, pgx.ErrTxCommitRollback):
		set(check.RolledBack)
	default:
		set(check.Unknown)
	}
	return err
}

// finish writes down what became of rows.
func (a *application) finish(rows []row, err error) {
	for _, r := range rows {
		switch r.Result {
		case check.Committed:
			a.committed.Add(1)
		case check.RolledBack:
			a.rolledBack.Add(1)
		}
		if refused := refusal(err); refused != "" {
			r.Problem = refused
		}
		a.log.add(r.Insert)
	}
}

// refusal is an error of Postgres that no fault of ours explains; the INSERT of an application never fails because of
// riverhook.
func refusal(err error) string {
	pg := (*pgconn.PgError)(nil)
	if !errors.As(err, &pg) {
		return "" // the connection broke
	}
	for _, class := range []string{"08", "57P"} {
		if strings.HasPrefix(pg.Code, class) {
			return ""
		}
	}
	return pg.Error()
}

func (r *row) payload() string {
	return fmt.Sprintf(`{"token": %q, "event": %q}`, r.UUID, r.Kind)
}

// values are a row's columns. A delayed one is due so long after now by the database's clock, which is ours.
func (r *row) values() []any {
	var due *time.Time
	if !r.noTime {
		at := time.Now().Add(r.delay)
		if r.delay > 0 {
			r.NotBefore = at
		} else {
			at = at.Add(-time.Second)
		}
		due = &at
	}
	return []any{r.UUID, r.Origin + "/hook", r.payload(), due, r.maxAttempts, r.run, r.hook}
}

var columns = []string{"delivery_uuid", "endpoint_url", "payload", "scheduled_for", "max_attempts", "workflow_run_id", "webhook_node_id"}

const rowWidth = 7

func (a *application) insert(ctx context.Context, tx pgx.Tx, rows []row) error {
	var values []any
	var places []string
	for i := range rows {
		var place []string
		for n := range rowWidth {
			place = append(place, fmt.Sprintf("$%d", i*rowWidth+n+1))
		}
		places = append(places, "("+strings.Join(place, ",")+")")
		values = append(values, rows[i].values()...)
	}
	_, err := tx.Exec(ctx, "INSERT INTO "+schema+".deliveries ("+strings.Join(columns, ",")+") VALUES "+strings.Join(places, ","), values...)
	return err
}

func (a *application) copy(ctx context.Context, tx pgx.Tx, rows []row) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{schema, "deliveries"}, columns,
		pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) { return rows[i].values(), nil }))
	return err
}

// getOrCreate: another transaction may have made the row already. Then this one makes none.
func (a *application) getOrCreate(ctx context.Context, tx pgx.Tx, rows []row) error {
	r := &rows[0]
	tag, err := tx.Exec(ctx, "INSERT INTO "+schema+".deliveries ("+strings.Join(columns, ",")+
		") VALUES ($1,$2,$3,$4,$5,$6,$7) ON CONFLICT (workflow_run_id, webhook_node_id, organization_id) DO NOTHING", r.values()...)
	if err == nil && tag.RowsAffected() == 0 {
		r.Result = check.RolledBack
	}
	return err
}
