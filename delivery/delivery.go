package delivery

import "encoding/json"

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
	MaxAttempts    int // 0: the policy's

	Claim     int64  // generation: with ID and ClaimedBy the fence of everything that is written about this attempt
	ClaimedBy string // node

	Round          int // replays so far
	AttemptCount   int // attempts made in this round, abandoned ones included
	AbandonedCount int // consecutive attempts whose node died
	AbandonedTotal int // attempts of this round whose node died: they do not use up MaxAttempts
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

// Header is one entry of a row's custom_headers.
type Header struct{ Key, Value string }

// ParseHeaders reads custom_headers. An error means that the row cannot be sent as it is: anything but an array of
// objects with a string key and a string value. Nulls, no headers at all and missing keys or values are not errors; the
// entries with an empty key or value are left out.
func ParseHeaders(custom []byte) ([]Header, error) {
	if len(custom) == 0 {
		return nil, nil
	}
	var entries []struct {
		Key   *string `json:"key"`
		Value *string `json:"value"`
	}
	if err := json.Unmarshal(custom, &entries); err != nil {
		return nil, errHeaders
	}
	headers := make([]Header, 0, len(entries))
	for _, e := range entries {
		if e.Key != nil && e.Value != nil && *e.Key != "" && *e.Value != "" {
			headers = append(headers, Header{Key: *e.Key, Value: *e.Value})
		}
	}
	return headers, nil
}
