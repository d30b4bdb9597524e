package store_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// databaseURL is where the example's application has its orders, and riverhook its schema.
func databaseURL() string { return pgtest.ExampleURL() }

// An order and the webhook that tells about it, in one transaction: both happen, or neither.
func ExampleEnqueueTx() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, databaseURL())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the program ends here

	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `CREATE TEMP TABLE orders AS SELECT 4711 AS id`); err != nil {
			return err
		}
		enqueued, err := store.EnqueueTx(ctx, tx, store.NewDelivery{
			EndpointURL:   "https://example.com/hook",
			Payload:       []byte(`{"event":"order.created","id":4711}`),
			WorkflowRunID: "order-4711", // with WebhookNodeID: a second call finds this delivery and makes none
			WebhookNodeID: "order.created",
		})
		fmt.Println("created:", enqueued.Created)
		return err
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: created: true
}
