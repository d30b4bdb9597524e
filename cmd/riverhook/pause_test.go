package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// pausedRows are the pauses in the database as text.
func pausedRows(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return pgtest.Column[string](t, db, `SELECT concat_ws(' ', coalesce(endpoint_origin, '-'), coalesce(organization_id, '-'), coalesce(reason, '-')) FROM riverhook.pauses ORDER BY pause_id`)
}

func TestPauseCommand(t *testing.T) {
	t.Parallel()
	const usage = "  see \"riverhook --help\", or \"riverhook COMMAND --help\"\n"
	const promise = "no more attempts of them begin after about a second; those in flight end; nothing is lost. To let go: riverhook resume"
	before := []string{"https://one.example - moves", "https://one.example acme -", "- acme -"}
	and := func(more ...string) []string { return append(append([]string{}, before...), more...) }
	for name, test := range map[string]struct {
		args []string
		want ran
		then []string
	}{
		"an origin": {
			[]string{"pause", "--origin", "HTTPS://Two.Example:443", "--reason", "migration"},
			ran{0, "paused the deliveries to https://two.example\n" + promise + " --origin https://two.example\n", ""},
			and("https://two.example - migration"),
		},
		"an endpoint": {
			[]string{"pause", "--origin", "http://two.example:8080/hook?x=1#y"},
			ran{0, "paused the deliveries to http://two.example:8080\n" + promise + " --origin http://two.example:8080\n", ""},
			and("http://two.example:8080 - -"),
		},
		"a tenant": {
			[]string{"pause", "--organization", "it's \x1b[2J"},
			ran{0, "paused the deliveries of organization it's \\x1b[2J\n" + promise + ` --organization 'it'\''s \x1b[2J'` + "\n", ""},
			and("- it's \x1b[2J -"),
		},
		"both": {
			[]string{"pause", "--origin", "https://two.example", "--organization", "acme"},
			ran{0, "paused the deliveries of organization acme to https://two.example\n" + promise + " --origin https://two.example --organization acme\n", ""},
			and("https://two.example acme -"),
		},
		"everything": {
			[]string{"pause", "--yes"},
			ran{0, "paused everything: all deliveries, of every organization, to every receiver\n" + promise + "\n", ""},
			and("- - -"),
		},
		"everything, unasked": {
			[]string{"pause", "--reason", "x"},
			ran{2, "", "riverhook: this holds back everything: say --yes if that is meant, or give --origin, --organization or both\n" + usage},
			before,
		},
		"the same again": {
			[]string{"pause", "--origin", "https://one.example/other"},
			ran{0, "paused already: the deliveries to https://one.example\n", ""},
			before,
		},
		"the same again, another reason": {
			[]string{"pause", "--origin", "https://one.example", "--organization", "acme", "--reason", "again"},
			ran{0, "paused already: the deliveries of organization acme to https://one.example\n", ""},
			[]string{"https://one.example - moves", "https://one.example acme again", "- acme -"},
		},
		"no origin": {
			[]string{"pause", "--origin", "example.com", "--yes"},
			ran{2, "", "riverhook: --origin: the URL of an endpoint, or its origin such as https://example.com: endpoint_url must begin with http:// or https://\n" + usage},
			before,
		},
		// A variable that is not set does not hold back everything.
		"an empty origin": {
			[]string{"pause", "--origin", "", "--yes"},
			ran{2, "", "riverhook: --origin: the URL of an endpoint, or its origin such as https://example.com: endpoint_url must begin with http:// or https://\n" + usage},
			before,
		},
		"an empty tenant": {
			[]string{"pause", "--organization=", "--yes"},
			ran{2, "", "riverhook: pause: --organization: it is empty; leave it out to mean all of them\n" + usage},
			before,
		},
		"a secret in the URL": {
			[]string{"pause", "--origin", "https://user:hunter2@one.example"},
			ran{2, "", "riverhook: --origin: the URL of an endpoint, or its origin such as https://example.com: endpoint_url must not hold a user name or password: use a credential\n" + usage},
			before,
		},

		"resume": {
			[]string{"resume", "--origin", "https://ONE.example/hook", "--organization", "acme"},
			ran{0, "resumed the deliveries of organization acme to https://one.example\n",
				"still held back, at least in part, by the pause of --origin https://one.example; --organization acme\n"},
			[]string{"https://one.example - moves", "- acme -"},
		},
		"resume an origin": {
			[]string{"resume", "--origin", "https://one.example"},
			ran{0, "resumed the deliveries to https://one.example\n",
				"still held back, at least in part, by the pause of --origin https://one.example --organization acme; --organization acme\n"},
			[]string{"https://one.example acme -", "- acme -"},
		},
		"resume what is not paused": {
			[]string{"resume", "--origin", "https://two.example"},
			ran{1, "", "riverhook: there is no pause of the deliveries to https://two.example; paused: --origin https://one.example; " +
				"--origin https://one.example --organization acme; --organization acme\n"},
			before,
		},
		"resume everything": { // which is not all that is paused
			[]string{"resume"},
			ran{1, "", "riverhook: there is no pause of everything: all deliveries, of every organization, to every receiver; paused: --origin https://one.example; " +
				"--origin https://one.example --organization acme; --organization acme\n"},
			before,
		},
		"resume an empty tenant": {
			[]string{"resume", "--organization", ""},
			ran{2, "", "riverhook: resume: --organization: it is empty; leave it out to mean all of them\n" + usage},
			before,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin, organization_id, reason)
				VALUES ('https://one.example', NULL, 'moves'), ('https://one.example', 'acme', NULL), (NULL, 'acme', NULL)`)
			assert.Equal(t, test.want, on(t, db.URL, test.args...))
			assert.Equal(t, test.then, pausedRows(t, db))
		})
	}
}

func TestResumeOfEverything(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	assert.Equal(t, ran{1, "", "riverhook: there is no pause of the deliveries of organization acme; nothing is paused\n"}, on(t, db.URL, "resume", "--organization", "acme"))
	assert.Equal(t, 0, on(t, db.URL, "pause", "--yes").code)
	assert.Equal(t, ran{1, "", "riverhook: there is no pause of the deliveries of organization acme; paused: everything (neither --origin nor --organization)\n"},
		on(t, db.URL, "resume", "--organization", "acme"))
	assert.Equal(t, 0, on(t, db.URL, "pause", "--organization", "acme").code)
	assert.Equal(t, ran{0, "resumed the deliveries of organization acme\n", "still held back, at least in part, by the pause of everything (neither --origin nor --organization)\n"},
		on(t, db.URL, "resume", "--organization", "acme"))
	assert.Equal(t, ran{0, "resumed everything: all deliveries, of every organization, to every receiver\n", ""}, on(t, db.URL, "resume"))
	assert.Empty(t, pausedRows(t, db))
}

func TestNamePauses(t *testing.T) {
	t.Parallel()
	var pauses []store.Pause
	for i := range 7 {
		organization := fmt.Sprint("org-", i)
		pauses = append(pauses, store.Pause{OrganizationID: &organization})
	}
	assert.Equal(t, "--organization org-0", namePauses(pauses[:1]))
	assert.Equal(t, "--organization org-0; --organization org-1; --organization org-2; --organization org-3; --organization org-4; and 2 more: see riverhook held", namePauses(pauses))
}

func TestOverlapping(t *testing.T) {
	t.Parallel()
	a, b := "a", "b"
	for name, test := range map[string]struct {
		pause                store.Pause
		origin, organization string
		want                 bool
	}{
		"everything meets all":      {store.Pause{}, "a", "a", true},
		"all meets everything":      {store.Pause{EndpointOrigin: &a, OrganizationID: &a}, "", "", true},
		"of an origin":              {store.Pause{EndpointOrigin: &a}, "a", "b", true},
		"of another origin":         {store.Pause{EndpointOrigin: &b}, "a", "", false},
		"of a tenant":               {store.Pause{OrganizationID: &a}, "b", "a", true},
		"of another tenant":         {store.Pause{OrganizationID: &b}, "", "a", false},
		"of the origin for another": {store.Pause{EndpointOrigin: &a, OrganizationID: &b}, "a", "a", false},
		"crosswise":                 {store.Pause{EndpointOrigin: &a}, "", "b", true},
	} {
		assert.Equal(t, test.want, len(overlapping([]store.Pause{test.pause}, test.origin, test.organization)) == 1, name)
	}
}

func TestHeldCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	assert.Equal(t, ran{0, "nothing is paused\nnothing is held back\n", ""}, on(t, db.URL, "held"))
	assert.Equal(t, ran{0, "", ""}, on(t, db.URL, "held", "--json"))

	times := `scheduled_for = '2024-05-06 07:08:09+00', held_since = '2024-05-06 07:08:10+00'`
	for range 2 {
		insertDelivery(t, db, times+`, held_reason = 'paused', organization_id = E'ac\x1bme'`)
	}
	insertDelivery(t, db, times+`, held_reason = 'no_answer', endpoint_url = 'https://two.example'`)
	insertDelivery(t, db, times+`, endpoint_url = 'nowhere'`)
	insertDelivery(t, db, ``)
	db.Exec(t, `INSERT INTO riverhook.pauses (organization_id, reason, created_at) VALUES (E'ac\x1bme', E'owes\x1bus', '2024-05-06 07:08:00+00')`)
	db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin, organization_id, created_at) VALUES ('https://three.example', 'default', '2024-05-06 07:08:01+00')`)

	lines := func(out string) []string {
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return lines
	}
	r := on(t, db.URL, "held")
	assert.Equal(t, 0, r.code)
	assert.Empty(t, r.err)
	assert.Equal(t, []string{
		"PAUSED ORIGIN ORGANIZATION SINCE REASON",
		`(all) ac\x1bme 2024-05-06T07:08:00Z owes\x1bus`,
		"https://three.example default 2024-05-06T07:08:01Z -",
		"",
		"HELD ORIGIN ORGANIZATION WHY DELIVERIES DUE SINCE HELD SINCE",
		`https://one.example ac\x1bme paused 2 2024-05-06T07:08:09Z 2024-05-06T07:08:10Z`,
		"https://two.example default no_answer 1 2024-05-06T07:08:09Z 2024-05-06T07:08:10Z",
		"- default - 1 2024-05-06T07:08:09Z 2024-05-06T07:08:10Z",
	}, lines(r.out))

	r = on(t, db.URL, "held", "--limit", "1", "--json")
	assert.Equal(t, 0, r.code)
	assert.Equal(t, "there are more than 1 pairs of receiver and organization: add --limit, up to 1000\n", r.err)
	assert.Equal(t, []string{
		`{"type":"pause","pause_id":1,"endpoint_origin":null,"organization_id":"ac\u001bme","reason":"owes\u001bus","created_at":"2024-05-06T07:08:00Z"}`,
		`{"type":"pause","pause_id":2,"endpoint_origin":"https://three.example","organization_id":"default","reason":null,"created_at":"2024-05-06T07:08:01Z"}`,
		`{"type":"held","endpoint_origin":"https://one.example","organization_id":"ac\u001bme","held_reason":"paused","count":2,"at_least":false,` +
			`"oldest_scheduled_for":"2024-05-06T07:08:09Z","oldest_held_since":"2024-05-06T07:08:10Z"}`,
	}, lines(r.out))
	for _, limit := range []string{"0", "1001"} {
		r = on(t, db.URL, "held", "--limit", limit)
		assert.Equal(t, 2, r.code)
		assert.Contains(t, r.err, "--limit: from 1 to 1000")
	}

	var out strings.Builder
	require.NoError(t, printHeld(console{out: &out}, nil, []store.HeldGroup{{OrganizationID: "default", Count: store.MaxHeldCount, AtLeast: true, OldestHeldSince: time.Unix(0, 0)}}, false))
	assert.Contains(t, out.String(), " 10000+ ")
}

