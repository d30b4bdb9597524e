package delivery

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Outcome is what an attempt showed, in one word, as the ledger has it.
type Outcome string

// Transient outcomes are tried again, permanent ones are not. An attempt is abandoned when its node died before the
// outcome was known.
const (
	OutcomeUnknown   Outcome = ""
	OutcomeSucceeded Outcome = "succeeded"
	OutcomeTransient Outcome = "transient"
	OutcomePermanent Outcome = "permanent"
	OutcomeAbandoned Outcome = "abandoned"
)

// FailureKind says why an attempt failed. The list is closed: programs and metrics branch on it.
type FailureKind string

// The kinds of failure.
const (
	FailureNone       FailureKind = ""
	FailureStatus     FailureKind = "status"     // the receiver answered, and not with 2xx
	FailureTimeout    FailureKind = "timeout"    // the attempt's deadline passed
	FailureDNS        FailureKind = "dns"        // the host name did not resolve
	FailureRefused    FailureKind = "refused"    // no connection could be made
	FailureReset      FailureKind = "reset"      // the connection broke before an answer
	FailureTLS        FailureKind = "tls"        // no trusted TLS session
	FailureProtocol   FailureKind = "protocol"   // the answer was not HTTP
	FailureBlocked    FailureKind = "blocked"    // the address is one that requests must not reach
	FailureInvalid    FailureKind = "invalid"    // the row cannot be sent as it is
	FailureCredential FailureKind = "credential" // the credential is missing or cannot be opened
	FailureInternal   FailureKind = "internal"   // a fault of ours
)

// FailureKinds are all of them.
var FailureKinds = []FailureKind{
	FailureStatus, FailureTimeout, FailureDNS, FailureRefused, FailureReset, FailureTLS, FailureProtocol, FailureBlocked,
	FailureInvalid, FailureCredential, FailureInternal,
}

// retried says which failures may pass by themselves. FailureStatus is not in it: the policy's list of statuses decides.
var retried = map[FailureKind]bool{
	FailureTimeout:    true,
	FailureDNS:        true,
	FailureRefused:    true,
	FailureReset:      true,
	FailureTLS:        true,
	FailureProtocol:   true,
	FailureCredential: true,
	FailureBlocked:    false,
	FailureInvalid:    false,
	FailureInternal:   false,
}

// Observation is what one attempt saw: an answer, a failure before one, or that its node died.
type Observation struct {
	StatusCode int         // of the answer; 0 when there was none
	Failure    FailureKind // why there was no answer; FailureNone when there was one
	Abandoned  bool        // nobody knows: the node died
	Error      string      // for people; never empty when the attempt did not succeed
	RetryAfter string      // the answer's Retry-After, as received
}

// Policy is what retries depend on.
type Policy struct {
	MaxAttempts int           // for deliveries that do not say; default 20
	BaseDelay   time.Duration // after the first attempt; default 30 s
	MaxDelay    time.Duration // the longest delay, Retry-After included; default 6 h
	Jitter      float64       // 0 to 1: a delay is drawn evenly from ±Jitter around its value; default 0.2
	Retryable   StatusSet     // statuses that are worth another attempt
}

// DefaultPolicy tries a delivery for about two and a half days.
func DefaultPolicy() Policy {
	return Policy{MaxAttempts: 20, BaseDelay: 30 * time.Second, MaxDelay: 6 * time.Hour, Jitter: 0.2, Retryable: DefaultRetryable()}
}

// MaxAbandoned is how many attempts in a row may be abandoned before the delivery is parked: one that takes its node
// down with it must not do so for ever.
const MaxAbandoned = 5

// Decision is what becomes of a delivery after an attempt.
type Decision struct {
	Outcome Outcome
	Failure FailureKind // FailureNone when it succeeded or was abandoned
	Status  Status
	Delay   time.Duration // until the next attempt; only when Status is pending
	Error   string        // last_error; empty after a success
}

// Decide is the whole state machine: what becomes of d after an attempt that showed o. now is used for a Retry-After that
// is a date, jitter (0 <= jitter < 1) draws the delay from its range.
func Decide(d *Delivery, o Observation, p Policy, now time.Time, jitter float64) Decision {
	if o.Abandoned {
		return decideAbandoned(d, o, p, jitter)
	}
	if o.Failure == FailureNone && o.StatusCode >= 200 && o.StatusCode <= 299 {
		return Decision{Outcome: OutcomeSucceeded, Status: StatusSucceeded}
	}

	kind := o.Failure
	transient := retried[kind]
	if kind == FailureNone || kind == FailureStatus {
		kind = FailureStatus
		transient = p.Retryable.Contains(o.StatusCode)
	}
	if !transient {
		return Decision{Outcome: OutcomePermanent, Failure: kind, Status: StatusDeadLetter, Error: o.Error}
	}
	// Abandoned attempts do not use up the allowance, and do not stretch the delay.
	made := d.Attempt() - d.AbandonedTotal
	if made >= d.MaxAttemptsUnder(p) {
		return Decision{Outcome: OutcomeTransient, Failure: kind, Status: StatusDeadLetter, Error: o.Error}
	}
	return Decision{
		Outcome: OutcomeTransient,
		Failure: kind,
		Status:  StatusPending,
		Delay:   p.Delay(made, RetryAfter(o.RetryAfter, now), jitter),
		Error:   o.Error,
	}
}

// decideAbandoned: the first is tried again at once, the next ones in a row back off, the fifth parks the delivery.
func decideAbandoned(d *Delivery, o Observation, p Policy, jitter float64) Decision {
	inARow := d.AbandonedCount + 1
	decision := Decision{Outcome: OutcomeAbandoned, Status: StatusPending, Error: o.Error}
	switch {
	case inARow >= MaxAbandoned:
		decision.Status = StatusDeadLetter
		decision.Error = fmt.Sprintf("%d attempts in a row were abandoned; %s", inARow, o.Error)
	case inARow > 1:
		decision.Delay = p.Delay(inARow-1, 0, jitter)
	}
	return decision
}

// MaxAttemptsUnder is how many attempts d has under p: its own number, or else the policy's.
func (d *Delivery) MaxAttemptsUnder(p Policy) int {
	if d.MaxAttempts > 0 {
		return d.MaxAttempts
	}
	return p.MaxAttempts
}

// Delay is the time between attempt (from 1 on) and the next: min(max(base * 2^(attempt-1) with jitter, retryAfter), max).
func (p Policy) Delay(attempt int, retryAfter time.Duration, jitter float64) time.Duration {
	// In floating point, where 2^62 seconds are a large number and not an overflow; more is over any cap.
	delay := float64(p.BaseDelay) * math.Pow(2, float64(min(max(attempt, 1)-1, 62)))
	delay *= 1 + p.Jitter*(2*jitter-1)
	delay = math.Max(delay, float64(retryAfter))
	if delay >= float64(p.MaxDelay) {
		return p.MaxDelay
	}
	return time.Duration(delay)
}

// RetryAfter reads a Retry-After header: seconds, or an HTTP date, which is held against now. What is absent, negative,
// past or unreadable is 0; what is absurdly long is as long as a Duration can be (Delay caps it).
func RetryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0
	}
	if digitsOnly(header) {
		seconds, err := strconv.ParseInt(header, 10, 64)
		if err != nil || seconds > int64(math.MaxInt64/time.Second) {
			return math.MaxInt64
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return max(at.Sub(now), 0)
}

func digitsOnly(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}
