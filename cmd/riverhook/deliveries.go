package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

type deliveriesCmd struct {
	List   listCmd   `cmd:"" help:"List deliveries, the newest first."`
	Show   showCmd   `cmd:"" help:"Show a delivery with its attempts."`
	Retry  retryCmd  `cmd:"" help:"Bring the next attempt of pending deliveries forward to now."`
	Replay replayCmd `cmd:"" help:"Start deliveries that ended over: dead letters and canceled ones, unless --status says otherwise."`
	Cancel cancelCmd `cmd:"" help:"Cancel pending deliveries. One that is being sent may still arrive."`
}

// filterFlags select deliveries.
type filterFlags struct {
	Organization string `placeholder:"ID" help:"Of this tenant."`
	CausedBy     string `name:"run" placeholder:"ID" help:"Of this run."`
	Origin       origin `placeholder:"ORIGIN" help:"To this origin, such as https://example.com; a list looks as --endpoint does, unless --status is pending or dead_letter."`
	Endpoint     string `placeholder:"SUBSTRING" help:"With this in the URL; looks at the newest 100,000 that the other filters leave."`
	Credential   string `placeholder:"UUID" help:"With this credential; as --endpoint."`
	LastError    string `name:"error" placeholder:"SUBSTRING" help:"With this in the last error; as --endpoint."`
	Since        since  `placeholder:"TIME" help:"Created since then: a duration such as 2h or 7d, or an RFC 3339 time."`
	Until        since  `placeholder:"TIME" help:"Created before then: as --since."`
}

func (f *filterFlags) filter(statuses []delivery.Status) store.Filter {
	return store.Filter{
		Statuses: statuses, Organization: f.Organization, Run: f.CausedBy, Origin: string(f.Origin), Endpoint: f.Endpoint,
		Credential: f.Credential, Error: f.LastError, Since: f.Since.Time, Until: f.Until.Time,
	}
}

// statusFlag selects deliveries by their status.
type statusFlag struct {
	Status []delivery.Status `placeholder:"STATUS" help:"In this status: pending, succeeded, dead_letter or canceled; may be repeated, or a comma list."`
}

// check is not named Validate: of embedded flags, only the method that their command has as its own is called.
func (f *statusFlag) check() error {
	for _, status := range f.Status {
		if !slices.Contains(delivery.Statuses, status) {
			return fmt.Errorf("--status %s: pending, succeeded, dead_letter or canceled", printable(string(status)))
		}
	}
	return nil
}

// checkFilter is not named Validate, as statusFlag's check.
func (f *filterFlags) checkFilter() error {
	if f.Credential != "" && !uuidSyntax.MatchString(f.Credential) {
		return errors.New("--credential: the UUID of a credential: see riverhook credentials list")
	}
	return nil
}

// explain says what the filter does not look at. A list looks for an origin in a window, too, where no index serves it.
func (f *filterFlags) explain(c console, list bool, statuses []delivery.Status) {
	var flags []string
	for _, flag := range []struct {
		name string
		set  bool
	}{
		{"--endpoint", f.Endpoint != ""},
		{"--credential", f.Credential != ""},
		{"--error", f.LastError != ""},
		{"--origin", list && store.Filter{Origin: string(f.Origin), Statuses: statuses}.Windowed()},
	} {
		if flag.set {
			flags = append(flags, flag.name)
		}
	}
	if len(flags) == 0 {
		return
	}
	verb := "looks"
	if len(flags) > 1 {
		verb = "look"
	}
	_, _ = fmt.Fprintf(c.err, "%s %s at the newest %d deliveries that the other filters leave", strings.Join(flags, " and "), verb, store.SubstringRows)
	if flags[len(flags)-1] == "--origin" {
		_, _ = fmt.Fprint(c.err, " (with --status pending, dead_letter or both: at all of them)")
	}
	_, _ = fmt.Fprintln(c.err)
}

// origin is an origin as deliveries.endpoint_origin has it.
type origin string

func (o *origin) UnmarshalText(text []byte) error {
	u, err := delivery.ParseEndpoint(string(text))
	if err != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return errors.New("scheme, host and port only, such as https://example.com")
	}
	*o = origin(delivery.Origin(u))
	return nil
}

