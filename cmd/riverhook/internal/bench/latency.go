package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// latency measures how long a delivery waits: from the moment when the application knows that its INSERT has committed to
// the first line of the receiver's handler. Both are read from one clock, in this process.
func (b *bench) latency(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	_, err = b.work(ctx, schema, nil, []string{"serve"}, func(c *child) error {
		for i, name := range []string{"slow", "fast"} {
			rate := b.sizes.rates[i]
			b.progress.step(number(float64(rate), 0) + "/s")
			s, err := b.steady(ctx, schema, c, rate, b.sizes.latency, modeTimeout)
			if err != nil {
				return err
			}
			b.note("latency."+name+"_rate", s.rate)
			for _, p := range []float64{0.50, 0.95, 0.99} {
				b.note(fmt.Sprintf("latency.%s_p%.0f", name, 100*p), milliseconds(percentile(s.waited, p)))
			}
			b.note("latency."+name+"_recorded_p50", s.recorded50)
			b.note("latency."+name+"_recorded_p99", s.recorded99)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return b.database.dropSchemas(ctx, b.keptSchema())
}

// steadily is what came of deliveries at a steady rate.
type steadily struct {
	rate                   float64         // that there was, per second
	waited                 []time.Duration // commit to request; never below 0: a request may arrive before the inserter is awake again
	recorded50, recorded99 float64         // ms from the INSERT's begin to that of the recording transaction, by Postgres's clock
}

// steady inserts deliveries one by one at a steady rate to a healthy receiver of its own, and waits until they are recorded.
// What comes during the warm-up is delivered and verified, and not measured. When patience ends before all have come, those
// that have not count as having waited until then, and nothing is verified.
func (b *bench) steady(ctx context.Context, schema string, c *child, rate int, during, patience time.Duration) (s steadily, err error) {
	cold := max(1, int(float64(rate)*b.sizes.warmUp.Seconds()))
	n := cold + max(1, int(float64(rate)*during.Seconds()))
	l := newLedger(n)
	r, err := receive(ctx, healthy(l))
	if err != nil {
		return s, err
	}
	defer r.close()

	committed, took, err := b.insertSteadily(ctx, schema, l, r.url, rate)
	if err != nil {
		return s, err
	}
	s.rate = float64(n) / took.Seconds()
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = b.recorded(waiting, schema, c, l)
	switch {
	case waiting.Err() != nil && ctx.Err() == nil:
		s.waited = l.waited(committed[cold:], cold)
		b.notes = append(b.notes, fmt.Sprintf("%s: %d of %d deliveries had not come after %s more: the figure is a lower bound.",
			b.mode, n-int(l.distinct.Load()), n, patience))
		return s, nil
	case err != nil:
		return s, err
	}
	s.waited = l.waited(committed[cold:], cold)
	if err := b.verify(ctx, schema, l); err != nil {
		return s, err
	}
	query := in(schema, `
		SELECT coalesce(percentile_disc(0.50) WITHIN GROUP (ORDER BY ms), 0), coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY ms), 0)
		  FROM (SELECT extract(epoch FROM finished_at - created_at)::float8 * 1000 AS ms
		          FROM {schema}.deliveries WHERE delivery_uuid = ANY ($1::text[]::uuid[])) d`)
	return s, b.database.pool.QueryRow(ctx, query, l.ids[cold:]).Scan(&s.recorded50, &s.recorded99)
}

// waited is how long each delivery from number first on has waited since it was committed, until its request or until now.
func (l *ledger) waited(committed []time.Duration, first int) []time.Duration {
	now := l.now()
	waited := make([]time.Duration, len(committed))
	for i := range waited {
		arrived := time.Duration(l.arrived[first+i].Load())
		if arrived == 0 {
			arrived = now
		}
		waited[i] = max(0, arrived-committed[i])
	}
	return waited
}

// insertSteadily inserts the ledger's deliveries, each at its time whatever becomes of the others, and says when each was
// committed, on the ledger's clock, and how long all of it took.
func (b *bench) insertSteadily(ctx context.Context, schema string, l *ledger, url string, rate int) (committed []time.Duration, took time.Duration, err error) {
	query := in(schema, "INSERT INTO {schema}.deliveries (delivery_uuid, endpoint_url, payload) VALUES ($1, $2, $3)")
	committed = make([]time.Duration, len(l.ids))
	interval := time.Second / time.Duration(rate)
	var next atomic.Int64
	started := time.Now()
	group, run := errgroup.WithContext(ctx)
	for range steadyClients {
		group.Go(func() error {
			conn, err := b.database.pool.Acquire(run)
			if err != nil {
				return err
			}
			defer conn.Release()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(l.ids) {
					return nil
				}
				if err := sleep(run, time.Until(started.Add(time.Duration(i)*interval))); err != nil {
					return err
				}
				if _, err := conn.Exec(run, query, l.ids[i], url, payload); err != nil {
					return err
				}
				committed[i] = l.now()
			}
		})
	}
	err = group.Wait()
	return committed, time.Since(started), err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
