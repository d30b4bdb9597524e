package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Bring the database to this program's schema. Safe to run twice, from several machines, and under load."`
	Down   migrateDownCmd   `cmd:"" help:"Go back to an older schema."`
	Status migrateStatusCmd `cmd:"" help:"Say where the database stands. Exit code 1 when \"serve\" would refuse it."`
	Grant  migrateGrantCmd  `cmd:"" help:"Give a role what it needs, and nothing else."`
}

type migrateUpCmd struct {
	databaseFlags
	logFlags
}

func (cmd *migrateUpCmd) Run(ctx context.Context, c console) error {
	pool, err := cmd.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	report, err := migrations.Up(ctx, pool, migrations.Options{Schema: string(cmd.Schema), Log: cmd.logger(c)})
	if node.LacksRights(err) {
		return hintError{err, fmt.Sprintf("the role needs CREATE on the database, or a schema %s that it owns", string(cmd.Schema))}
	}
	if err != nil {
		return err
	}
	return printReport(c, string(cmd.Schema), report)
}

type migrateDownCmd struct {
	databaseFlags
	logFlags
	To  int  `required:"" placeholder:"N" help:"Version to go back to; 0 removes all of riverhook's tables and River's."`
	Yes bool `help:"Really drop the rows that are in the tables which go."`
}

func (cmd *migrateDownCmd) Run(ctx context.Context, c console) error {
	if cmd.To < 0 {
		return usageError{errors.New("--to: 0 or the number of a migration")}
	}
	pool, err := cmd.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	status, err := migrations.Inspect(ctx, pool, string(cmd.Schema))
	if err != nil {
		return err
	}
	if cmd.To < status.Version && !cmd.Yes {
		return usageError{fmt.Errorf("going back from version %d to %d removes what those versions added, with what is stored in it: say --yes if that is meant", status.Version, cmd.To)}
	}
	if cmd.To < status.Version {
		if err := noNodeRuns(ctx, pool, string(cmd.Schema)); err != nil {
			return err
		}
	}
	report, err := migrations.Down(ctx, pool, migrations.Options{Schema: string(cmd.Schema), Log: cmd.logger(c)}, cmd.To)
	if err != nil {
		return err
	}
	return printReport(c, string(cmd.Schema), report)
}

// noNodeRuns fails when a node was there a moment ago: what it is sending could not be recorded.
func noNodeRuns(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	nodes, err := store.New(pool, schema).Nodes(ctx)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000") {
		return nil // there are no nodes before version 8
	}
	if err != nil {
		return err
	}
	var running []string
	for _, n := range nodes {
		if n.DeadAt == nil && n.Now.Sub(n.SeenAt) < store.NodeSilentAfter {
			running = append(running, n.Node)
		}
	}
	if len(running) > 0 {
		return fmt.Errorf("riverhook serve is running: stop it first (one that was killed counts as running for %s): %s", store.NodeSilentAfter, some(running))
	}
	return nil
}

func printReport(c console, schema string, r migrations.Report) (err error) {
	if r.Changed() {
		_, err = fmt.Fprintf(c.out, "schema %s: version %d (was %d), River %d (was %d)\n", schema, r.To, r.From, r.RiverTo, r.RiverFrom)
	} else {
		_, err = fmt.Fprintf(c.out, "schema %s: version %d, River %d: nothing to do\n", schema, r.To, r.RiverTo)
	}
	return err
}

type migrateStatusCmd struct{ databaseFlags }

func (cmd *migrateStatusCmd) Run(ctx context.Context, c console) error {
	pool, err := cmd.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	status, err := migrations.Inspect(ctx, pool, string(cmd.Schema))
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(c.out, "schema %s: version %d of %d, River %d of %d\n", string(cmd.Schema), status.Version, migrations.Latest, status.River, status.RiverLatest)
	if !status.AppliedAt.IsZero() && status.Version > 0 {
		_, _ = fmt.Fprintf(c.out, "reached %s\n", status.AppliedAt.UTC().Format(time.RFC3339))
	}
	return status.Check(string(cmd.Schema))
}

type migrateGrantCmd struct {
	databaseFlags
	Role string `arg:"" help:"An existing role."`
	As   string `enum:"application,support,reader,service" default:"application" help:"What it is: application (may enqueue), reader (may look), support (may look, replay, also to another URL, with the credential that the delivery names, retry, cancel and pause) or service (what \"serve\" needs, without DDL); default ${default}."`
}

func (cmd *migrateGrantCmd) Run(ctx context.Context, c console) error {
	pool, err := cmd.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	err = migrations.Grant(ctx, pool, string(cmd.Schema), cmd.Role, cmd.As)
	if node.LacksRights(err) {
		return hintError{err, "run this as the role that owns the schema: the one that ran riverhook migrate up"}
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "granted %s rights in schema %s to %s\n", cmd.As, string(cmd.Schema), cmd.Role)
	return err
}
