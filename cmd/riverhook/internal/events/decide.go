package events

import (
	"encoding/json"
	"time"

	"github.com/riverhook/riverhook/delivery/store"
)

// The types of events.
const (
	TypeFailing    = "origin.failing"         // several attempts in a row failed
	TypeRecovered  = "origin.recovered"       // and then one succeeded
	TypeDeadLetter = "delivery.dead_lettered" // a delivery, or Count of them, will not be tried again
)

const (
	// failingAfter attempts in a row that failed is an origin one that fails: fewer are what retries are for.
	failingAfter = 5
	// quiet is how long no second event of a type is sent about an origin.
	quiet = 5 * time.Minute
)

// Event is what is sent, as JSON. Fields that are null have no value for that type, or it is not known.
type Event struct {
	Type   string  `json:"type"`
	Origin *string `json:"origin"` // null: of endpoints that have none
	// Count is how often it happened since the last event of this type about this origin: 1, unless there were more within
	// five minutes.
	Count       int        `json:"count"`
	At          time.Time  `json:"at"`
	Failures    *int       `json:"failures"`      // origin.failing: attempts in a row that failed
	Since       *time.Time `json:"failing_since"` // origin.failing and origin.recovered
	DeliveryID  *int64     `json:"delivery_id"`   // the last that failed; not of origin.recovered
	FailureKind *string    `json:"failure_kind"`  // of it
	StatusCode  *int       `json:"status_code"`   // of it
	Node        string     `json:"node"`          // that tells it
}

// decide says what becomes of an origin about which seen was seen, and which events, room at most, are due. What there is no
// room for, or what is too soon, is told later.
func decide(o store.OriginState, seen store.OriginSeen, now time.Time, quiet time.Duration, room int) (store.OriginState, []Event) {
	if seen.Failures+seen.DeadLetters > 0 {
		o.LastFailure = seen.LastFailure
	}
	if seen.Succeeded {
		if o.Failing {
			o.Failing = false
			o.RecoveredNotice.Count++
		}
		o.Failures = 0
	}
	if o.Failures += seen.Failures; o.Failures >= failingAfter && !o.Failing {
		o.Failing, o.FailingSince = true, &now
		o.FailingNotice.Count++
	}
	o.DeadLetterNotice.Count += seen.DeadLetters

	var events []Event
	tell := func(n *store.Notice, still bool, e Event) {
		switch {
		case n.Count == 0 || n.SentAt != nil && now.Sub(*n.SentAt) < quiet:
		case !still: // it began and ended while nothing was told: the event of the other type says how often
			n.Count = 0
		case room > 0:
			room--
			e.Count, e.At = n.Count, now
			if o.Origin != "" {
				e.Origin = &o.Origin
			}
			*n = store.Notice{SentAt: &now}
			events = append(events, e)
		}
	}
	failed := Event{DeliveryID: o.DeliveryID, FailureKind: o.FailureKind, StatusCode: o.StatusCode}
	dead, failing := failed, failed
	dead.Type = TypeDeadLetter
	failing.Type, failing.Failures, failing.Since = TypeFailing, &o.Failures, o.FailingSince
	tell(&o.FailingNotice, o.Failing, failing)
	tell(&o.RecoveredNotice, !o.Failing, Event{Type: TypeRecovered, Since: o.FailingSince})
	tell(&o.DeadLetterNotice, true, dead)
	return o, events
}

// payload is an event as its receiver gets it.
func (e Event) payload() json.RawMessage {
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // there is nothing in it that JSON cannot say
	}
	return text
}
