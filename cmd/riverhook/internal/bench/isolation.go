package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// hangingOrigins is how many receivers hang, each an origin of its own, beside a backlog.
const hangingOrigins = 4

// isolationPatience is how long healthy deliveries may take that the others delay. The figure is a lower bound then.
const isolationPatience = 30 * time.Second

// isolation measures what receivers that hang or fail take from the healthy ones.
func (b *bench) isolation(ctx context.Context) error {
	for _, one := range []func(context.Context) error{b.isolateBacklog, b.isolateHanging, b.isolateFailing} {
		if err := one(ctx); err != nil {
			return err
		}
	}
	return b.database.dropSchemas(ctx, b.keptSchema())
}

func (b *bench) timeout() string { return "RIVERHOOK_TIMEOUT=" + b.sizes.hangs.String() }

// isolateBacklog: the same number of healthy deliveries, alone and with one in ten that hangs.
func (b *bench) isolateBacklog(ctx context.Context) error {
	var hanging []string
	for range hangingOrigins {
		r, err := receive(ctx, hangs)
		if err != nil {
			return err
		}
		defer r.close()
		hanging = append(hanging, r.url)
	}
	for _, one := range []struct {
		name    string
		hanging []string
	}{{"isolation.alone", nil}, {"isolation.mixed", hanging}} {
		schema, err := b.database.newSchema(ctx)
		if err != nil {
			return err
		}
		d, err := b.drain(ctx, schema, b.sizes.mixed, one.hanging, []string{b.timeout()}, []string{"serve"})
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		b.note(one.name, d.rate)
	}
	return nil
}

// isolateHanging: healthy deliveries at a steady rate, alone and then while another origin hangs that has a backlog, and one
// more delivery for every ten healthy ones.
func (b *bench) isolateHanging(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	_, err = b.work(ctx, schema, []string{b.timeout()}, []string{"serve"}, func(c *child) error {
		if err := b.steadyP99(ctx, schema, c, "isolation.quiet_p99"); err != nil {
			return err
		}
		r, err := receive(ctx, hangs)
		if err != nil {
			return err
		}
		defer r.close() // what hangs fails at once: the child stops soon
		if err := b.insert(ctx, schema, rowsOnly(r, b.sizes.hanging)); err != nil {
			return err
		}
		group, run := errgroup.WithContext(ctx)
		group.Go(func() error { return b.insertMore(run, schema, r) })
		group.Go(func() error { return b.steadyP99(run, schema, c, "isolation.hanging_p99") })
		return group.Wait()
	})
	return err
}

// insertMore inserts one delivery for every ten that b.steady inserts.
func (b *bench) insertMore(ctx context.Context, schema string, r *receiver) error {
	for range int(float64(b.sizes.steadyRate) * (b.sizes.warmUp + b.sizes.steady).Seconds() / 10) {
		if err := b.insert(ctx, schema, rowsOnly(r, 1)); err != nil {
			return err
		}
		if err := sleep(ctx, 10*time.Second/time.Duration(b.sizes.steadyRate)); err != nil {
			return err
		}
	}
	return nil
}

// isolateFailing: healthy deliveries at a steady rate beside an origin with a large backlog that all fails, and comes again
// before it is through: while that backlog is still in the queue, before them, and when most of it is held back.
func (b *bench) isolateFailing(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	var failed atomic.Int64
	r, err := receive(ctx, func(w http.ResponseWriter, r *http.Request) {
		failed.Add(1)
		fails(w, r)
	})
	if err != nil {
		return err
	}
	defer r.close()
	b.progress.step("inserting what fails")
	if err := b.insert(ctx, schema, rowsOnly(r, b.sizes.failing)); err != nil {
		return err
	}
	if err := b.database.settle(ctx, schema, "deliveries", "river_job"); err != nil {
		return err
	}
	env := []string{b.timeout(), "RIVERHOOK_BASE_DELAY=2s", "RIVERHOOK_MAX_DELAY=2s", "RIVERHOOK_MAX_ATTEMPTS=1000"}
	_, err = b.work(ctx, schema, env, []string{"serve"}, func(c *child) error {
		started := time.Now()
		if err := b.steadyP99(ctx, schema, c, "isolation.queued_p99"); err != nil {
			return err
		}
		if err := b.queueOf(ctx, schema, b.sizes.failing/100); err != nil {
			return err
		}
		b.note("isolation.held_after", time.Since(started).Seconds())
		return b.steadyP99(ctx, schema, c, "isolation.failing_p99")
	})
	if err == nil && failed.Load() == 0 {
		return b.wrong("nothing was sent to the receiver that fails")
	}
	return err
}

// queueOf waits until the queue is no longer than most, or until modeTimeout.
func (b *bench) queueOf(ctx context.Context, schema string, most int) error {
	b.progress.step("waiting for the backlog to be held back")
	ctx, cancel := context.WithTimeout(ctx, modeTimeout)
	defer cancel()
	for {
		var queued int
		err := b.database.pool.QueryRow(ctx, `SELECT count(*) FROM (SELECT FROM `+schema+`.river_job WHERE state = 'available' AND queue = 'webhooks' LIMIT $1) j`, most+1).Scan(&queued)
		if err != nil {
			return fmt.Errorf("the backlog was not held back: %w", err)
		}
		if queued <= most {
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("the backlog was not held back: %w", err)
		}
	}
}

func (b *bench) steadyP99(ctx context.Context, schema string, c *child, name string) error {
	b.progress.step(name)
	s, err := b.steady(ctx, schema, c, b.sizes.steadyRate, b.sizes.steady, isolationPatience)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.note(name, milliseconds(percentile(s.waited, 0.99)))
	return nil
}

// rowsOnly are n deliveries to a receiver that are in no ledger.
func rowsOnly(r *receiver, n int) []row {
	rows := make([]row, n)
	for i := range rows {
		rows[i].url = r.url
	}
	return rows
}
