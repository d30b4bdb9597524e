package events

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/riverhook/riverhook/delivery/store"
)

var base = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// told is one event in a few words.
func told(events []Event) (words []string) {
	for _, e := range events {
		words = append(words, e.Type+" "+string(rune('0'+e.Count)))
	}
	return words
}

func TestDecide(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) *time.Time { at := base.Add(-d); return &at }
	for name, c := range map[string]struct {
		state store.OriginState
		seen  store.OriginSeen
		room  int
		want  []string
		check func(*testing.T, store.OriginState)
	}{
		"nothing": {room: 9},
		"too few failures": {seen: store.OriginSeen{Failures: 4}, room: 9, check: func(t *testing.T, o store.OriginState) {
			assert.Equal(t, 4, o.Failures)
			assert.False(t, o.Failing)
		}},
		"enough, with those of other nodes": {state: store.OriginState{Failures: 4}, seen: store.OriginSeen{Failures: 1}, room: 9, want: []string{"origin.failing 1"},
			check: func(t *testing.T, o store.OriginState) {
				assert.True(t, o.Failing)
				assert.Equal(t, base, *o.FailingSince)
				assert.Equal(t, store.Notice{SentAt: &base}, o.FailingNotice)
			}},
		"fails on: told once": {state: store.OriginState{Failures: 50, Failing: true, FailingSince: ago(time.Hour)}, seen: store.OriginSeen{Failures: 100}, room: 9},
		"a success in between": {state: store.OriginState{Failures: 4}, seen: store.OriginSeen{Succeeded: true, Failures: 4}, room: 9,
			check: func(t *testing.T, o store.OriginState) { assert.Equal(t, 4, o.Failures) }},
		"recovered": {state: store.OriginState{Failures: 9, Failing: true, FailingSince: ago(time.Hour)}, seen: store.OriginSeen{Succeeded: true}, room: 9, want: []string{"origin.recovered 1"},
			check: func(t *testing.T, o store.OriginState) {
				assert.False(t, o.Failing)
				assert.Zero(t, o.Failures)
				assert.Equal(t, base.Add(-time.Hour), *o.FailingSince)
			}},
		"a success of one that does not fail": {state: store.OriginState{Failures: 3}, seen: store.OriginSeen{Succeeded: true}, room: 9},
		"recovered, and failed again at once": {state: store.OriginState{Failures: 9, Failing: true}, seen: store.OriginSeen{Succeeded: true, Failures: 5}, room: 9, want: []string{"origin.failing 1"},
			check: func(t *testing.T, o store.OriginState) { assert.True(t, o.Failing) }},
		"dead letters": {seen: store.OriginSeen{DeadLetters: 7}, room: 9, want: []string{"delivery.dead_lettered 7"}},
		"more of them, too soon": {state: store.OriginState{DeadLetterNotice: store.Notice{SentAt: ago(5*time.Minute - time.Second)}}, seen: store.OriginSeen{DeadLetters: 7}, room: 9,
			check: func(t *testing.T, o store.OriginState) {
				assert.Equal(t, store.Notice{SentAt: ago(5*time.Minute - time.Second), Count: 7}, o.DeadLetterNotice)
			}},
		"what was swallowed, when it is time": {state: store.OriginState{DeadLetterNotice: store.Notice{SentAt: ago(5 * time.Minute), Count: 7}}, room: 9, want: []string{"delivery.dead_lettered 7"},
			check: func(t *testing.T, o store.OriginState) {
				assert.Equal(t, store.Notice{SentAt: &base}, o.DeadLetterNotice)
			}},
		"a kind does not swallow another": {state: store.OriginState{Failures: 4, DeadLetterNotice: store.Notice{SentAt: ago(time.Second)}}, seen: store.OriginSeen{Failures: 1, DeadLetters: 1}, room: 9, want: []string{"origin.failing 1"}},
		"no room": {seen: store.OriginSeen{DeadLetters: 2}, room: 0, check: func(t *testing.T, o store.OriginState) {
			assert.Equal(t, store.Notice{Count: 2}, o.DeadLetterNotice)
		}},
		"room for one": {state: store.OriginState{Failures: 4}, seen: store.OriginSeen{Failures: 1, DeadLetters: 1}, room: 1, want: []string{"origin.failing 1"}},
		"it failed while nothing was told, and recovered": {state: store.OriginState{FailingNotice: store.Notice{SentAt: ago(time.Hour), Count: 3}, RecoveredNotice: store.Notice{SentAt: ago(time.Hour), Count: 3}},
			room: 9, want: []string{"origin.recovered 3"}, check: func(t *testing.T, o store.OriginState) { assert.Zero(t, o.FailingNotice.Count) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, events := decide(c.state, c.seen, base, quiet, c.room)
			assert.Equal(t, c.want, told(events))
			if c.check != nil {
				c.check(t, o)
			}
		})
	}
}

func TestPayload(t *testing.T) {
	t.Parallel()
	id, kind, status := int64(42), "status", 503
	_, events := decide(store.OriginState{Origin: "https://a.example", Failures: 4},
		store.OriginSeen{Failures: 2, DeadLetters: 1, LastFailure: store.LastFailure{DeliveryID: &id, FailureKind: &kind, StatusCode: &status}}, base, quiet, 9)
	events[0].Node = "n-1"
	assert.JSONEq(t, `{"type":"origin.failing","origin":"https://a.example","count":1,"at":"2026-01-01T12:00:00Z","failures":6,"failing_since":"2026-01-01T12:00:00Z",
		"delivery_id":42,"failure_kind":"status","status_code":503,"node":"n-1"}`, string(events[0].payload()))
	assert.JSONEq(t, `{"type":"delivery.dead_lettered","origin":"https://a.example","count":1,"at":"2026-01-01T12:00:00Z","failures":null,"failing_since":null,
		"delivery_id":42,"failure_kind":"status","status_code":503,"node":""}`, string(events[1].payload()))
	_, events = decide(store.OriginState{}, store.OriginSeen{DeadLetters: 1}, base, quiet, 9)
	assert.Nil(t, events[0].Origin)
}
