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

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

type sendCmd struct {
	databaseFlags
	URL          string   `arg:"" name:"url" help:"Where to send it."`
	Data         string   `placeholder:"JSON" help:"The payload; @FILE reads it from a file, @- from standard input (default {})."`
	Method       string   `default:"POST" help:"GET, POST, PUT, PATCH or DELETE (default ${default})."`
	Header       []string `sep:"none" placeholder:"KEY:VALUE" help:"A header to send; may be repeated."`
	Credential   string   `placeholder:"UUID" help:"What it is authorized with: riverhook credentials list."`
	Organization string   `default:"default" help:"The tenant (default ${default})."`
	WorkflowRun  string   `name:"run" help:"What caused it; with --node and --organization the get-or-create key."`
	WebhookNode  string   `name:"node" help:"Which configured webhook of that cause."`
	Name         string   `help:"A name for people."`
	At           string   `placeholder:"TIME" help:"Not before then: an RFC 3339 time, or a duration from now such as 10m (default now)."`
	MaxAttempts  *int     `placeholder:"N" help:"How often it is tried at most (default: the service's RIVERHOOK_MAX_ATTEMPTS)."`
	Traceparent  string   `placeholder:"W3C" help:"The W3C trace context of what caused it, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01: attempts continue that trace."`
	Wait         bool     `help:"Wait for the outcome: exit code 0 when delivered, 1 when not, 3 when it is still pending after --wait-timeout or the outcome cannot be read. Takes the rights of a reader, too."`
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
		return printEnqueued(c, enqueued)
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
		WebhookNodeID: cmd.WebhookNode, WebhookName: cmd.Name, Schema: string(cmd.Schema), Traceparent: cmd.Traceparent,
	}
	if cmd.Traceparent != "" && delivery.Traceparent(cmd.Traceparent) == "" {
		return d, fmt.Errorf("--traceparent %q is not a W3C trace context: VERSION-TRACE-PARENT-FLAGS, all zeros being none", cmd.Traceparent)
	}
	if _, err := delivery.ParseEndpoint(cmd.URL); err != nil {
		return d, err
	}
	if d.CredentialUUID = cmd.Credential; cmd.Credential != "" && !uuidSyntax.MatchString(cmd.Credential) {
		return d, fmt.Errorf("--credential %q is no uuid: riverhook credentials list has them", cmd.Credential)
	}
	if cmd.MaxAttempts != nil {
		if d.MaxAttempts = *cmd.MaxAttempts; d.MaxAttempts < 1 || d.MaxAttempts > 1000 {
			return d, errors.New("--max-attempts: from 1 to 1000")
		}
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

func printEnqueued(c console, e store.Enqueued) error {
	return printJSON(c.out, map[string]any{"id": e.ID, "delivery_uuid": e.UUID, "created": e.Created})
}

// wait looks at the row until it is decided.
func (cmd *sendCmd) wait(ctx context.Context, c console, st *store.Store, e store.Enqueued) error {
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cmd.WaitTimeout))
	defer cancel()
	var last store.Row
	var attempts []store.AttemptRow
	for {
		row, made, err := st.Get(ctx, e.ID, "")
		switch {
		case node.LacksRights(err):
			return cmd.blind(c, e)
		case err != nil && ctx.Err() == nil:
			return explainDatabaseError(err, "reader")
		case err == nil && row.Status != delivery.StatusPending:
			return cmd.outcome(c, row, made)
		case err == nil:
			if row.AttemptCount > last.AttemptCount && !cmd.JSON {
				_, _ = fmt.Fprintf(c.out, "attempt %d failed: %s\n", row.AttemptCount, printable(text(row.LastError)))
			}
			last, attempts = row, made
		}
		select {
		case <-ctx.Done():
			waited := min(time.Since(started).Round(time.Millisecond), time.Duration(cmd.WaitTimeout))
			_, _ = fmt.Fprintf(c.err, "riverhook: delivery %d is still pending after %s: %s\n  look at it with: riverhook deliveries show %d\n",
				e.ID, waited, whyPending(&last), e.ID)
			if cmd.JSON {
				if err := printWaited(c, e, last, attempts); err != nil {
					return err
				}
			}
			return exitError(exitPending)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// printWaited prints the row as it was last seen, if it was.
func printWaited(c console, e store.Enqueued, last store.Row, attempts []store.AttemptRow) error {
	if last.ID == 0 {
		return printEnqueued(c, e)
	}
	return printShown(c.out, last, attempts)
}

// blind: the delivery is enqueued, and this role may not see what becomes of it.
func (cmd *sendCmd) blind(c console, e store.Enqueued) error {
	if cmd.JSON {
		if err := printEnqueued(c, e); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(c.err, "riverhook: delivery %d is enqueued and will be sent, but this role may not look at its outcome\n"+
		"  leave --wait out, or let the role read: riverhook migrate grant ROLE --as reader\n", e.ID)
	return exitError(exitPending)
}

// whyPending says what a delivery waits for.
func whyPending(r *store.Row) string {
	attempt := fmt.Sprintf("attempt %d ", r.AttemptCount+1)
	switch due := next(r); {
	case r.ClaimedBy != nil:
		return attempt + "is being made"
	case r.HeldSince != nil:
		if why := heldBecause[text(r.HeldReason)]; why != "" {
			return attempt + "is held back: " + why
		}
		return attempt + "is held back"
	case strings.HasPrefix(due, "in "):
		return attempt + "comes " + due
	case r.AttemptCount > 0:
		return attempt + "is due"
	default:
		return "is \"riverhook serve\" running?"
	}
}

func (cmd *sendCmd) outcome(c console, row store.Row, attempts []store.AttemptRow) error {
	switch {
	case cmd.JSON:
		if err := printShown(c.out, row, attempts); err != nil {
			return err
		}
	case row.Status == delivery.StatusSucceeded:
		_, _ = fmt.Fprintf(c.out, "delivered: HTTP %d at attempt %d\n", number(row.LastStatusCode), row.AttemptCount)
	default:
		_, _ = fmt.Fprintf(c.out, "%s after %s: %s\n", row.Status, count(row.AttemptCount, "attempt"), printable(text(row.LastError)))
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
