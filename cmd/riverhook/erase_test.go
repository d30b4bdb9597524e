package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestEraseCommand(t *testing.T) {
	t.Parallel()
	before := "[pending pending pending dead_letter canceled succeeded]"
	for name, test := range map[string]struct {
		args []string
		want ran
		then string // the statuses
	}{
		"a tenant":            {[]string{"--organization", "acme", "--yes"}, ran{0, "erased 2 deliveries and 1 attempt\n", ""}, "[pending pending canceled succeeded]"},
		"a tenant, JSON":      {[]string{"--organization", "acme", "--yes", "--json"}, ran{0, `{"deliveries":2,"attempts":1,"left":0,"referred":0}` + "\n", ""}, "[pending pending canceled succeeded]"},
		"a run":               {[]string{"--run", "run-1", "--yes"}, ran{0, "erased 1 delivery and 0 attempts\n", ""}, "[pending pending dead_letter canceled succeeded]"},
		"a run of nobody":     {[]string{"--run", "run-1", "--organization", "other", "--yes"}, ran{0, "erased 0 deliveries and 0 attempts\n", ""}, before},
		"dry run":             {[]string{"--organization", "acme", "--dry-run"}, ran{0, "would erase 2 deliveries (1 pending, 1 dead_letter) and 1 attempt\n", ""}, before},
		"dry run, in flight":  {[]string{"--organization", "default", "--dry-run"}, ran{0, "would erase 4 deliveries (2 pending, 1 succeeded, 1 canceled, 1 of them being sent) and 0 attempts\n", ""}, before},
		"dry run, JSON":       {[]string{"--organization", "acme", "--dry-run", "--json"}, ran{0, `{"attempts":1,"canceled":0,"dead_letter":1,"pending":1,"sending":0,"succeeded":0,"would_erase":2}` + "\n", ""}, before},
		"one is being sent":   {[]string{"--organization", "default", "--yes", "--wait", "0"}, ran{1, "erased 3 deliveries and 0 attempts\n", "not erased: 1 that are still being sent, or locked by another transaction: run the same command again\n"}, "[pending pending dead_letter]"},
		"neither":             {[]string{"--yes"}, ran{2, "", "riverhook: erase: give --organization, --run or both\n  see \"riverhook --help\", or \"riverhook COMMAND --help\"\n"}, before},
		"empty":               {[]string{"--organization", "", "--yes"}, ran{2, "", "riverhook: erase: give --organization, --run or both\n  see \"riverhook --help\", or \"riverhook COMMAND --help\"\n"}, before},
		"no answer possible":  {[]string{"--organization", "acme"}, ran{2, "", "riverhook: say --yes to erase, or --dry-run to count what would go\n  see \"riverhook --help\", or \"riverhook COMMAND --help\"\n"}, before},
		"dry run, and yes":    {[]string{"--organization", "acme", "--dry-run", "--yes"}, ran{0, "would erase 2 deliveries (1 pending, 1 dead_letter) and 1 attempt\n", ""}, before},
		"nothing is there":    {[]string{"--organization", "nobody", "--dry-run"}, ran{0, "would erase 0 deliveries and 0 attempts\n", ""}, before},
		"a wait that is none": {[]string{"--organization", "acme", "--yes", "--wait", "soon"}, ran{2, "", ""}, before},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := standings(t)
			db.Exec(t, `UPDATE riverhook.deliveries SET workflow_run_id = 'run-1' WHERE id = 2`)
			db.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, node) VALUES (4, 0, 1, now(), 'abandoned', 'n')`)
			got := on(t, db.URL, append([]string{"erase"}, test.args...)...)
			if name == "a wait that is none" {
				assert.Contains(t, got.err, "is not a duration")
				got.err = ""
			}
			assert.Equal(t, test.want, got)
			assert.Equal(t, test.then, fmt.Sprint(statuses(t, db)))
		})
	}
}

func TestEraseRights(t *testing.T) {
	t.Parallel()
	db := standings(t)
	r := on(t, asRole(t, db, "support"), "erase", "--organization", "acme", "--yes")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "riverhook migrate grant ROLE --as service")
	r = on(t, asRole(t, db, "support"), "erase", "--organization", "acme", "--dry-run")
	assert.Equal(t, 0, r.code, r.err)
	r = on(t, asRole(t, db, "service"), "erase", "--organization", "acme", "--yes")
	assert.Equal(t, 0, r.code, r.err)
	assert.Equal(t, 4, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries`))

	db.Exec(t, `CREATE TABLE orders (delivery bigint REFERENCES riverhook.deliveries); INSERT INTO orders VALUES (1)`)
	r = on(t, db.URL, "erase", "--organization", "default", "--yes", "--wait", "0")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "not erased: 1 that another table refers to by a foreign key: delete there first")
}

func TestWhatGoes(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "3 deliveries (2 pending, 1 dead_letter, 1 of them being sent) and 7 attempts",
		whatGoes(store.EraseCount{Deliveries: map[delivery.Status]int{"pending": 2, "dead_letter": 1, "canceled": 0}, Sending: 1, Attempts: 7}))
	assert.Equal(t, "1 delivery (1 succeeded) and 1 attempt",
		whatGoes(store.EraseCount{Deliveries: map[delivery.Status]int{"succeeded": 1}, Attempts: 1}))
}
