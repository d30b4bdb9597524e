package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// delivery is one row, with its attempts.
type delivery struct {
	ID           int64
	DeliveryUUID string
	EndpointURL  string
	Payload      string
	Status       string
	AttemptCount int
	LastError    string
	attempts     []attempt
}

// attempt is one line of the ledger.
type attempt struct {
	DeliveryID     int64
	Round, Attempt int
	Outcome        string
	FailureKind    string // "" for none
	StatusCode     int    // 0 for none
	Error          string
}

// readLedger reads all that riverhook says it did.
func readLedger(ctx context.Context, conn *pgx.Conn, schema string) ([]delivery, error) {
	// One transaction, so that both tables are of one moment.
	var deliveries []delivery
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, fmt.Sprintf(`
			SELECT id, delivery_uuid::text, endpoint_url, payload::text, status, attempt_count, coalesce(last_error, '') AS last_error
			  FROM %s.deliveries ORDER BY id`, schema))
		if err != nil {
			return err
		}
		if deliveries, err = pgx.CollectRows(rows, pgx.RowToStructByNameLax[delivery]); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, fmt.Sprintf(`
			SELECT delivery_id, round, attempt, outcome, coalesce(failure_kind, '') AS failure_kind,
			       coalesce(status_code, 0) AS status_code, coalesce(error, '') AS error
			  FROM %s.attempts ORDER BY delivery_id, round, attempt`, schema))
		if err != nil {
			return err
		}
		attempts, err := pgx.CollectRows(rows, pgx.RowToStructByName[attempt])
		for _, a := range attempts {
			if i, ok := slices.BinarySearchFunc(deliveries, a.DeliveryID, func(d delivery, id int64) int { return cmp.Compare(d.ID, id) }); ok {
				deliveries[i].attempts = append(deliveries[i].attempts, a)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return deliveries, nil
}

// history is what the attempts came to, such as "503 503 200".
func (d delivery) history() string {
	words := make([]string, len(d.attempts))
	for i, a := range d.attempts {
		switch {
		case a.StatusCode != 0:
			words[i] = strconv.Itoa(a.StatusCode)
		case a.FailureKind != "":
			words[i] = a.FailureKind
		default:
			words[i] = a.Outcome
		}
	}
	return strings.Join(words, " ")
}

// last is the last attempt.
func (d delivery) last() attempt {
	if len(d.attempts) == 0 {
		return attempt{}
	}
	return d.attempts[len(d.attempts)-1]
}

// summarize says what became of the deliveries, from the ledger alone.
func (d *demo) summarize(endpoints []endpoint, ledger []delivery, requests []request, app *application, took time.Duration) {
	type group struct{ title, endpoint, history, why string }
	names, order := map[string]string{}, map[string]int{}
	for i, e := range endpoints {
		names[e.url], order[e.name] = e.name, i
	}
	counts, sums := map[group]int{}, map[string]int{}
	attempts, unanswered := 0, 0
	for _, row := range ledger {
		g := group{title: "Delivered at the first try", endpoint: names[row.EndpointURL], history: row.history()}
		switch {
		case row.Status == "succeeded" && len(row.attempts) > 1:
			g.title = "Delivered after retries"
		case row.Status == "dead_letter":
			g.title = "Dead-lettered"
			g.why = fmt.Sprintf("%-8s %s", row.last().FailureKind, row.last().Error)
		case row.Status != "succeeded":
			g.title = "Left " + row.Status
		}
		counts[g]++
		sums[g.title]++
		attempts += len(row.attempts)
		for _, a := range row.attempts {
			if a.StatusCode == 0 {
				unanswered++
			}
		}
	}

	d.printf("\n")
	title := func(text string, n int) { d.printf("%s %4d\n", d.bold(fmt.Sprintf("%-28s", text)), n) }
	groups := slices.SortedFunc(maps.Keys(counts), func(a, b group) int {
		return cmp.Or(cmp.Compare(order[a.endpoint], order[b.endpoint]), cmp.Compare(counts[b], counts[a]), strings.Compare(a.history, b.history))
	})
	for _, text := range []string{"Delivered at the first try", "Delivered after retries", "Dead-lettered", "Left pending", "Left canceled"} {
		if sums[text] == 0 {
			continue
		}
		title(text, sums[text])
		for _, g := range groups {
			if g.title == text {
				d.printf("%s\n", strings.TrimRight(fmt.Sprintf("  %-26s %4d   %-34s %s", g.endpoint, counts[g], g.history, g.why), " "))
			}
		}
	}
	title("Rolled back, never sent", len(app.rolledBack))
	phantoms := 0
	for _, r := range requests {
		if app.rolledBack[r.delivery] || strings.Contains(r.body, marker) {
			phantoms++
		}
	}
	d.printf("  %-26s %4d\n\n", "requests", phantoms)
	d.printf("%d attempts in the ledger, %d of them without an answer; %d requests received. %.1f s in all.\n",
		attempts, unanswered, len(requests), took.Seconds())
}

// verify compares what is with what has to be, and returns what is wrong.
func verify(endpoints []endpoint, ledger []delivery, requests []request, app *application) (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	type try struct {
		delivery string
		attempt  int
	}
	received := map[try][]request{}
	for _, r := range requests {
		t := try{r.delivery, r.attempt}
		received[t] = append(received[t], r)
		if strings.Contains(r.body, marker) || app.rolledBack[r.delivery] {
			wrong("delivery %s to %s was rolled back, and yet it was sent", r.delivery, r.path)
		}
	}
	byName := map[string]endpoint{}
	for _, e := range endpoints {
		byName[e.name] = e
	}

	rows := map[string]bool{}
	for _, row := range ledger {
		rows[row.DeliveryUUID] = true
		name, ok := app.inserted[row.DeliveryUUID]
		if !ok {
			wrong("delivery %s to %s is in the table, but was never committed", row.DeliveryUUID, row.EndpointURL)
			continue
		}
		want := byName[name]
		what := fmt.Sprintf("delivery %s to %s", row.DeliveryUUID, want.name)
		if row.Status != want.status || row.history() != want.history {
			wrong("%s is %s after %q: it should be %s after %q", what, row.Status, row.history(), want.status, want.history)
		}
		if row.AttemptCount != len(row.attempts) || row.LastError != row.last().Error {
			wrong("%s says %d attempts and error %q, its ledger %d and %q",
				what, row.AttemptCount, row.LastError, len(row.attempts), row.last().Error)
		}
		for i, a := range row.attempts {
			if a.Round != 0 || a.Attempt != i+1 {
				wrong("%s has attempt %d of round %d in place %d", what, a.Attempt, a.Round, i+1)
			}
			t := try{row.DeliveryUUID, a.Attempt}
			came := received[t]
			delete(received, t)
			switch {
			case name == refused && len(came) == 0:
			case name == refused || len(came) != 1:
				wrong("%s, attempt %d: %d requests came", what, a.Attempt, len(came))
			case came[0].status != a.StatusCode || came[0].path != want.name:
				wrong("%s, attempt %d: the ledger says %d, %s answered %d", what, a.Attempt, a.StatusCode, came[0].path, came[0].status)
			case came[0].body != row.Payload:
				wrong("%s, attempt %d: %q came instead of %q", what, a.Attempt, came[0].body, row.Payload)
			}
		}
	}
	for delivery, name := range app.inserted {
		if !rows[delivery] {
			wrong("delivery %s to %s is gone", delivery, name)
		}
	}
	for t, came := range received {
		wrong("delivery %q, attempt %d: %d requests came to %s, none is in the ledger", t.delivery, t.attempt, len(came), came[0].path)
	}
	if app.orders != orders {
		wrong("the application has %d orders, not the %d that it committed", app.orders, orders)
	}
	return problems
}

// conclude says whether all is well, and what is not.
func (d *demo) conclude(problems []string) {
	const most = 10
	if len(problems) == 0 {
		d.printf("%s\n", d.green("As it should be: every row, every attempt and every request is accounted for, once."))
		return
	}
	d.printf("%s\n", d.red(fmt.Sprintf("Not as it should be (%d):", len(problems))))
	for _, problem := range problems[:min(most, len(problems))] {
		d.printf("  %s\n", problem)
	}
	if n := len(problems) - most; n > 0 {
		d.printf("  and %d more\n", n)
	}
}
