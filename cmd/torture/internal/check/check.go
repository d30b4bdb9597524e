package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The rules. Each says what was found.
const (
	RuleLost            = "lost: committed, and not delivered to its end"
	RuleVanished        = "lost: committed, and not in the table"
	RuleNeverReceived   = "lost: recorded as answered, and never received so"
	RuleUnjustified     = "lost: a dead letter without a reason"
	RulePhantom         = "phantom: received, and never committed"
	RuleTooEarly        = "phantom: received before its commit or its time"
	RuleTable           = "phantom: in the table, and never committed"
	RuleForged          = "the body is another delivery's"
	RuleUnaccounted     = "received, and not in the ledger"
	RuleMismatch        = "the ledger says something else than the receiver"
	RuleGap             = "the ledger has a gap"
	RuleDuplicate       = "duplicate without a cause"
	RuleOverlap         = "two attempts at a time without a cause"
	RuleAbandoned       = "abandoned without a cause"
	RuleLate            = "sent after its lease had ended, without a cause"
	RuleNotFinal        = "an attempt after the last one, without a cause"
	RuleState           = "a state that must not be"
	RuleCanceled        = "sent after it was canceled"
	RuleActs            = "the row does not show what people did"
	RuleJob             = "a job that nobody works, or without a row"
	RuleRetryWithoutJob = "a retry that waits without a job"
	RuleInsert          = "an INSERT failed without a cause"
	RuleFault           = "a process did what it must not"
)

// What statuses and outcomes are called in the tables.
const (
	pending    = "pending"
	succeeded  = "succeeded"
	deadLetter = "dead_letter"
	canceled   = "canceled"
	transient  = "transient"
	permanent  = "permanent"
	abandoned  = "abandoned"
)

const (
	// DefaultMaxAttempts is what the nodes of a run must be told.
	DefaultMaxAttempts = 60
	// mostAbandonedInARow park a delivery.
	mostAbandonedInARow = 5
	// jobGrace is how long a job that could be worked may lie around.
	jobGrace = 30 * time.Second
)

// Violation is one broken promise.
type Violation struct {
	Rule, UUID, Detail string
}

func (v Violation) String() string {
	return strings.TrimSpace(v.Rule + ": " + v.UUID + " " + v.Detail)
}

// Duplicate is a request too many, and the fault that explains it.
type Duplicate struct {
	UUID  string
	Cause string
}

// Recovery is how long the slowest delivery that a kind of fault struck had to wait after it.
type Recovery struct {
	Faults, Abandoned, Resent int
	Slowest                   time.Duration
}

// Report is the verdict.
type Report struct {
	Violations []Violation
	Duplicates []Duplicate
	Recovery   map[string]Recovery // by kind of fault

	Committed, RolledBack, Unknown, UnknownCommitted int
	Requests, Delivered, Attempts, AbandonedAttempts int
	SlowestInsert                                    time.Duration // of those that no fault of the database was in the way of
	Late                                             int           // requests that a node sent when it had been frozen beyond its lease
	ByStatus                                         map[string]int
	Lost                                             int // violations that are losses
}

// OK says that nothing was violated.
func (r *Report) OK() bool { return len(r.Violations) == 0 }

// Check compares. It needs no database, has no clock and changes nothing.
func Check(records *Records) *Report {
	c := newChecker(records)
	c.inserts()
	c.received()
	for _, uuid := range slices.Sorted(maps.Keys(c.stories)) {
		c.story(c.stories[uuid])
	}
	c.jobs()
	for _, s := range records.Sightings {
		c.broken(s.Rule, "", s.At.Format(clock)+" "+s.Detail)
	}
	for _, f := range records.Faults {
		if f.Problem != "" {
			c.broken(RuleFault, "", f.From.Format(clock)+" "+f.Kind+": "+f.Problem)
		}
	}
	c.recovery()
	return c.report
}

const clock = "15:04:05.000"

// story is all that is known of one delivery.
type story struct {
	insert   Insert
	row      Delivery
	requests []Request // by time
	rounds   map[int][]Attempt
	acts     []Act
	in       map[int]*place // the place in the ledger of each request
}

// place is where in the ledger a request stands.
type place struct {
	attempt Attempt
	request *Request // nil: it was never received
}

type checker struct {
	*Records
	report   *Report
	byInsert map[string]Insert
	rows     map[string]Delivery
	ids      map[int64]string
	stories  map[string]*story
}

