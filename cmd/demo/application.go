package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/migrations/pgtemp"
)

const (
	orders     = 60 // of the deliveries to /well: each in a transaction of its own, with an order
	rolledBack = 25
	// marker is in the payload of what is rolled back.
	marker = "order.rolled_back"
)

// database is where it all happens.
type database struct {
	url    string
	psql   string    // what psql is to be given
	reader *pgx.Conn // with a role that may look
}

// openDatabase finds a Postgres, or starts one.
func (d *demo) openDatabase(ctx context.Context) error {
	where := "where DEMO_DATABASE_URL points"
	d.database.url, d.database.psql = os.Getenv("DEMO_DATABASE_URL"), `"$DEMO_DATABASE_URL"`
	if d.database.url == "" {
		// PGSERVICE, PGOPTIONS and their like are about some other server.
		for _, variable := range os.Environ() {
			if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
				_ = os.Unsetenv(name)
			}
		}
		server, err := pgtemp.Start(ctx, pgtemp.Options{})
		if err != nil {
			return err
		}
		d.later(server.Stop)
		where = fmt.Sprintf("a throwaway server on port %d", server.Port())
		d.database.url = server.URL("postgres")
		d.database.psql = "'" + d.database.url + "'"
	}
	if _, err := pgx.ParseConfig(d.database.url); err != nil {
		return errors.New("DEMO_DATABASE_URL is not a Postgres URL: it looks like postgres://user:password@host:5432/database")
	}
	var version string
	var may bool
	err := d.asOwner(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT split_part(current_setting('server_version'), ' ', 1),
			       has_database_privilege(current_database(), 'CREATE') AND (rolsuper OR rolcreaterole)
			  FROM pg_roles WHERE rolname = current_user`).Scan(&version, &may)
	})
	if err != nil {
		return err
	}
	if !may {
		return errors.New("the role of DEMO_DATABASE_URL may not create schemas and roles, which the demo needs: " +
			"GRANT CREATE ON DATABASE ..., and ALTER ROLE ... CREATEROLE")
	}
	d.printf("  %-10s %s, %s\n", "Postgres", version, where)
	return nil
}

// asOwner does something in a session of the role that the database's URL names.
func (d *demo) asOwner(ctx context.Context, do func(*pgx.Conn) error) error {
	connecting, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(connecting, d.database.url)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return do(conn)
}

// as is a session with the rights of another role.
func (d *demo) as(ctx context.Context, role string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, d.database.url)
	if err != nil {
		return nil, err
	}
	d.later(func() error { closeConn(conn); return nil })
	_, err = conn.Exec(ctx, "SET ROLE "+role)
	return conn, err
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is given up in any case
}

// application is one that has webhooks to send. It has tables of its own, and of riverhook's rights those that
// `riverhook migrate grant` gives an application.
type application struct {
	conn     *pgx.Conn
	schema   string // of its own
	webhooks string // riverhook's

	inserted   map[string]string // delivery -> name of its endpoint
	rolledBack map[string]bool   // deliveries that never were
	orders     int               // that are in its table in the end
}

// newApplication sets riverhook up, and two roles that use it: one that inserts and one that looks.
func (d *demo) newApplication(ctx context.Context) (*application, error) {
	d.name, d.token = randomName(), rand.Text()
	inserts, looks := d.name+"_app", d.name+"_reader"
	d.later(func() error { return d.drop(inserts, looks) })

	if _, err := d.command(ctx, d.environment(), "migrate", "up"); err != nil {
		return nil, err
	}
	err := d.asOwner(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, strings.NewReplacer("{app}", inserts, "{reader}", looks).Replace(`
			CREATE ROLE {app};
			CREATE ROLE {reader};
			GRANT {app}, {reader} TO CURRENT_USER;
			CREATE SCHEMA {app} AUTHORIZATION {app};
			CREATE TABLE {app}.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL);
			ALTER TABLE {app}.orders OWNER TO {app}`))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create two roles and a schema: %w", err)
	}
	for role, kind := range map[string]string{inserts: "application", looks: "reader"} {
		if _, err := d.command(ctx, d.environment(), "migrate", "grant", role, "--as", kind); err != nil {
			return nil, err
		}
	}

	app := &application{schema: inserts, webhooks: d.name, inserted: map[string]string{}, rolledBack: map[string]bool{}}
	if app.conn, err = d.as(ctx, inserts); err != nil {
		return nil, err
	}
	d.database.reader, err = d.as(ctx, looks)
	return app, err
}

// drop removes all that the demo has put into the database.
func (d *demo) drop(roles ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := d.asOwner(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf("DROP SCHEMA IF EXISTS %s, %s CASCADE", d.name, roles[0]))
		if err != nil {
			return err
		}
		// Not every role may say DROP ROLE IF EXISTS, even if none exists.
		rows, err := conn.Query(ctx, "SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", roles)
		if err != nil {
			return err
		}
		made, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, role := range made {
			if err == nil {
				_, err = conn.Exec(ctx, "DROP ROLE "+role)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("drop the schemas and roles %s*: %w", d.name, err)
	}
	return nil
}

// insert is the whole of what an application has to do.
func (a *application) insert(ctx context.Context, endpoints []endpoint) error {
	err := pgx.BeginFunc(ctx, a.conn, func(tx pgx.Tx) error {
		for _, e := range endpoints {
			rows := e.rows
			if e.name == well {
				rows -= orders
			}
			if err := a.insertMany(ctx, tx, e, rows); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("insert many deliveries: %w", err)
	}
	var toWell endpoint
	for _, e := range endpoints {
		if e.name == well {
			toWell = e
		}
	}
	for range orders {
		err := pgx.BeginFunc(ctx, a.conn, func(tx pgx.Tx) error {
			delivery, err := a.insertOrder(ctx, tx, toWell, "order.paid")
			if err == nil {
				a.inserted[delivery] = well
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("insert an order and its delivery: %w", err)
		}
	}
	if err := a.insertAndRollBack(ctx, toWell); err != nil {
		return fmt.Errorf("insert and roll back: %w", err)
	}
	return nil
}

// insertMany is one INSERT of many rows.
func (a *application) insertMany(ctx context.Context, tx pgx.Tx, e endpoint, n int) error {
	rows, err := tx.Query(ctx, fmt.Sprintf(`
		INSERT INTO %s.deliveries (endpoint_url, webhook_name, payload)
		SELECT $1, $2, json_build_object('event', 'invoice.sent', 'number', n) FROM generate_series(1, $3::int) n
		RETURNING delivery_uuid::text`, a.webhooks), e.url, e.name, n)
	if err != nil {
		return err
	}
	deliveries, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, delivery := range deliveries {
		a.inserted[delivery] = e.name
	}
	return err
}

// insertOrder is what an application does in most of its transactions: something of its own, and a webhook about it.
func (a *application) insertOrder(ctx context.Context, tx pgx.Tx, e endpoint, event string) (delivery string, err error) {
	var order int64
	err = tx.QueryRow(ctx, fmt.Sprintf(`INSERT INTO %s.orders (item) VALUES ('a book') RETURNING id`, a.schema)).Scan(&order)
	if err != nil {
		return "", err
	}
	err = tx.QueryRow(ctx, fmt.Sprintf(`INSERT INTO %s.deliveries (endpoint_url, webhook_name, payload)
		VALUES ($1, $2, json_build_object('event', $3::text, 'order', $4::bigint)) RETURNING delivery_uuid::text`, a.webhooks),
		e.url, e.name, event, order).Scan(&delivery)
	return delivery, err
}

// insertAndRollBack changes its mind.
func (a *application) insertAndRollBack(ctx context.Context, e endpoint) error {
	tx, err := a.conn.Begin(ctx)
	if err != nil {
		return err
	}
	for range rolledBack {
		delivery, err := a.insertOrder(ctx, tx, e, marker)
		if err != nil {
			return err
		}
		a.rolledBack[delivery] = true
	}
	// Time enough for them to be sent, were they visible.
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	if err := tx.Rollback(ctx); err != nil {
		return err
	}
	return a.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s.orders", a.schema)).Scan(&a.orders)
}