// since is a time, also given as how long ago it was.
type since struct{ time.Time }

func (s *since) UnmarshalText(text []byte) error {
	var ago duration
	if at, err := time.Parse(time.RFC3339, string(text)); err == nil {
		s.Time = at
	} else if len(text) > 0 && ago.UnmarshalText(text) == nil {
		s.Time = time.Now().Add(-time.Duration(ago))
	} else {
		return fmt.Errorf("%q is neither a duration such as 2h or 7d nor a time such as %s", text, time.Now().UTC().Format(time.RFC3339))
	}
	return nil
}

type listCmd struct {
	databaseFlags
	statusFlag
	filterFlags
	Limit  int   `default:"50" help:"At most so many, up to 1000 (default ${default})."`
	Before int64 `placeholder:"ID" help:"Only those with a lower id: the next page."`
	JSON   bool  `name:"json" help:"Print one JSON object per line."`
}

func (cmd *listCmd) Validate() error {
	switch {
	case cmd.Limit < 1 || cmd.Limit > 1000:
		return errors.New("--limit: from 1 to 1000")
	case cmd.Before < 0:
		return errors.New("--before: the id of a delivery")
	}
	if err := cmd.checkFilter(); err != nil {
		return err
	}
	return cmd.check()
}

func (cmd *listCmd) Run(ctx context.Context, c console) error {
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	cmd.explain(c, true, cmd.Status)
	rows, err := st.List(ctx, cmd.filter(cmd.Status), cmd.Before, cmd.Limit+1)
	if err != nil {
		return explainDatabaseError(err, "reader")
	}
	more := len(rows) > cmd.Limit
	if more {
		rows = rows[:cmd.Limit]
	}
	if cmd.JSON {
		for i := range rows {
			if err := printJSON(c.out, &rows[i]); err != nil {
				return err
			}
		}
	} else if _, err := io.WriteString(c.out, table(rows, terminalWidth(c.out))); err != nil {
		return err
	}
	if len(rows) == 0 {
		_, _ = fmt.Fprintln(c.err, "no such delivery")
	}
	if more {
		_, _ = fmt.Fprintf(c.err, "there are more: add --before %d\n", rows[len(rows)-1].ID)
	}
	return nil
}

// Widths of what may be long in a table, in characters.
const (
	originWidth    = 50
	runWidth       = 36
	nodeWidth      = 40
	leastNodeWidth = 10
)

// table shows deliveries in a terminal of that many columns without breaking a line; 0 is no terminal.
func table(rows []store.Row, columns int) string {
	node := nodeWidth
	if columns > 0 {
		node = min(max(columns/8, leastNodeWidth), nodeWidth)
	}
	lines := [][]string{{"ID", "STATUS", "ATTEMPTS", "NEXT", "CREATED", "ORIGIN", "RUN", "LAST ERROR"}}
	for i := range rows {
		r := &rows[i]
		lines = append(lines, []string{
			strconv.FormatInt(r.ID, 10), standing(r, node), attemptsMade(r, "/"), next(r), age(r.Now.Sub(r.CreatedAt)),
			cut(printable(dash(r.EndpointOrigin)), originWidth), cut(printable(dash(r.WorkflowRunID)), runWidth), printable(dash(r.LastError)),
		})
	}
	const origin = 5 // and what follows, may be cut
	if !slices.ContainsFunc(rows, func(r store.Row) bool { return text(r.WorkflowRunID) != "" }) {
		for i := range lines {
			lines[i] = slices.Delete(lines[i], origin+1, origin+2)
		}
	}
	last := len(lines[0]) - 1
	widths := make([]int, last+1)
	wanted := 0 // by the columns that are left
	for i := range widths {
		for _, line := range lines {
			widths[i] = max(widths[i], utf8.RuneCountInString(line[i]))
		}
		wanted += widths[i]
	}
	room := columns - 2*last // for them
	for i := range widths {
		wanted -= widths[i]
		if columns > 0 && i >= origin && i < last { // an equal share, or what the others do not want
			widths[i] = min(widths[i], max(room/(last+1-i), room-wanted, len(lines[0][i])))
		}
		room -= widths[i]
	}

	var b strings.Builder
	for _, line := range lines {
		shown := ""
		for i, width := range widths[:last] {
			shown += fmt.Sprintf("%-*s  ", width, cut(line[i], width))
		}
		shown += line[last]
		if columns > 0 {
			shown = cut(shown, columns)
		}
		b.WriteString(shown + "\n")
	}
	return b.String()
}

