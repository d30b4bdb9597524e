package migrations

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// InsertColumns are the columns of deliveries that an application may insert.
var InsertColumns = []string{
	"delivery_uuid", "organization_id", "workflow_run_id", "webhook_node_id", "webhook_name", "endpoint_url", "http_method",
	"payload", "custom_headers", "credential_uuid", "max_attempts", "scheduled_for", "traceparent",
}

// lookAt is what tells how deliveries and nodes do.
const lookAt = "GRANT SELECT ON {schema}.deliveries, {schema}.attempts, {schema}.pauses, {schema}.problems, {schema}.nodes, {schema}.origin_states, " +
	"{schema}.schema_migrations, {schema}.river_migration, {schema}.river_leader TO {role}"

// grants says, for each kind of role, what it may do. {schema} is the quoted schema. Nobody but service sees credentials
// or River's jobs.
var grants = map[string][]string{
	"application": {
		"GRANT USAGE ON SCHEMA {schema} TO {role}",
		"GRANT INSERT (" + strings.Join(InsertColumns, ", ") + ") ON {schema}.deliveries TO {role}",
		// RETURNING and ON CONFLICT (columns) read.
		"GRANT SELECT (id, delivery_uuid, status, organization_id, workflow_run_id, webhook_node_id) ON {schema}.deliveries TO {role}",
	},
	"reader": {
		"GRANT USAGE ON SCHEMA {schema} TO {role}",
		lookAt,
		"GRANT EXECUTE ON FUNCTION {schema}.find_problems(interval, int) TO {role}",
	},
	"support": {
		"GRANT USAGE ON SCHEMA {schema} TO {role}",
		lookAt,
		"GRANT EXECUTE ON FUNCTION {schema}.find_problems(interval, int) TO {role}",
		"GRANT UPDATE (status, scheduled_for, endpoint_url, custom_headers, credential_uuid, max_attempts) ON {schema}.deliveries TO {role}",
		"GRANT INSERT (endpoint_origin, organization_id, reason), UPDATE (reason), DELETE ON {schema}.pauses TO {role}",
	},
	"service": {
		"GRANT USAGE ON SCHEMA {schema} TO {role}",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
		"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
		"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}", // where PUBLIC has not
	},
}

// Roles are the kinds of role that Grant knows, in alphabetical order.
func Roles() []string { return slices.Sorted(maps.Keys(grants)) }

// Grant gives role what a role of that kind needs, and nothing else: application may enqueue, reader may look, support
// may look, replay, retry, cancel and pause, service is what `serve` needs without DDL. Granting twice changes nothing; it takes
// back nothing either. A migration that adds a table grants it to who is service then.
func Grant(ctx context.Context, pool *pgxpool.Pool, schema, role, kind string) error {
	statements, ok := grants[kind]
	if !ok {
		return fmt.Errorf("migrations: grant: no role %q: choose one of %s", kind, strings.Join(Roles(), ", "))
	}
	status, err := Inspect(ctx, pool, schema)
	if err != nil {
		return err
	}
	if err := status.Check(schema); err != nil {
		return err
	}
	var exists bool
	if err := pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, role).Scan(&exists); err != nil {
		return fmt.Errorf("migrations: grant: %w", err)
	}
	if !exists {
		return fmt.Errorf("there is no role %q: create it first (CREATE ROLE %s LOGIN PASSWORD ...)", role, pgx.Identifier{role}.Sanitize())
	}
	// Postgres only warns of a GRANT that grants nothing.
	var owner string
	var owns bool
	err = pool.QueryRow(ctx, `SELECT pg_get_userbyid(c.relowner), pg_has_role(current_user, c.relowner, 'USAGE')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'deliveries'`, schema).Scan(&owner, &owns)
	if err != nil {
		return fmt.Errorf("migrations: grant: %w", err)
	}
	if !owns {
		return fmt.Errorf("only the owner of schema %s grants what is in it: run this as %s", schema, owner)
	}
	names := strings.NewReplacer("{schema}", pgx.Identifier{schema}.Sanitize(), "{role}", pgx.Identifier{role}.Sanitize())
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, statement := range statements {
			if _, err := tx.Exec(ctx, names.Replace(statement)); err != nil {
				return fmt.Errorf("migrations: grant: %w", err)
			}
		}
		return nil
	})
}
