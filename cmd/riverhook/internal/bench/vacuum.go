package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// vacuum measures what a transaction that stays open for minutes takes from riverhook: as long as it does, Postgres can
// clean up nothing of what a queue leaves behind.
func (b *bench) vacuum(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	if err := b.backlogRate(ctx, schema, "vacuum.before"); err != nil {
		return err
	}
	tx, err := b.database.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it has changed nothing
	var backend uint32
	if err := tx.QueryRow(ctx, "SELECT pg_backend_pid() FROM pg_current_snapshot()").Scan(&backend); err != nil {
		return err
	}
	opened := time.Now()
	if err := b.steadilyHeldBack(ctx, schema); err != nil {
		return err
	}
	if err := b.backlogRate(ctx, schema, "vacuum.during"); err != nil {
		return err
	}
	b.note("vacuum.open", time.Since(opened).Seconds())

	query := `SELECT s.n_dead_tup::float8, coalesce((SELECT age(a.backend_xmin) FROM pg_stat_activity a WHERE a.pid = $2), 0)::float8
	            FROM pg_stat_user_tables s WHERE s.schemaname = $1 AND s.relname = 'river_job'`
	var dead, transactions float64
	if err := b.database.pool.QueryRow(ctx, query, schema, backend).Scan(&dead, &transactions); err != nil {
		return err
	}
	if transactions == 0 {
		return b.wrong("the transaction that should have been open was not")
	}
	b.note("vacuum.dead", dead)
	b.note("vacuum.transactions", transactions)
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	return errors.Join(b.backlogRate(ctx, schema, "vacuum.after"), b.database.dropSchemas(ctx, b.keptSchema()))
}

// steadilyHeldBack works deliveries at a steady rate for as long as the sizes say, and looks at the first and at the last
// tenth of them.
func (b *bench) steadilyHeldBack(ctx context.Context, schema string) error {
	_, err := b.work(ctx, schema, nil, []string{"serve"}, func(c *child) error {
		rate := b.sizes.rates[1]
		b.progress.step(fmt.Sprintf("%s/s for %s beside a transaction that stays open", number(float64(rate), 0), b.sizes.heldBack))
		s, err := b.steady(ctx, schema, c, rate, b.sizes.heldBack, modeTimeout)
		if err != nil {
			return err
		}
		tenth := max(1, len(s.waited)/10)
		b.note("vacuum.rate", s.rate)
		b.note("vacuum.first_p99", milliseconds(percentile(s.waited[:tenth], 0.99)))
		b.note("vacuum.last_p99", milliseconds(percentile(s.waited[len(s.waited)-tenth:], 0.99)))
		return nil
	})
	return err
}

func (b *bench) backlogRate(ctx context.Context, schema, name string) error {
	d, err := b.drain(ctx, schema, b.sizes.deliver, nil, nil, []string{"serve"})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.note(name, d.rate)
	return nil
}