// terminalWidth is how many columns out has if it is a terminal, and otherwise 0.
func terminalWidth(out io.Writer) int {
	if !isTerminal(out) {
		return 0
	}
	columns, _, err := term.GetSize(int(out.(*os.File).Fd())) //nolint:gosec // a file descriptor
	if err != nil {
		return 0
	}
	return columns
}

// standing is the status, and who is at it: a node, whose name is cut to a width.
func standing(r *store.Row, width int) string {
	switch {
	case r.ClaimedBy == nil:
		return string(r.Status)
	case r.Status == delivery.StatusPending:
		// A claim is the last change of a row that is being sent.
		return fmt.Sprintf("sending since %s on %s", brief(r.Now.Sub(r.UpdatedAt)), cut(printable(*r.ClaimedBy), width))
	default:
		return string(r.Status) + ", still being sent"
	}
}

// attemptsMade is 3 of 5, or 3: the service's default is not known here.
func attemptsMade(r *store.Row, of string) string {
	if r.MaxAttempts == nil {
		return strconv.Itoa(r.AttemptCount)
	}
	return fmt.Sprintf("%d%s%d", r.AttemptCount, of, *r.MaxAttempts)
}

// next is when the next attempt is due.
func next(r *store.Row) string {
	switch {
	case r.Status != delivery.StatusPending || r.ClaimedBy != nil:
		return "-"
	case r.HeldSince != nil:
		return heldBack(r)
	case r.ScheduledFor == nil || !r.ScheduledFor.After(r.Now):
		return "due"
	default:
		return "in " + brief(r.ScheduledFor.Sub(r.Now))
	}
}

// heldBack is that a delivery is held, and the word for why.
func heldBack(r *store.Row) string {
	if r.HeldReason == nil {
		return "held back"
	}
	return "held back (" + printable(*r.HeldReason) + ")"
}

// brief is a duration in its two largest units, rounded up to a second.
func brief(d time.Duration) string {
	s := max(int64((d+time.Second-1)/time.Second), 0)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 60*60:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 24*60*60:
		return fmt.Sprintf("%dh%dm", s/60/60, s/60%60)
	default:
		return fmt.Sprintf("%dd%dh", s/60/60/24, s/60/60%24)
	}
}

// age is how long ago something was, in its largest unit.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	default:
		return fmt.Sprintf("%dd ago", d/(24*time.Hour))
	}
}

// cut is s in at most limit characters.
func cut(s string, limit int) string {
	if len(s) <= limit || utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-1]) + "…"
}

func dash(s *string) string {
	if s == nil || *s == "" {
		return "-"
	}
	return *s
}

// printJSON prints v on a line of its own. What a terminal could take for a command is escaped in it, as JSON allows.
func printJSON(out io.Writer, v any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	line := make([]byte, 0, b.Len())
	for _, r := range b.String() {
		switch high, low := utf16.EncodeRune(r); {
		case r < 0x7f || unicode.IsPrint(r): // below a space there are escapes already, and the end of the line
			line = utf8.AppendRune(line, r)
		case low != unicode.ReplacementChar:
			line = fmt.Appendf(line, `\u%04x\u%04x`, high, low)
		default:
			line = fmt.Appendf(line, `\u%04x`, r)
		}
	}
	_, err := out.Write(line)
	return err
}

type showCmd struct {
	databaseFlags
	headerFlags
	ID   string `arg:"" help:"The delivery, by id or delivery_uuid."`
	JSON bool   `name:"json" help:"Print one JSON object, with the attempts in it."`
}

