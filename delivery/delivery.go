package delivery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Status is where a delivery stands.
type Status string

// A pending delivery is due, or will be, or is being sent. The others are terminal: only a replay leaves them.
const (
	StatusUnknown    Status = ""
	StatusPending    Status = "pending"
	StatusSucceeded  Status = "succeeded"
	StatusDeadLetter Status = "dead_letter"
	StatusCanceled   Status = "canceled"
)

// Statuses are all of them, in the order of a delivery's life.
var Statuses = []Status{StatusPending, StatusSucceeded, StatusDeadLetter, StatusCanceled}

// Delivery is a claimed row: what an attempt needs to know. Texts that are null in the database are empty.
type Delivery struct {
	ID             int64
	UUID           string // what the receiver recognizes repeated attempts by
	OrganizationID string
	WorkflowRunID  string
	WebhookNodeID  string
	WebhookName    string
	EndpointURL    string
	Origin         string // of EndpointURL; empty when it has none
	Method         string // upper case
	Payload        []byte // the inserted text, byte for byte; nil when it is larger than the service accepts
	PayloadBytes   int    // its size, also when it was not fetched
	CustomHeaders  []byte // JSON; nil or "null" for none
	CredentialUUID string
	Credential     SealedCredential // of CredentialUUID in OrganizationID, as it was at the claim
	SigningSecrets []SealedSecret   // to sign it with, the newest first; none: it is not signed
	MaxAttempts    int              // 0: the policy's
	Traceparent    string           // as it was inserted, which may be no valid one, or only its beginning

	Claim     int64  // generation: with ID and ClaimedBy the fence of everything that is written about this attempt
	ClaimedBy string // node

	Round          int // replays so far
	AttemptCount   int // attempts made in this round, abandoned ones included
	AbandonedCount int // consecutive attempts whose node died
	AbandonedTotal int // attempts of this round whose node died: they do not use up MaxAttempts

	Waited time.Duration // from when it was due to this claim, by the database's clock
}

// SealedCredential is a credential as it is stored. Without a type there is none of that uuid in the organization.
type SealedCredential struct {
	Type string
	Cell []byte
}

// SealedSecret is a signing secret as it is stored.
type SealedSecret struct {
	UUID string
	Cell []byte
}

// Attempt is the number of the attempt that this claim is for, from 1 on within the round.
func (d *Delivery) Attempt() int { return d.AttemptCount + 1 }

// Fence names one claim of one delivery. What is written about an attempt is written for its fence only: a claim that was
// taken away, by whatever means, writes nothing.
type Fence struct {
	ID    int64
	Claim int64
	Node  string
}

// Fence is the fence of this claim.
func (d *Delivery) Fence() Fence { return Fence{ID: d.ID, Claim: d.Claim, Node: d.ClaimedBy} }

// Names that the trigger in the database, the store and the worker share.
const (
	JobKind  = "deliver_webhook" // River's kind of the job that wakes a worker up for a delivery
	JobQueue = "webhooks"        // River's queue of those jobs
)

// JobArgs are the arguments of River's job: which delivery, and for which generation of it. A job whose generation has
// passed does nothing. Both fields are part of the job's unique key.
type JobArgs struct {
	Claim      int64 `json:"claim"`
	DeliveryID int64 `json:"delivery_id"`
}

// Kind is River's name of the job.
func (JobArgs) Kind() string { return JobKind }

// UnmarshalJSON reads what Postgres writes, {"claim": 0, "delivery_id": 1}, without encoding/json: that took a twentieth of
// the CPU time of a delivery. It leaves everything else to encoding/json.
func (a *JobArgs) UnmarshalJSON(text []byte) error {
	if read, ok := readJobArgs(text); ok {
		*a = read
		return nil
	}
	type plain JobArgs
	if err := json.Unmarshal(text, (*plain)(a)); err != nil {
		return fmt.Errorf("delivery: job arguments: %w", err)
	}
	return nil
}

func readJobArgs(text []byte) (a JobArgs, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(`{"claim": `))
	if !ok {
		return a, false
	}
	first, rest, ok := bytes.Cut(rest, []byte(`, "delivery_id": `))
	last, closed := bytes.CutSuffix(rest, []byte(`}`))
	if !ok || !closed {
		return a, false
	}
	var claimErr, idErr error
	a.Claim, claimErr = strconv.ParseInt(string(first), 10, 64)
	a.DeliveryID, idErr = strconv.ParseInt(string(last), 10, 64)
	return a, claimErr == nil && idErr == nil
}
