package check

import "time"

// Records are all that is known of a run. Times are of one machine's clock; those that come from the database are of its
// clock, which is the same one unless it was set wrong on purpose.
type Records struct {
	Timeout, Lease time.Duration // what the nodes were told
	// Slack is how late a slow machine may notice something: it widens every fault.
	Slack time.Duration

	Inserts    []Insert
	Requests   []Request
	Acts       []Act
	Faults     []Fault
	Sightings  []Sighting
	Deliveries []Delivery
	Attempts   []Attempt
	Jobs       []Job
	ReadAt     time.Time // when the tables were read, by the database's clock
}

// Result is what whoever sent a transaction knows of it.
type Result string

// A transaction whose connection broke while its COMMIT was under way is of unknown outcome: the table knows.
const (
	Committed  Result = "committed"
	RolledBack Result = "rolled back"
	Unknown    Result = "unknown"
)

// Insert is one row that the application has inserted.
type Insert struct {
	UUID       string
	Origin     string        // of the receiver
	Kind       string        // of the transaction
	Took       time.Duration // the INSERT itself, without its COMMIT
	CommitSent time.Time
	Ended      time.Time // when the result was known, or given up
	Result     Result
	NotBefore  time.Time `json:",omitzero"`  // for a delayed one
	Problem    string    `json:",omitempty"` // an error that no fault explains
}

// Request is one that a receiver got.
type Request struct {
	UUID       string // webhook-id
	Token      string // the id in the body
	Attempt    int    // its header
	Origin     string
	Start, End time.Time
	Status     int    // what it was answered; 0: nothing that is HTTP
	How        string // what the receiver did
	Written    bool   // the whole answer was handed over
}

// Delivered says that the receiver took it.
func (r Request) Delivered() bool { return r.Status >= 200 && r.Status <= 299 && r.Written }

// Act is what a person did to a row.
type Act struct {
	Kind       string // cancel or replay
	UUID       string
	Sent, Done time.Time
	Result     Result
	InFlight   bool // somebody was sending it
}

// The acts.
const (
	Cancel = "cancel"
	Replay = "replay"
)

// Excuse is what a fault explains.
type Excuse string

// None explains nothing: riverhook has to live through it without a duplicate.
const (
	None     Excuse = ""
	Death    Excuse = "death"    // a node was killed
	Freeze   Excuse = "freeze"   // a node was stopped for a while
	Database Excuse = "database" // answers of the database were lost
	Clock    Excuse = "clock"    // the database's clock jumped
)

// Fault is something that was done to the system.
type Fault struct {
	Kind     string
	Detail   string
	Node     string // whom it struck; empty: all
	Origin   string // for a receiver's
	From, To time.Time
	Excuse   Excuse
	Delays   bool   // deliveries that come due meanwhile may have to wait for its end
	Problem  string `json:",omitempty"` // what should not have happened
}

// Sighting is a state that was seen during the run and must never be.
type Sighting struct {
	At           time.Time
	Rule, Detail string
}

// Delivery is a row of deliveries.
type Delivery struct {
	ID, Claim       int64
	UUID, Status    string
	Round, Attempts int
	AbandonedInARow int
	MaxAttempts     int // 0: the service's
	ClaimedBy       *string
	LeasedUntil     *time.Time
	ScheduledFor    *time.Time
	HeldSince       *time.Time
	FinishedAt      *time.Time
	LastError       *string
	CreatedAt       time.Time
}

// Attempt is a row of attempts.
type Attempt struct {
	DeliveryID       int64
	Round, Number    int
	StartedAt        time.Time
	Outcome, Failure string
	Status           int
	Node             string
}

// Job is one of River's for a delivery.
type Job struct {
	ID, DeliveryID, Claim int64
	State                 string
	ScheduledAt           time.Time
}