func (cmd *showCmd) Run(ctx context.Context, c console) error {
	var named store.Filter
	if err := nameDelivery(&named, cmd.ID); err != nil {
		return usageError{err}
	}
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	id, uuid := int64(0), ""
	if len(named.IDs) > 0 {
		id = named.IDs[0]
	} else {
		uuid = named.UUIDs[0]
	}
	row, attempts, err := st.Get(ctx, id, uuid)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("there is no delivery %s in schema %s", cmd.ID, string(cmd.Schema))
	}
	if err != nil {
		return explainDatabaseError(err, "reader")
	}
	if len(attempts) == store.MaxAttemptRows {
		_, _ = fmt.Fprintf(c.err, "only the newest %d attempts are shown\n", store.MaxAttemptRows)
	}
	if cmd.JSON {
		if row.Payload == nil {
			_, _ = fmt.Fprintf(c.err, "the payload has %d bytes and is not shown\n", row.PayloadBytes)
		}
		return printShown(c.out, row, attempts)
	}
	_, err = io.WriteString(c.out, describe(&row, cmd.rules())+describeAttempts(attempts))
	return err
}

var uuidSyntax = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// nameDelivery adds a delivery, by id or delivery_uuid, to those that the filter names.
func nameDelivery(f *store.Filter, name string) error {
	if uuidSyntax.MatchString(name) {
		f.UUIDs = append(f.UUIDs, name)
		return nil
	}
	id, err := strconv.ParseInt(name, 10, 64)
	if err != nil || id < 1 {
		return fmt.Errorf("%s is neither the id of a delivery nor a delivery_uuid", strconv.QuoteToGraphic(name))
	}
	f.IDs = append(f.IDs, id)
	return nil
}

// shownAttempt is an attempt in JSON: the body as text where it is one.
type shownAttempt struct {
	store.AttemptRow
	Body       *string `json:"response_body"`
	BodyBase64 []byte  `json:"response_body_base64,omitempty"`
}

func printShown(out io.Writer, row store.Row, attempts []store.AttemptRow) error {
	shown := struct {
		store.Row
		Attempts []shownAttempt `json:"attempts"`
	}{row, make([]shownAttempt, len(attempts))}
	if row.Payload != nil && !json.Valid(row.Payload) { // nested deeper than encoding/json goes
		quoted, err := json.Marshal(string(row.Payload))
		if err != nil {
			return err
		}
		shown.Payload = quoted
	}
	for i, a := range attempts {
		s := shownAttempt{AttemptRow: a}
		if body := string(a.ResponseBody); !utf8.ValidString(body) {
			s.BodyBase64 = a.ResponseBody
		} else if a.ResponseBody != nil {
			s.Body = &body
		}
		shown.Attempts[i] = s
	}
	return printJSON(out, shown)
}

// Most characters of what is shown as text.
const (
	shownPayload = 2000
	shownBody    = 200
)

// describe is a delivery as text, with what the rules say of its headers.
func describe(r *store.Row, rules delivery.HeaderRules) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-14s  %s\n", name, value)
		}
	}
	optional := func(name string, value *string) {
		if value != nil {
			line(name, printable(*value))
		}
	}
	at := func(name string, t *time.Time) {
		if t != nil {
			line(name, t.Format(time.RFC3339Nano))
		}
	}
	line("delivery", strconv.FormatInt(r.ID, 10))
	line("uuid", r.UUID)
	line("status", standing(r, nodeWidth))
	line("next attempt", whenNext(r))
	line("held because", heldBecause[text(r.HeldReason)])
	line("attempts", attemptsMade(r, " of "))
	if r.AbandonedCount > 0 {
		line("abandoned", fmt.Sprintf("the last %d: their node died", r.AbandonedCount))
	}
	if r.Round > 0 {
		line("round", fmt.Sprintf("%d (replays so far)", r.Round))
	}
	if r.LastStatusCode != nil {
		line("last status", strconv.Itoa(*r.LastStatusCode))
	}
	optional("last error", r.LastError)
	line("endpoint", printable(strings.ToUpper(r.HTTPMethod)+" "+r.EndpointURL))
	line("organization", printable(r.OrganizationID))
	optional("run", r.WorkflowRunID)
	optional("node", r.WebhookNodeID)
	optional("name", r.WebhookName)
	optional("credential", r.CredentialUUID)
	at("created", &r.CreatedAt)
	at("updated", &r.UpdatedAt)
	at("finished", r.FinishedAt)
	if headers := string(r.CustomHeaders); headers != "null" {
		line("custom headers", excerpt(headers, shownPayload))
		_, dropped, err := rules.Custom(r.CustomHeaders)
		if err != nil {
			line("warning", printable(err.Error())+": it cannot be sent")
		} else if len(dropped) > 0 {
			line("warning", "not sent: "+printable(strings.Join(dropped, ", "))+" (of the connection, riverhook's own, or a secret's name: use a credential)")
		}
	}
	if r.Payload == nil {
		line("payload", fmt.Sprintf("%d bytes, not shown", r.PayloadBytes))
	} else {
		line("payload", excerpt(string(r.Payload), shownPayload))
	}
	return b.String()
}

