package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/riverhook/riverhook/sweeper"
)

type sweepCmd struct {
	databaseFlags
	policyFlags
	logFlags
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Validate checks the settings.
func (cmd *sweepCmd) Validate() error { return cmd.check() }

// Run sweeps once.
func (cmd *sweepCmd) Run(ctx context.Context, c console) error {
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	started := time.Now()
	counts, err := sweeper.New(sweeper.Config{Store: st, Policy: cmd.policy(), Log: cmd.logger(c)}).Sweep(ctx)
	if errors.Is(err, sweeper.ErrRunning) {
		return hintError{err, "it does the same: look at its result with \"riverhook deliveries list\""}
	}
	if err != nil {
		return explainDatabaseError(err, "service")
	}
	if cmd.JSON {
		return json.NewEncoder(c.out).Encode(map[string]int{
			"overdue": counts.Overdue, "requeued": counts.Requeued, "reclaimed": counts.Reclaimed, "parked": counts.Parked,
			"live": counts.Live, "leased": counts.Leased, "held": counts.Held, "skipped": counts.Skipped,
		})
	}
	_, err = fmt.Fprintf(c.out, "swept %d overdue deliveries in %s: %d requeued, %d reclaimed (%d of them dead letters now); "+
		"left alone: %d with a live job, %d being sent, %d held back, %d locked\n",
		counts.Overdue, time.Since(started).Round(time.Millisecond), counts.Requeued, counts.Reclaimed, counts.Parked,
		counts.Live, counts.Leased, counts.Held, counts.Skipped)
	return err
}
