package worker

import (
	"time"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// Hooks are told what a worker does: for metrics, events and traces. They are called on the way of every attempt, by many
// goroutines at once, so they must not wait for anything, nor keep what they are given. Nil ones are left out.
type Hooks struct {
	// Batch: a statement over so many deliveries is about to run.
	Batch func(step Step, size int)
	// Began: an attempt begins, of a delivery that was due so long ago (by the database's clock until its claim, by this
	// machine's monotonic one since). Ended is owed.
	Began func(due time.Duration)
	// Ended: the attempt is over. The outcome is unknown when it was given up because the process stops.
	Ended func(outcome delivery.Outcome, failure delivery.FailureKind, took time.Duration)
	// Recorded: an attempt's outcome is committed.
	Recorded func(d *delivery.Delivery, a *store.Attempt)
	// Late: an outcome came after its claim had been taken away.
	Late func()
	// Trace: an attempt is about to be sent, with the traceparent that is returned, where that is not empty. end is called
	// with what the attempt saw; the zero value: it was given up. Without this hook the delivery's own traceparent is sent.
	Trace func(d *delivery.Delivery) (traceparent string, end func(delivery.Observation))
}

// Step is a statement that is run for many deliveries at once.
type Step int

// The steps.
const (
	StepUnknown Step = iota
	StepClaim
	StepRecord
	StepHold
)

// Steps are all of them.
var Steps = []Step{StepClaim, StepRecord, StepHold}

func (s Step) String() string {
	return [...]string{StepUnknown: "unknown", StepClaim: "claim", StepRecord: "record", StepHold: "hold"}[s]
}

// forward sends a delivery's own traceparent on, where nobody traces.
func forward(d *delivery.Delivery) (string, func(delivery.Observation)) {
	return delivery.Traceparent(d.Traceparent), func(delivery.Observation) {}
}

// whole are the hooks with something in every place.
func (h Hooks) whole() Hooks {
	if h.Batch == nil {
		h.Batch = func(Step, int) {}
	}
	if h.Began == nil {
		h.Began = func(time.Duration) {}
	}
	if h.Ended == nil {
		h.Ended = func(delivery.Outcome, delivery.FailureKind, time.Duration) {}
	}
	if h.Recorded == nil {
		h.Recorded = func(*delivery.Delivery, *store.Attempt) {}
	}
	if h.Trace == nil {
		h.Trace = forward
	}
	if h.Late == nil {
		h.Late = func() {}
	}
	return h
}