// whenNext is next in more words.
func whenNext(r *store.Row) string {
	switch due := next(r); {
	case r.Status == delivery.StatusPending && r.ClaimedBy != nil:
		return "in flight"
	case due == "-":
		return "none"
	case r.HeldSince != nil:
		return due + " since " + r.HeldSince.Format(time.RFC3339)
	case r.ScheduledFor != nil:
		return due + " (" + r.ScheduledFor.Format(time.RFC3339) + ")"
	default:
		return due
	}
}

// describeAttempts is the ledger as text.
func describeAttempts(attempts []store.AttemptRow) string {
	var b strings.Builder
	for i := range attempts {
		a := &attempts[i]
		took := "an unknown time"
		if a.DurationMS != nil {
			took = (time.Duration(*a.DurationMS) * time.Millisecond).String()
			if *a.DurationMS == 0 {
				took = "<1ms"
			}
		}
		fmt.Fprintf(&b, "\nround %d, attempt %d: %s", a.Round, a.Attempt, a.Outcome)
		if a.FailureKind != nil {
			fmt.Fprintf(&b, " (%s)", *a.FailureKind)
		}
		fmt.Fprintf(&b, "\n  %s, took %s, by %s\n", a.StartedAt.Format(time.RFC3339Nano), took, printable(a.Node))
		if a.StatusCode != nil {
			fmt.Fprintf(&b, "  HTTP %d\n", *a.StatusCode)
		}
		if a.Error != nil && !saysAnswer(a) {
			fmt.Fprintf(&b, "  error: %s\n", printable(*a.Error))
		}
		if len(a.ResponseBody) > 0 {
			fmt.Fprintf(&b, "  response: %s\n", excerpt(string(a.ResponseBody), shownBody))
		}
	}
	if len(attempts) == 0 {
		b.WriteString("\nno attempt yet\n")
	}
	return b.String()
}

// saysAnswer says whether the error is the answer's status and the beginning of its body, and nothing else.
func saysAnswer(a *store.AttemptRow) bool {
	if a.StatusCode == nil {
		return false
	}
	rest, ok := strings.CutPrefix(*a.Error, fmt.Sprintf("HTTP %d", *a.StatusCode))
	body := strings.ToValidUTF8(string(a.ResponseBody), "\uFFFD")
	return ok && strings.HasPrefix(body, strings.TrimPrefix(rest, ": "))
}

// excerpt is the beginning of what somebody else wrote, as it can be shown in a terminal.
func excerpt(s string, limit int) string {
	short := cut(s, limit)
	if utf8.ValidString(short) {
		return printable(short)
	}
	quoted := strconv.QuoteToGraphic(short)
	return quoted[1 : len(quoted)-1]
}

// actionFlags say what an action is for.
type actionFlags struct {
	databaseFlags
	filterFlags
	IDs    []string `arg:"" optional:"" name:"id" help:"Deliveries, by id or delivery_uuid; instead of a filter."`
	DryRun bool     `help:"Only count them."`
	Yes    bool     `help:"Do not ask before changing what a filter selects."`
	JSON   bool     `name:"json" help:"Print one JSON object."`
}

// pendingFlag is --status of what changes pending deliveries only: with it, all of them can be meant.
type pendingFlag struct {
	Status string `enum:"pending," default:"" placeholder:"pending" help:"Only pending deliveries are changed; with --status pending and no other filter, all of them."`
}

func (f pendingFlag) statuses() []delivery.Status {
	if f.Status == "" {
		return nil
	}
	return []delivery.Status{delivery.StatusPending}
}

type retryCmd struct {
	actionFlags
	pendingFlag
}

func (cmd *retryCmd) Run(ctx context.Context, c console) error {
	return cmd.run(ctx, c, action{
		kind: store.ActionRetry, verb: "retry", past: "retried", statuses: cmd.statuses(),
		do: (*store.Store).Retry,
	})
}