func TestPauseRights(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	insertDelivery(t, db, `held_since = now(), held_reason = 'paused'`)
	reader, support := asRole(t, db, "reader"), asRole(t, db, "support")
	for _, args := range [][]string{{"pause", "--organization", "acme"}, {"resume", "--organization", "acme"}} {
		r := on(t, reader, args...)
		assert.Equal(t, 1, r.code)
		assert.Contains(t, r.err, "riverhook migrate grant ROLE --as support")
		for range 2 { // the second time it changes a reason, or finds nothing
			r = on(t, support, append(args, map[string][]string{"pause": {"--reason", "owes"}}[args[0]]...)...)
			assert.NotContains(t, r.err, "rights")
		}
	}
	assert.Empty(t, pausedRows(t, db))
	assert.Equal(t, 0, on(t, support, "pause", "--organization", "acme").code)
	r := on(t, reader, "held")
	assert.Equal(t, ran{0, r.out, ""}, r)
	assert.Contains(t, r.out, "acme")
	assert.Contains(t, r.out, "https://one.example")

	db.Exec(t, `REVOKE SELECT ON riverhook.pauses FROM `+pgtest.Scalar[string](t, db, `SELECT quote_ident(grantee) FROM information_schema.table_privileges
		WHERE table_schema = 'riverhook' AND table_name = 'pauses' AND grantee <> current_user GROUP BY grantee HAVING count(*) = 1`)) // a reader of before
	r = on(t, reader, "held")
	assert.Equal(t, 0, r.code)
	assert.Equal(t, "this role may not see the pauses: riverhook migrate grant ROLE --as reader\n", r.err)
	assert.NotContains(t, r.out, "nothing is paused")
	assert.Contains(t, r.out, "https://one.example")
}

