package check

import "fmt"

// repeated looks for requests that came once more than needed, and for two at a time (G3, G4).
func (c *checker) repeated(s *story) {
	for n := range s.requests {
		next := s.in[n]
		if next == nil {
			continue // unaccounted already
		}
		for p := n - 1; p >= 0; p-- {
			earlier := s.in[p]
			if earlier == nil || earlier.attempt.Round != next.attempt.Round {
				continue
			}
			if s.requests[p].End.After(s.requests[n].Start) {
				c.overlap(s, earlier, next)
			}
			if s.requests[p].Delivered() {
				c.duplicate(s, earlier)
				break
			}
		}
	}
}

func (c *checker) overlap(s *story, earlier, next *place) {
	// A node that is dead ends no connection cleanly, and one that is frozen none at all.
	q := earlier.request
	if c.cause(earlier.attempt.Node, q.Start.Add(-c.Lease), next.request.Start, Death, Freeze, Clock) == nil {
		c.broken(RuleOverlap, s.row.UUID, fmt.Sprintf("attempt %d of %s, %s to %s, and attempt %d of %s from %s on",
			earlier.attempt.Number, earlier.attempt.Node, q.Start.Format(clock), q.End.Format(clock),
			next.attempt.Number, next.attempt.Node, next.request.Start.Format(clock)))
	}
}

// duplicate: it was delivered, and yet there was another. What went wrong began before its outcome should have been recorded:
// at once. (An outcome that came late has corrected the ledger.)
func (c *checker) duplicate(s *story, earlier *place) {
	a, q := earlier.attempt, earlier.request
	excuses := []Excuse{Freeze, Database, Clock}
	if a.Outcome == abandoned {
		excuses = append(excuses, Death)
	}
	if f := c.cause(a.Node, q.Start, q.End, excuses...); f != nil {
		c.report.Duplicates = append(c.report.Duplicates, Duplicate{s.row.UUID, f.Kind})
		return
	}
	// On a slow machine an answer may lie around for a while before the node looks at it.
	if a.Outcome == transient && a.Failure == "timeout" && (q.End.Sub(q.Start) > c.Timeout/2 || q.End.Sub(a.StartedAt) > c.Timeout/2) {
		c.report.Duplicates = append(c.report.Duplicates, Duplicate{s.row.UUID, "answered after the timeout"})
		return
	}
	c.broken(RuleDuplicate, s.row.UUID, fmt.Sprintf("round %d attempt %d of %s was answered %d from %s to %s; the ledger has it as %s %s",
		a.Round, a.Number, a.Node, q.Status, q.Start.Format(clock), q.End.Format(clock), a.Outcome, a.Failure))
}

// abandonment: every abandoned attempt has a cause.
func (c *checker) abandonment(s *story) {
	for _, attempts := range s.rounds {
		for _, a := range attempts {
			if a.Outcome != abandoned {
				continue
			}
			c.report.AbandonedAttempts++
			// Replayed while it was in flight: that ends a round.
			if a.Round < s.row.Round && a.Number == len(attempts) && len(c.replaysOf(s)) > 0 {
				continue
			}
			f := c.cause(a.Node, a.StartedAt, a.StartedAt.Add(c.Lease), Death, Freeze, Database, Clock)
			if f == nil {
				c.broken(RuleAbandoned, s.row.UUID, fmt.Sprintf("round %d attempt %d of %s, claimed at %s",
					a.Round, a.Number, a.Node, a.StartedAt.Format(clock)))
				continue
			}
			r := c.report.Recovery[f.Kind]
			r.Abandoned++
			for _, q := range s.requests {
				if q.Start.After(f.From) && (q.Attempt > a.Number) {
					r.Resent++
					r.Slowest = max(r.Slowest, q.Start.Sub(f.To))
					break
				}
			}
			c.report.Recovery[f.Kind] = r
		}
	}
}

func (c *checker) replaysOf(s *story) []Act {
	var replays []Act
	for _, a := range s.acts {
		if a.Kind == Replay && a.Result != RolledBack {
			replays = append(replays, a)
		}
	}
	return replays
}