type cancelCmd struct {
	actionFlags
	pendingFlag
}

func (cmd *cancelCmd) Run(ctx context.Context, c console) error {
	return cmd.run(ctx, c, action{
		kind: store.ActionCancel, verb: "cancel", past: "canceled", statuses: cmd.statuses(),
		do: (*store.Store).Cancel,
	})
}

type replayCmd struct {
	actionFlags
	statusFlag
	EndpointURL string `name:"endpoint-url" placeholder:"URL" help:"Send them there instead."`
}

func (cmd *replayCmd) Validate() error {
	if cmd.EndpointURL != "" {
		if _, err := delivery.ParseEndpoint(cmd.EndpointURL); err != nil {
			return fmt.Errorf("--endpoint-url: %w", err)
		}
	}
	return cmd.check()
}

func (cmd *replayCmd) Run(ctx context.Context, c console) error {
	return cmd.run(ctx, c, action{
		kind: store.ActionReplay, verb: "replay", past: "replayed", statuses: cmd.Status, endpointURL: cmd.EndpointURL,
		do: func(st *store.Store, ctx context.Context, f store.Filter, progress func(int)) (store.Result, error) {
			return st.Replay(ctx, f, cmd.EndpointURL, progress)
		},
	})
}

// action is retry, replay or cancel.
type action struct {
	kind        store.Action
	verb, past  string
	statuses    []delivery.Status // where --status names some
	endpointURL string            // of a replay, where they go instead
	do          func(*store.Store, context.Context, store.Filter, func(int)) (store.Result, error)
}