func TestShowOfHeld(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for reason, why := range map[string]string{
		"'paused'":     "paused by hand: riverhook held lists the pauses, riverhook resume ends one",
		"'no_answer'":  "the receiver does not answer: few at a time until it does",
		"'failing'":    "every attempt at the receiver fails: a few a second until one succeeds",
		"'crowded'":    "the receiver has its share of the attempts in flight: others begin as those end",
		"'of a rival'": "",
		"NULL":         "",
	} {
		id := insertDelivery(t, db, `held_since = '2024-05-06 07:08:09+00', held_reason = `+reason)
		r := on(t, db.URL, "deliveries", "show", fmt.Sprint(id))
		require.Equal(t, 0, r.code, r.err)
		word := strings.Trim(reason, "'")
		if reason == "NULL" {
			assert.Contains(t, r.out, "next attempt    held back since 2024-05-06T07:08:09Z\n")
		} else {
			assert.Contains(t, r.out, "next attempt    held back ("+word+") since 2024-05-06T07:08:09Z\n")
			assert.Contains(t, on(t, db.URL, "deliveries", "list", "--limit", "1").out, "  held back ("+word+")  ")
		}
		if why != "" {
			assert.Contains(t, r.out, "held because    "+why+"\n")
		} else {
			assert.NotContains(t, r.out, "held because")
		}
		var row map[string]any
		require.NoError(t, json.Unmarshal([]byte(on(t, db.URL, "deliveries", "list", "--limit", "1", "--json").out), &row))
		assert.Equal(t, "2024-05-06T07:08:09Z", row["held_since"])
		if reason == "NULL" {
			assert.Nil(t, row["held_reason"])
		} else {
			assert.Equal(t, word, row["held_reason"])
		}
	}

	// Let go of by a trigger, which leaves the reason behind.
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE held_reason = 'paused'`)
	r := on(t, db.URL, "deliveries", "list", "--json", "--status", "canceled")
	assert.Contains(t, r.out, `"held_since":null,"held_reason":null`)
	assert.NotContains(t, r.out, "paused")
}
