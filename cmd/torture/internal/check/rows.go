package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// state holds the row against the invariants.
func (c *checker) state(s *story) {
	d := s.row
	if d.Status == pending {
		c.broken(RuleLost, d.UUID, fmt.Sprintf("pending after %d attempts, round %d: %s", d.Attempts, d.Round, c.waiting(d)))
		return
	}
	for _, bad := range []struct {
		is   bool
		text string
	}{
		{d.ScheduledFor != nil, "has a time"},
		{d.ClaimedBy != nil, "is claimed"},
		{d.LeasedUntil != nil, "has a lease"},
		{d.HeldSince != nil, "is held"},
		{d.FinishedAt == nil, "is not finished"},
	} {
		if bad.is {
			c.broken(RuleState, d.UUID, d.Status+", and "+bad.text)
		}
	}
}

// waiting says what a pending row waits for.
func (c *checker) waiting(d Delivery) string {
	var what []string
	if d.ClaimedBy != nil {
		what = append(what, "claimed by "+*d.ClaimedBy)
	}
	if d.LeasedUntil != nil && d.LeasedUntil.Before(c.ReadAt) {
		what = append(what, "its lease ended "+c.ReadAt.Sub(*d.LeasedUntil).Round(time.Millisecond).String()+" ago")
	}
	if d.HeldSince != nil {
		what = append(what, "held")
	}
	if d.ScheduledFor != nil {
		what = append(what, "due "+c.ReadAt.Sub(*d.ScheduledFor).Round(time.Millisecond).String()+" ago")
	}
	job := "no job"
	for _, j := range c.Jobs {
		if j.DeliveryID == d.ID && j.Claim == d.Claim {
			job = "its job is " + j.State
		}
	}
	return strings.Join(append(what, job), ", ")
}

// finality: a terminal row has a last attempt that ended it, and none after that (G6).
func (c *checker) finality(s *story) {
	for round, attempts := range s.rounds {
		for i, a := range attempts[:max(0, len(attempts)-1)] {
			if a.Outcome != succeeded && a.Outcome != permanent {
				continue
			}
			// It was taken for abandoned, and its outcome came late.
			if c.cause(a.Node, a.StartedAt, a.StartedAt.Add(c.Lease), Freeze, Database, Clock) == nil {
				c.broken(RuleNotFinal, s.row.UUID, fmt.Sprintf("round %d: attempt %d is %s, and there is attempt %d",
					round, a.Number, a.Outcome, attempts[i+1].Number))
			}
		}
	}
	attempts := s.rounds[s.row.Round]
	var last Attempt
	if len(attempts) > 0 {
		last = attempts[len(attempts)-1]
	}
	switch s.row.Status {
	case succeeded:
		if last.Outcome != succeeded {
			c.broken(RuleState, s.row.UUID, "succeeded, and its last attempt is "+cmp.Or(last.Outcome, "not there"))
		}
	case deadLetter:
		c.justify(s, attempts, last)
	case canceled:
		if !slices.ContainsFunc(s.acts, func(a Act) bool { return a.Kind == Cancel && a.Result != RolledBack }) {
			c.broken(RuleActs, s.row.UUID, "canceled, and nobody did")
		}
	case pending:
	default:
		c.broken(RuleState, s.row.UUID, "status "+s.row.Status)
	}
}

// justify: a dead letter was refused for good, or tried as often as it may be, or took five nodes in a row with it.
func (c *checker) justify(s *story, attempts []Attempt, last Attempt) {
	made, inARow := 0, 0
	for _, a := range attempts {
		if a.Outcome == abandoned {
			inARow++
			continue
		}
		made, inARow = made+1, 0
	}
	switch {
	case last.Outcome == permanent && last.Failure == "status" && last.Status != 0: // what was answered is compared elsewhere
	case last.Outcome == transient && made >= cmp.Or(s.row.MaxAttempts, DefaultMaxAttempts):
	case last.Outcome == abandoned && inARow >= mostAbandonedInARow:
	default:
		c.broken(RuleUnjustified, s.row.UUID, fmt.Sprintf("%d attempts, %d of them made, the last one %s %s %d",
			len(attempts), made, last.Outcome, last.Failure, last.Status))
	}
}

// acted: as many rounds as replays, and nothing is sent of what was canceled while nobody was sending it.
func (c *checker) acted(s *story) {
	sure, most := 0, 0
	for _, a := range s.acts {
		if a.Kind == Replay {
			if a.Result == Committed {
				sure++
			}
			if a.Result != RolledBack {
				most++
			}
		}
	}
	if s.row.Round < sure || s.row.Round > most {
		c.broken(RuleActs, s.row.UUID, fmt.Sprintf("round %d after %d to %d replays", s.row.Round, sure, most))
	}
	for i, a := range s.acts {
		if a.Kind != Cancel || a.Result != Committed || a.InFlight {
			continue
		}
		until := time.Time{}
		for _, later := range s.acts[i+1:] {
			if later.Kind == Replay {
				until = later.Sent
				break
			}
		}
		for n, q := range s.requests {
			if q.Start.After(a.Done) && (until.IsZero() || q.Start.Before(until)) {
				node := ""
				if p := s.in[n]; p != nil {
					node = p.attempt.Node
				}
				if c.cause(node, q.Start.Add(-c.Lease), q.Start, Freeze, Clock) == nil {
					c.broken(RuleCanceled, s.row.UUID, fmt.Sprintf("canceled at %s, sent at %s", a.Done.Format(clock), q.Start.Format(clock)))
				}
			}
		}
	}
}

// jobs: one that could be worked is, soon; and it is for a row.
func (c *checker) jobs() {
	for _, j := range c.Jobs {
		uuid, there := c.ids[j.DeliveryID]
		switch {
		case !there:
			c.broken(RuleJob, "", fmt.Sprintf("job %d is %s, for a delivery %d that is not there", j.ID, j.State, j.DeliveryID))
		case j.State == "available" && j.ScheduledAt.Before(c.ReadAt.Add(-jobGrace)):
			c.broken(RuleJob, uuid, fmt.Sprintf("job %d is available since %s", j.ID, c.ReadAt.Sub(j.ScheduledAt).Round(time.Second)))
		}
	}
}
