package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestCheckCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('https://one.example/'), ('https://one.example/')`)
	assert.Equal(t, ran{0, "no problems (looked at up to 100000 rows of each kind; --all looks at all)\n", ""}, on(t, db.URL, "check"))
	assert.Equal(t, ran{0, "no problems (looked at all rows)\n", ""}, on(t, db.URL, "check", "--all", "--grace", "0"))
	assert.Equal(t, ran{0, "", ""}, on(t, db.URL, "check", "--json"))

	for range 3 {
		insertDelivery(t, db, `scheduled_for = now() - interval '90 seconds'`)
	}
	insertDelivery(t, db, `status = 'succeeded', scheduled_for = NULL, finished_at = '2024-05-06 07:08:09Z', attempt_count = 1`)
	db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, max_attempts, state, finalized_at, errors) VALUES ('x', '{}', 1, 'discarded', now(), ARRAY['{"error":"a\u001b[2J"}']::jsonb[])`)
	r := on(t, db.URL, "check", "--limit", "2")
	assert.Equal(t, 1, r.code)
	assert.Empty(t, r.err)
	assert.Regexp(t, `^job_discarded: 1: jobs that failed .*
  -> the sweep replaces .*
     job \d+  since \S+Z  x: a\\x1b\[2J
ledger: 1: the ledger does not agree with the delivery, or has a gap
  -> attempts were removed .*
     delivery 6  since 2024-05-06T07:08:09Z  attempt_count is 1, attempts of round 0 are 0
overdue: 3: due, and nothing will send them: .*
  -> riverhook sweep .*
     delivery 3  since \S+Z  due, claim 0, and no live job
     delivery 4  since \S+Z  due, claim 0, and no live job
     and 1 more
$`, r.out)

	r = on(t, asRole(t, db, "reader"), "check", "--limit", "2", "--json")
	assert.Equal(t, 1, r.code)
	assert.Equal(t, "riverhook: overdue: and 1 more\n", r.err)
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	require.Len(t, lines, 4)
	var line map[string]any
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &line))
	assert.NotEmpty(t, line["hint"])
	delete(line, "hint")
	assert.Equal(t, map[string]any{"problem": "ledger", "delivery_id": 6.0, "job_id": nil, "since": "2024-05-06T07:08:09Z", "detail": "attempt_count is 1, attempts of round 0 are 0"}, line)

	assert.NotContains(t, on(t, asRole(t, db, "support"), "check", "--grace", "2m").out, "overdue")
	r = on(t, asRole(t, db, "application"), "check")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "migrate grant ROLE --as reader")
	for _, args := range [][]string{{"--limit", "0"}, {"--limit", "10001"}, {"--look-at", "0"}, {"--grace", "-1s"}} {
		assert.Equal(t, 2, on(t, db.URL, append([]string{"check"}, args...)...).code, args)
	}
}

// What the database can name is explained here, and the other way round.
func TestEveryProblemIsExplained(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	named := pgtest.Scalar[string](t, db, `SELECT col_description('riverhook.problems'::regclass, 1)`)
	kinds := strings.FieldsFunc(strings.Replace(strings.TrimSuffix(named, "."), " or ", ", ", 1), func(r rune) bool { return r == ',' || r == ' ' })
	assert.Len(t, kinds, len(problemKinds))
	source := pgtest.Scalar[string](t, db, `SELECT prosrc FROM pg_proc WHERE proname = 'find_problems'`)
	for _, kind := range kinds {
		assert.NotEmpty(t, problemKinds[kind].means, kind)
		assert.NotEmpty(t, problemKinds[kind].hint, kind)
		assert.Contains(t, source, "SELECT '"+kind+"'", kind)
	}
}
