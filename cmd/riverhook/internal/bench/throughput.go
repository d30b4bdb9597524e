package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// nodeCommand is the hidden command that works as something else than riverhook.
const nodeCommand = "bench-node"

// river measures River's own no-op jobs in a schema that has nothing but River.
func (b *bench) river(ctx context.Context) error {
	n := b.sizes.river
	schema, err := b.riverSchema(ctx)
	if err != nil {
		return err
	}
	b.progress.step("inserting " + number(float64(n), 0) + " jobs")
	b.database.checkpoint(ctx)
	if err := b.insertJobs(ctx, schema, n); err != nil {
		return err
	}
	if err := b.database.settle(ctx, schema, "river_job"); err != nil {
		return err
	}
	b.progress.step("working")
	var took time.Duration
	c, err := b.work(ctx, schema, nil, []string{nodeCommand, "river", "--jobs", strconv.Itoa(n)}, func(c *child) error {
		first, err := c.milestone(ctx, firstJob)
		if err != nil {
			return err
		}
		if _, err := c.milestone(ctx, lastJob); err != nil {
			return err
		}
		err = b.jobsDone(ctx, schema, c)
		took = time.Since(first)
		return err
	})
	if err != nil {
		return err
	}
	var completed int
	if err := b.database.pool.QueryRow(ctx, in(schema, "SELECT count(*) FROM {schema}.river_job WHERE state = 'completed'")).Scan(&completed); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if completed != n {
		return b.wrong("of %d jobs, %d were completed", n, completed)
	}
	b.note("river.rate", float64(n)/took.Seconds())
	b.noteCost("river", n, c)
	return b.database.dropSchemas(ctx, b.keptSchema())
}

// jobsDone waits until no job is left to do.
func (b *bench) jobsDone(ctx context.Context, schema string, c *child) error {
	query := in(schema, "SELECT EXISTS (SELECT FROM {schema}.river_job WHERE state IN ('available', 'running', 'retryable', 'scheduled'))")
	for {
		var more bool
		if err := b.database.pool.QueryRow(ctx, query).Scan(&more); err != nil || !more {
			return err
		}
		if err := c.pause(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// riverSchema makes a schema with River's own tables.
func (b *bench) riverSchema(ctx context.Context) (string, error) {
	d := b.database
	d.made++
	schema := d.prefix + "_" + strconv.Itoa(d.made)
	d.schemas = append(d.schemas, schema)
	if _, err := d.pool.Exec(ctx, "CREATE SCHEMA "+quoted(schema)); err != nil {
		return "", err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(d.pool), &rivermigrate.Config{Schema: schema, Logger: silent()})
	if err != nil {
		return "", err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return schema, err
}

func (b *bench) insertJobs(ctx context.Context, schema string, n int) error {
	client, err := river.NewClient(riverpgxv5.New(b.database.pool), &river.Config{Schema: schema, Logger: silent()})
	if err != nil {
		return err
	}
	const batch = 10_000
	for from := 0; from < n; from += batch {
		jobs := make([]river.InsertManyParams, min(batch, n-from))
		for i := range jobs {
			jobs[i] = river.InsertManyParams{Args: noopArgs{N: from + i}}
		}
		if _, err := client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
	}
	return nil
}

// milestone waits for a line "NAME UNIX-NANOSECONDS" of the child.
func (c *child) milestone(ctx context.Context, name string) (at time.Time, err error) {
	for {
		select {
		case <-ctx.Done():
			return at, ctx.Err()
		case line, ok := <-c.lines:
			if !ok {
				<-c.done
				return at, c.died()
			}
			if found, ns, _ := strings.Cut(line, " "); found == name {
				n, err := strconv.ParseInt(ns, 10, 64)
				return time.Unix(0, n), err
			}
		}
	}
}

// steps measures one transaction per step, on riverhook's own tables and jobs.
func (b *bench) steps(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	d, err := b.drain(ctx, schema, b.sizes.steps, nil, nil, []string{nodeCommand, "steps"})
	if err != nil {
		return err
	}
	b.note("steps.rate", d.rate)
	b.noteCost("steps", b.sizes.steps, d.cost)
	return b.database.dropSchemas(ctx, b.keptSchema())
}

// deliver measures riverhook.
func (b *bench) deliver(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	args := []string{"serve"}
	if b.Profile != "" {
		args = []string{nodeCommand, "serve", "--profile", b.Profile}
	}
	d, err := b.drain(ctx, schema, b.sizes.deliver, nil, nil, args)
	if err != nil {
		return err
	}
	b.note("deliver.rate", d.rate)
	b.noteCost("deliver", b.sizes.deliver, d.cost)
	if d.insert.postgres > 0 {
		b.note("deliver.cpu_insert", d.insert.postgres.Seconds()/float64(b.sizes.deliver)*1000)
	}
	return b.database.dropSchemas(ctx, b.keptSchema())
}

func (b *bench) keptSchema() string {
	if b.grown == nil {
		return ""
	}
	return b.grown.schema
}