func newChecker(r *Records) *checker {
	c := &checker{
		Records: r, report: &Report{Recovery: make(map[string]Recovery), ByStatus: make(map[string]int)},
		byInsert: make(map[string]Insert), rows: make(map[string]Delivery), ids: make(map[int64]string), stories: make(map[string]*story),
	}
	for _, i := range r.Inserts {
		c.byInsert[i.UUID] = i
	}
	for _, d := range r.Deliveries {
		c.rows[d.UUID], c.ids[d.ID] = d, d.UUID
		c.stories[d.UUID] = &story{insert: c.byInsert[d.UUID], row: d, rounds: make(map[int][]Attempt)}
	}
	for _, a := range r.Attempts {
		if s := c.stories[c.ids[a.DeliveryID]]; s != nil {
			s.rounds[a.Round] = append(s.rounds[a.Round], a)
		} else {
			c.broken(RuleState, "", fmt.Sprintf("attempt %d of a delivery %d that is not there", a.Number, a.DeliveryID))
		}
	}
	for _, q := range r.Requests {
		if s := c.stories[q.UUID]; s != nil {
			s.requests = append(s.requests, q)
		}
	}
	for _, a := range r.Acts {
		if s := c.stories[a.UUID]; s != nil {
			s.acts = append(s.acts, a)
		}
	}
	for _, s := range c.stories {
		slices.SortFunc(s.requests, func(a, b Request) int { return a.Start.Compare(b.Start) })
		slices.SortFunc(s.acts, func(a, b Act) int { return a.Sent.Compare(b.Sent) })
		for _, attempts := range s.rounds {
			slices.SortFunc(attempts, func(a, b Attempt) int { return cmp.Compare(a.Number, b.Number) })
		}
	}
	return c
}

func (c *checker) broken(rule, uuid, detail string) {
	c.report.Violations = append(c.report.Violations, Violation{rule, uuid, detail})
	if strings.HasPrefix(rule, "lost") {
		c.report.Lost++
	}
}

// inserts compares what was committed with the table (G1, G2, G7).
func (c *checker) inserts() {
	for _, i := range c.Inserts {
		_, there := c.rows[i.UUID]
		switch i.Result {
		case Committed:
			c.report.Committed++
			if !there {
				c.broken(RuleVanished, i.UUID, i.Kind)
			}
		case RolledBack:
			c.report.RolledBack++
			if there {
				c.broken(RuleTable, i.UUID, i.Kind+", rolled back")
			}
		default:
			c.report.Unknown++
			if there {
				c.report.UnknownCommitted++
			}
		}
		if i.Result == Committed && c.cause("", i.CommitSent.Add(-i.Took), i.CommitSent, Database) == nil {
			c.report.SlowestInsert = max(c.report.SlowestInsert, i.Took)
		}
		if i.Problem != "" {
			c.broken(RuleInsert, i.UUID, i.Kind+": "+i.Problem)
		}
	}
	for _, d := range c.Deliveries {
		if _, known := c.byInsert[d.UUID]; !known {
			c.broken(RuleTable, d.UUID, "nobody inserted it")
		}
	}
}

// received looks for requests that should not have been (G2).
func (c *checker) received() {
	for _, q := range c.Requests {
		c.report.Requests++
		if q.Delivered() {
			c.report.Delivered++
		}
		if q.Token != q.UUID {
			c.broken(RuleForged, q.UUID, fmt.Sprintf("attempt %d has the body of %q", q.Attempt, q.Token))
		}
		i, known := c.byInsert[q.UUID]
		_, there := c.rows[q.UUID]
		switch {
		case !known:
			c.broken(RulePhantom, q.UUID, "nobody inserted it")
		case i.Result == RolledBack:
			c.broken(RulePhantom, q.UUID, i.Kind+", rolled back")
		case !there:
			if i.Result == Unknown { // that of a committed one is RuleVanished
				c.broken(RulePhantom, q.UUID, i.Kind+", of unknown outcome and not in the table")
			}
		case q.Start.Before(i.CommitSent):
			c.broken(RuleTooEarly, q.UUID, "received at "+q.Start.Format(clock)+", COMMIT sent at "+i.CommitSent.Format(clock))
		case !i.NotBefore.IsZero() && q.Start.Before(i.NotBefore.Add(-100*time.Millisecond)) && !c.struck(Clock) && !c.replayedBefore(q):
			c.broken(RuleTooEarly, q.UUID, "received at "+q.Start.Format(clock)+", due at "+i.NotBefore.Format(clock))
		}
	}
}

// replayedBefore: a replay is due at once, whatever the time was that it had been inserted for.
func (c *checker) replayedBefore(q Request) bool {
	s := c.stories[q.UUID]
	return s != nil && slices.ContainsFunc(s.acts, func(a Act) bool { return a.Kind == Replay && a.Sent.Before(q.Start) })
}

// struck says whether there was any fault of that kind.
func (c *checker) struck(e Excuse) bool {
	return slices.ContainsFunc(c.Faults, func(f Fault) bool { return f.Excuse == e })
}

// cause is the fault that explains that something of a node went wrong between two times; nil: none does.
func (c *checker) cause(node string, from, to time.Time, excuses ...Excuse) *Fault {
	var best *Fault
	for i := range c.Faults {
		f := &c.Faults[i]
		if !slices.Contains(excuses, f.Excuse) || f.Node != "" && f.Node != node {
			continue
		}
		if f.From.Add(-c.Slack).After(to) || f.To.Add(c.Slack).Before(from) {
			continue
		}
		// The one that struck this very node says more than one that struck all.
		if best == nil || best.Node == "" && f.Node != "" {
			best = f
		}
	}
	return best
}

// story judges one delivery.
func (c *checker) story(s *story) {
	c.report.ByStatus[s.row.Status]++
	c.state(s)
	c.ledger(s)
	c.locate(s)
	c.repeated(s)
	c.abandonment(s)
	c.finality(s)
	c.acted(s)
}