// foretell says how many deliveries it would change, by status between before and after, and where to.
func (a action) foretell(numbers map[delivery.Status]int, before, after string) string {
	var parts []string
	for _, status := range delivery.Statuses {
		if n := numbers[status]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	words := counted(total(numbers))
	if a.kind == store.ActionReplay && parts != nil { // the others are for pending ones only
		words += before + strings.Join(parts, ", ") + after
	}
	if a.endpointURL != "" {
		words += " to " + printable(a.endpointURL)
	}
	return words
}

func (f *actionFlags) run(ctx context.Context, c console, a action) error {
	if err := f.checkFilter(); err != nil {
		return usageError{err}
	}
	filter, err := f.selection(a)
	if err != nil {
		return usageError{err}
	}
	ask := len(f.IDs) == 0 && !f.DryRun && !f.Yes
	if ask && !isTerminal(c.in) {
		return usageError{fmt.Errorf("say --yes to %s all that the filter selects, or --dry-run to count them", a.verb)}
	}
	pool, st, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	f.explain(c, false, nil)
	if ask || f.DryRun {
		numbers, err := st.Count(ctx, a.kind, filter)
		if err != nil {
			return explainDatabaseError(err, "support")
		}
		if f.DryRun {
			return f.reportDryRun(c, a, numbers)
		}
		if total(numbers) > 0 {
			yes, err := confirm(ctx, c, fmt.Sprintf("%s %s? [y/N] ", capital(a.verb), a.foretell(numbers, " (", ")")))
			if err != nil {
				return err
			}
			if !yes {
				_, _ = fmt.Fprintln(c.err, "nothing was changed")
				return exitError(exitFailed)
			}
		}
	}
	progress, clearProgress := progressOf(c, a)
	result, err := a.do(st, ctx, filter, progress)
	clearProgress()
	if err != nil {
		err = explainDatabaseError(err, "support")
		if result.Changed > 0 {
			err = hintError{err, fmt.Sprintf("%s %d before that; the same command goes on from there", a.past, result.Changed)}
		}
		return err
	}
	if err := f.report(c, a.past, result.Changed); err != nil {
		return err
	}
	failed := false
	for _, u := range result.Unchanged {
		if a.kind == store.ActionRetry && u.Status == delivery.StatusPending && !u.Sending { // as it was asked for
			due := "is due already"
			if u.Held != store.NotHeld {
				due += ", and held back (" + string(u.Held) + "): riverhook held says why, riverhook resume ends a pause"
			}
			_, _ = fmt.Fprintln(c.err, nameOf(u), due)
			continue
		}
		failed = true
		_, _ = fmt.Fprintln(c.err, whyNot(a, u))
	}
	if failed {
		return exitError(exitFailed)
	}
	return nil
}

// selection is what the flags say, if that is something to act on.
func (f *actionFlags) selection(a action) (store.Filter, error) {
	filter := f.filter(a.statuses)
	filters := f.filterFlags != filterFlags{}
	switch {
	case len(f.IDs) == 0 && len(a.statuses) == 0 && !filters:
		return filter, fmt.Errorf("%s which deliveries? Name them by id, or give at least one of --status, --organization, --run, --origin, --endpoint, --credential, --error, --since and --until", a.verb)
	case len(f.IDs) > 0 && filters: // with ids, --status is how a delivery that succeeded is replayed
		return filter, errors.New("either ids or a filter, not both")
	case a.kind == store.ActionReplay && slices.Contains(a.statuses, delivery.StatusPending):
		return filter, errors.New("--status pending: a pending delivery is not over yet: retry or cancel it")
	}
	for _, name := range f.IDs {
		if err := nameDelivery(&filter, name); err != nil {
			return filter, err
		}
	}
	return filter, nil
}

// report says how many were changed.
func (f *actionFlags) report(c console, past string, n int) error {
	if f.JSON {
		return printJSON(c.out, map[string]int{past: n})
	}
	_, err := fmt.Fprintln(c.out, past, counted(n))
	return err
}

// reportDryRun says how many would be changed.
func (f *actionFlags) reportDryRun(c console, a action, numbers map[delivery.Status]int) (err error) {
	if !f.JSON {
		_, err = fmt.Fprintln(c.out, "would", a.verb, a.foretell(numbers, ": ", ""))
		return err
	}
	object := fmt.Sprintf(`{"would_%s":%d`, a.verb, total(numbers))
	for _, status := range delivery.Statuses {
		if n, ok := numbers[status]; ok && a.kind == store.ActionReplay {
			object += fmt.Sprintf(`,"%s":%d`, status, n)
		}
	}
	_, err = fmt.Fprintln(c.out, object+"}")
	return err
}

func total(numbers map[delivery.Status]int) (n int) {
	for _, of := range numbers {
		n += of
	}
	return n
}

func counted(n int) string {
	if n == 1 {
		return "1 delivery"
	}
	return fmt.Sprintf("%d deliveries", n)
}

func nameOf(u store.Unchanged) string {
	if u.UUID != "" {
		return u.UUID
	}
	return strconv.FormatInt(u.ID, 10)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// confirm asks in the terminal. Everything but yes is no.
func confirm(ctx context.Context, c console, question string) (bool, error) {
	_, _ = fmt.Fprint(c.err, question)
	answer := make(chan string, 1)
	go func() { // it cannot be interrupted; the program ends soon
		line, _ := bufio.NewReader(io.LimitReader(c.in, 1000)).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintln(c.err)
		return false, fmt.Errorf("nothing was changed: %w", ctx.Err())
	case a := <-answer:
		return a == "y" || a == "yes", nil
	}
}

// progressOf shows, in a terminal, how far a long action is. done takes that away again.
func progressOf(c console, a action) (progress func(int), done func()) {
	if !isTerminal(c.err) {
		return nil, func() {}
	}
	shown := false
	return func(n int) {
			shown = true
			_, _ = fmt.Fprintf(c.err, "\r%s %s", a.past, counted(n))
		}, func() {
			if shown {
				_, _ = fmt.Fprint(c.err, "\r\x1b[K")
			}
		}
}

// whyNot says why an action did not change a delivery.
func whyNot(a action, u store.Unchanged) string {
	why := "it is " + string(u.Status)
	switch {
	case u.Status == delivery.StatusUnknown:
		why = "there is no such delivery"
	case a.kind == store.ActionRetry && u.Status == delivery.StatusPending:
		why = "it is being sent"
	case a.kind == store.ActionRetry:
		why += ": replay starts it over"
	case a.kind == store.ActionReplay && u.Status == delivery.StatusPending:
		why += ": retry brings its next attempt forward"
	case a.kind == store.ActionReplay:
		why += ": say --status " + string(u.Status) + " if it is meant"
	}
	return fmt.Sprintf("%s was not %s: %s", nameOf(u), a.past, why)
}
