package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
)

const (
	// commandConns are the connections of a command that comes and goes. A sweep takes two.
	commandConns   = 4
	connectTimeout = 10 * time.Second
)

// connect connects to the database of a command. The caller closes the pool.
func (f databaseFlags) connect(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := f.config()
	if err != nil {
		return nil, err
	}
	return connectTo(ctx, config)
}

func connectTo(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	config.MaxConns, config.MinConns, config.MinIdleConns = commandConns, 0, 0
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe // works through a transaction pooler, too
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "riverhook"
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		// pgx names user, host and database, and never the password.
		return nil, hintError{fmt.Errorf("cannot connect: %w", err), whyNoConnection(err)}
	}
	return pool, nil
}

// whyNoConnection says what may be wrong.
func whyNoConnection(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "28P01", "28000":
			return "Postgres is up, and refuses this user or password (--database-url, RIVERHOOK_DATABASE_URL)"
		case "3D000":
			return "Postgres is up, and has no such database (--database-url, RIVERHOOK_DATABASE_URL)"
		}
	}
	return "is Postgres up, and is the URL right (--database-url, RIVERHOOK_DATABASE_URL)?"
}

// open connects, and looks whether the schema is there. The caller closes the pool.
func (f databaseFlags) open(ctx context.Context) (*pgxpool.Pool, *store.Store, error) {
	pool, err := f.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := f.checkSchema(ctx, pool); err != nil {
		pool.Close()
		return nil, nil, err
	}
	return pool, store.New(pool, string(f.Schema)), nil
}

// withStore does something with the store that takes a role which migrate grant calls kind.
func (f databaseFlags) withStore(ctx context.Context, kind string, do func(*store.Store) error) error {
	pool, st, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	return explainDatabaseError(do(st), kind)
}

func (f databaseFlags) checkSchema(ctx context.Context, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	status, err := migrations.Inspect(ctx, pool, string(f.Schema))
	switch {
	case node.LacksRights(err):
		return nil // a reader may not look there; what it may not do, its command will say
	case err != nil:
		return err
	}
	return status.Check(string(f.Schema))
}
