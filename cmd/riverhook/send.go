package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

type sendCmd struct {
	databaseFlags
	URL          string   `arg:"" name:"url" help:"Where to send it."`
	Data         string   `placeholder:"JSON" help:"The payload; @FILE reads it from a file, @- from standard input (default {})."`
	Method       string   `default:"POST" help:"GET, POST, PUT, PATCH or DELETE (default ${default})."`
	Header       []string `sep:"none" placeholder:"KEY:VALUE" help:"A header to send; may be repeated."`
	Organization string   `default:"default" help:"The tenant (default ${default})."`
	WorkflowRun  string   `name:"run" help:"What caused it; with --node and --organization the get-or-create key."`
	WebhookNode  string   `name:"node" help:"Which configured webhook of that cause."`
	Name         string   `help:"A name for people."`
	At           string   `placeholder:"TIME" help:"Not before then: an RFC 3339 time, or a duration from now such as 10m (default now)."`
	Wait         bool     `help:"Wait for the outcome: exit code 0 when delivered, 1 when not, 3 when --wait-timeout is over and it is still pending."`
	WaitTimeout  duration `default:"60s" help:"How long --wait waits (default ${default})."`
	JSON         bool     `name:"json" help:"Print one JSON object."`
}

// maxSendPayload bounds what send reads.
const maxSendPayload = 64 << 20

func (cmd *sendCmd) Run(ctx context.Context, c console) error {
	d, err := cmd.delivery(c.in, time.Now())
	if err != nil {
		return usageError{err}
	}
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	var enqueued store.Enqueued
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		enqueued, err = store.EnqueueTx(ctx, tx, d)
		return err
	})
	if err != nil {
		return explainDatabaseError(err, "application")
	}
	if cmd.JSON && !cmd.Wait {
		return json.NewEncoder(c.out).Encode(map[string]any{"id": enqueued.ID, "delivery_uuid": enqueued.UUID, "created": enqueued.Created})
	}
	verb := "enqueued"
	if !enqueued.Created {
		verb = "was there already:"
	}
	if !cmd.JSON {
		_, _ = fmt.Fprintf(c.out, "%s delivery %d (%s)\n", verb, enqueued.ID, enqueued.UUID)
	}
	if !cmd.Wait {
		return nil
	}
	return cmd.wait(ctx, c, st, enqueued)
}

// delivery reads the flags.
func (cmd *sendCmd) delivery(in io.Reader, now time.Time) (d store.NewDelivery, err error) {
	d = store.NewDelivery{
		EndpointURL: cmd.URL, Method: strings.ToUpper(cmd.Method), OrganizationID: cmd.Organization, WorkflowRunID: cmd.WorkflowRun,
		WebhookNodeID: cmd.WebhookNode, WebhookName: cmd.Name, Schema: string(cmd.Schema),
	}
	if _, err := delivery.ParseEndpoint(cmd.URL); err != nil {
		return d, err
	}
	switch d.Method {
	case "GET", "POST", "PUT", "PATCH", "DELETE":
	default:
		return d, fmt.Errorf("--method %s: GET, POST, PUT, PATCH or DELETE", cmd.Method)
	}
	if d.Payload, err = readData(cmd.Data, in); err != nil {
		return d, err
	}
	for _, h := range cmd.Header {
		key, value, ok := strings.Cut(h, ":")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return d, fmt.Errorf("--header %q: KEY:VALUE", h)
		}
		if d.Headers == nil {
			d.Headers = map[string]string{}
		}
		d.Headers[key] = strings.TrimSpace(value)
	}
	if cmd.At != "" {
		var in duration
		if at, err := time.Parse(time.RFC3339, cmd.At); err == nil {
			d.ScheduledFor = at
		} else if in.UnmarshalText([]byte(cmd.At)) == nil {
			d.ScheduledFor = now.Add(time.Duration(in))
		} else {
			return d, fmt.Errorf("--at %q: a time such as %s, or a duration such as 10m", cmd.At, now.UTC().Format(time.RFC3339))
		}
	}
	return d, nil
}

// readData reads --data: the JSON itself, @FILE or @-.
func readData(data string, in io.Reader) (json.RawMessage, error) {
	var payload []byte
	source, fromFile := strings.CutPrefix(data, "@")
	switch {
	case data == "":
		return nil, nil
	case !fromFile:
		payload = []byte(data)
	case source == "-":
		var err error
		if payload, err = io.ReadAll(io.LimitReader(in, maxSendPayload+1)); err != nil {
			return nil, fmt.Errorf("--data: standard input: %w", err)
		}
	default:
		file, err := os.Open(source) //nolint:gosec // the user's file
		if err != nil {
			return nil, fmt.Errorf("--data: %w", err)
		}
		defer func() { _ = file.Close() }()
		if payload, err = io.ReadAll(io.LimitReader(file, maxSendPayload+1)); err != nil {
			return nil, fmt.Errorf("--data: %w", err)
		}
	}
	if len(payload) > maxSendPayload {
		return nil, fmt.Errorf("--data: more than %d MiB", maxSendPayload>>20)
	}
	if !json.Valid(payload) {
		return nil, errors.New("--data is not JSON: quote texts, as in --data '\"hello\"'")
	}
	return payload, nil
}

// wait looks at the row until it is decided.
func (cmd *sendCmd) wait(ctx context.Context, c console, st *store.Store, e store.Enqueued) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cmd.WaitTimeout))
	defer cancel()
	attempts := -1
	for {
		row, _, err := st.Get(ctx, e.ID, "")
		if err != nil && ctx.Err() == nil {
			return explainDatabaseError(err, "reader")
		}
		if err == nil && row.Status != delivery.StatusPending {
			return cmd.outcome(c, row)
		}
		if err == nil && row.AttemptCount != attempts && row.AttemptCount > 0 && !cmd.JSON {
			_, _ = fmt.Fprintf(c.out, "attempt %d failed: %s\n", row.AttemptCount, printable(text(row.LastError)))
		}
		attempts = row.AttemptCount
		select {
		case <-ctx.Done():
			_, _ = fmt.Fprintf(c.err, "riverhook: delivery %d is still pending after %s: is \"riverhook serve\" running? Look at it with \"riverhook deliveries show %d\"\n",
				e.ID, cmd.WaitTimeout, e.ID)
			return exitError(exitPending)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (cmd *sendCmd) outcome(c console, row store.Row) error {
	switch {
	case cmd.JSON:
		if err := json.NewEncoder(c.out).Encode(row); err != nil {
			return err
		}
	case row.Status == delivery.StatusSucceeded:
		_, _ = fmt.Fprintf(c.out, "delivered: HTTP %d at attempt %d\n", number(row.LastStatusCode), row.AttemptCount)
	default:
		_, _ = fmt.Fprintf(c.out, "%s after %d attempts: %s\n", row.Status, row.AttemptCount, printable(text(row.LastError)))
	}
	if row.Status != delivery.StatusSucceeded {
		return exitError(exitFailed)
	}
	return nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}
