package sweeper

import (
	"context"
	"errors"

	"github.com/riverhook/riverhook/delivery/store"
)

// Hooks are told what a sweeper does: for metrics and events. They must not wait for anything. Nil ones are left out.
type Hooks struct {
	Swept     func(Result)        // a sweep has ended that was not asked for by hand
	Reclaimed func(store.Attempt) // a claim was taken back, by any sweep
}

// Result says how a sweep ended, in one word.
type Result string

// The results.
const (
	ResultDone        Result = "done"
	ResultRunning     Result = "running" // another sweep runs: this one did nothing
	ResultInterrupted Result = "interrupted"
	ResultFailed      Result = "failed"
)

// Results are all of them.
var Results = []Result{ResultDone, ResultRunning, ResultInterrupted, ResultFailed}

func resultOf(ctx context.Context, err error) Result {
	switch {
	case err == nil:
		return ResultDone
	case errors.Is(err, ErrRunning):
		return ResultRunning
	case ctx.Err() != nil:
		return ResultInterrupted
	}
	return ResultFailed
}

// whole are the hooks with something in every place.
func (h Hooks) whole() Hooks {
	if h.Swept == nil {
		h.Swept = func(Result) {}
	}
	if h.Reclaimed == nil {
		h.Reclaimed = func(store.Attempt) {}
	}
	return h
}
