package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/events"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// A receiver fails and recovers, and the one who is told can check who tells him. His own failures are told nobody.
func TestServeEvents(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var healthy atomic.Bool
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer receiver.Close()
	type alert struct {
		header http.Header
		body   []byte
	}
	alerts := make(chan alert, 100)
	told := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-Riverhook-Delivery-Attempt") == "1" {
			w.WriteHeader(http.StatusInternalServerError) // each is told at the second attempt
			return
		}
		alerts <- alert{r.Header, body}
	}))
	defer told.Close()

	key := "RIVERHOOK_SECRET_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	env, scope := []string{"RIVERHOOK_DATABASE_URL=" + db.URL, key}, []string{"--organization", "riverhook", "--origin", told.URL}
	_, stderr, code := call(t, env, append([]string{"secrets", "create"}, scope...)...)
	require.Equal(t, 0, code, stderr)
	secret, stderr, code := call(t, env, append([]string{"secrets", "show"}, scope...)...)
	require.Equal(t, 0, code, stderr)
	webhook, err := standardwebhooks.NewWebhook(regexp.MustCompile(`whsec_\S+`).FindString(secret))
	require.NoError(t, err)

	s := serve(t, db.URL, true, key, "RIVERHOOK_ALERT_URL="+told.URL+"/hook")
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 3)`, receiver.URL) // two attempts each
	next := func() (event map[string]any) {
		select {
		case a := <-alerts:
			require.NoError(t, webhook.Verify(a.body, a.header))
			require.NoError(t, json.Unmarshal(a.body, &event))
			assert.Equal(t, receiver.URL, event["origin"])
			return event
		case <-time.After(time.Minute):
			require.Fail(t, "nothing was told")
			return nil
		}
	}
	types := map[any]map[string]any{}
	for range 2 {
		event := next()
		types[event["type"]] = event
	}
	assert.InDelta(t, 6, types["origin.failing"]["failures"], 1) // the last one may have come later
	assert.InDelta(t, 500, types["origin.failing"]["status_code"], 0)
	assert.NotEmpty(t, types["delivery.dead_lettered"]["delivery_id"])
	healthy.Store(true)
	require.Eventually(t, func() bool {
		db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1)`, receiver.URL)
		return pgtest.Scalar[bool](t, db, `SELECT EXISTS (SELECT FROM riverhook.deliveries WHERE webhook_name = 'origin.recovered')`)
	}, time.Minute, 100*time.Millisecond)
	assert.Equal(t, "origin.recovered", next()["type"])
	eventually(t, db, 3, `SELECT count(*)::int FROM riverhook.deliveries WHERE organization_id = 'riverhook' AND status = 'succeeded'`)
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.origin_states`), "nothing is known of the one who is told")
	for _, line := range s.log() {
		assert.NotContains(t, line["msg"], "events are not signed")
	}
}

// The payload is documented: each field of it, and nothing else.
func TestHelpEvents(t *testing.T) {
	t.Parallel()
	out, stderr, code := call(t, nil, "help", "events")
	require.Equal(t, 0, code, stderr)
	var example map[string]any
	require.NoError(t, json.Unmarshal([]byte(out[strings.Index(out, "{"):strings.Index(out, "}")+1]), &example))
	var names []string
	for field := range reflect.TypeFor[events.Event]().Fields() {
		name := field.Tag.Get("json")
		names = append(names, name)
		assert.Contains(t, example, name)
		assert.Regexp(t, `(?m)^  `+name+` +\S`, out)
	}
	assert.Len(t, example, len(names))
	for _, kind := range []string{events.TypeFailing, events.TypeRecovered, events.TypeDeadLetter} {
		assert.Regexp(t, `(?m)^  `+kind+` +\S`, out)
	}
}

func TestDoctorEvents(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"RIVERHOOK_ALERT_URL=https://alert.example/hook?token=hunter2"}
	found, _ := examine(t, db.URL, env)
	has(t, found, "events", resultWarn, "sent to https://alert.example, and nothing signs them", "riverhook secrets create --organization riverhook --origin https://alert.example")
	assert.NotContains(t, fmt.Sprint(found), "hunter2")
	db.Exec(t, `INSERT INTO riverhook.signing_secrets (secret_uuid, organization_id, endpoint_origin, sealed) VALUES (gen_random_uuid(), 'riverhook', 'https://alert.example', '')`)
	found, _ = examine(t, db.URL, env)
	has(t, found, "events", resultOK, "signed", "")
}

func TestAlertURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"alert.example/hook", "ftp://alert.example", "https://me:secret@alert.example/", "http://"} {
		_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=postgres://nobody@127.0.0.1:1/x", "RIVERHOOK_ALERT_URL=" + url}, "serve")
		assert.Equal(t, 2, code, url)
		assert.Contains(t, stderr, "RIVERHOOK_ALERT_URL", url)
		assert.NotContains(t, stderr, "secret", url)
	}
}
