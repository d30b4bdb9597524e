package ask

import (
	"context"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// Error says what is wrong with one field. It repeats no value.
type Error struct {
	Field, Message string
	Foreign        bool // it names an organization that the token does not see
}

func (e *Error) Error() string { return e.Field + " " + e.Message }

// Wanted is a filter as somebody asks for it, in a query, a form or a body. What is empty is not asked for.
type Wanted struct {
	Status                              []string
	Organization, Run, Origin, Endpoint string
	Since, Until                        string
	Credential, Error                   string
}

// ForeignOrganization is what an Error says that is Foreign.
const ForeignOrganization = "is another organization than the token's"

// Filter checks a filter for who asks: without an organization it is the token's. It fails with an *Error.
func Filter(i *auth.Identity, w Wanted) (f store.ReplayFilter, err error) {
	f = store.ReplayFilter{WorkflowRunID: w.Run, Endpoint: w.Endpoint, CredentialUUID: w.Credential, Error: w.Error}
	for _, field := range [][2]string{
		{"organization_id", w.Organization}, {"workflow_run_id", w.Run}, {"origin", w.Origin}, {"endpoint", w.Endpoint}, {"error", w.Error},
	} {
		if message := NotText(field[1]); message != "" {
			return f, &Error{Field: field[0], Message: message}
		}
	}
	switch {
	case w.Organization == "":
		f.OrganizationID = i.Organization
	case !i.Sees(w.Organization):
		return f, &Error{Field: "organization_id", Message: ForeignOrganization, Foreign: true}
	default:
		f.OrganizationID = w.Organization
	}
	for n, text := range w.Status {
		status := delivery.Status(text)
		if !slices.Contains(delivery.Statuses, status) {
			return f, &Error{Field: fmt.Sprintf("status[%d]", n), Message: "must be one of pending, succeeded, dead_letter, canceled"}
		}
		if !slices.Contains(f.Status, status) {
			f.Status = append(f.Status, status)
		}
	}
	if w.Origin != "" {
		origin, ok := Origin(w.Origin)
		if !ok {
			return f, &Error{Field: "origin", Message: NotOrigin}
		}
		f.Origin = origin
	}
	if w.Credential != "" && !uuidSyntax.MatchString(w.Credential) {
		return f, &Error{Field: "credential_uuid", Message: "must be a UUID such as 1f0a4c1e-7b64-4b7e-9d0c-2f1f5f3b8a11"}
	}
	if f.Since, err = moment("since", w.Since); err != nil {
		return f, err
	}
	f.Until, err = moment("until", w.Until)
	return f, err
}

// moment reads a time; nil for none.
func moment(field, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no time is not an error
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9998 {
		return nil, &Error{Field: field, Message: "must be a time such as 2030-01-31T12:00:00Z"}
	}
	return &t, nil
}

// maxText bounds a text to look for, in bytes.
const maxText = 8 << 10

// NotText says why no column can hold a text, or it cannot be looked for; empty: it can.
func NotText(text string) string {
	switch {
	case len(text) > maxText:
		return fmt.Sprintf("is longer than %d bytes", maxText)
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return "is not text: it is not UTF-8, or has a NUL character in it"
	}
	return ""
}

// NotOrigin is what to say of a text that Origin cannot read.
const NotOrigin = "must be scheme, host and port only, such as https://example.com"

// Origin reads an origin as deliveries.endpoint_origin has it.
func Origin(text string) (origin string, ok bool) {
	u, err := delivery.ParseEndpoint(text)
	if err != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", false
	}
	return delivery.Origin(u), true
}

var uuidSyntax = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

// IsUUID says whether text is a UUID, in any case.
func IsUUID(text string) bool { return uuidSyntax.MatchString(text) }

// ID reads an id: a number from 1 on.
func ID(text string) (id int64, ok bool) {
	id, err := strconv.ParseInt(text, 10, 64)
	return id, err == nil && id >= 1
}

// Delivery reads what names a delivery, its id or its uuid. What is neither names none.
func Delivery(text string) (id int64, uuid string, ok bool) {
	if IsUUID(text) {
		return 0, strings.ToLower(text), true
	}
	id, ok = ID(text)
	return id, "", ok
}

// cursorVersion begins a cursor. What it holds may change; clients only hand it back.
const cursorVersion = "1:"

// Cursor is where the next page begins: behind that id.
func Cursor(id int64) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorVersion + strconv.FormatInt(id, 10)))
}

// ParseCursor reads a cursor; empty is the first page, 0.
func ParseCursor(text string) (before int64, ok bool) {
	if text == "" {
		return 0, true
	}
	raw, decodeErr := base64.RawURLEncoding.Strict().DecodeString(text)
	digits, marked := strings.CutPrefix(string(raw), cursorVersion)
	id, parseErr := strconv.ParseInt(digits, 10, 64)
	if decodeErr != nil || !marked || parseErr != nil || id < 1 || strconv.FormatInt(id, 10) != digits {
		return 0, false
	}
	return id, true
}

// Page cuts a list, which was asked for with one more than the limit, and is the cursor of the next one; empty: it is the
// last.
func Page[T any](rows []T, limit int, id func(T) int64) (items []T, next string) {
	if len(rows) <= limit {
		return append([]T{}, rows...), ""
	}
	return rows[:limit], Cursor(id(rows[limit-1]))
}

// Act does something to the delivery of that id, of the organization if one is given: retry, replay (of whatever has ended)
// or cancel. Why is empty when it was done, and else says why it could not be.
func Act(ctx context.Context, st *store.Store, action store.Action, organization string, id int64) (why string, err error) {
	f := store.Filter{Organization: organization, IDs: []int64{id}}
	var result store.Result
	switch action {
	case store.ActionReplay:
		f.Statuses = []delivery.Status{delivery.StatusSucceeded, delivery.StatusDeadLetter, delivery.StatusCanceled}
		result, err = st.Replay(ctx, f, "", nil)
	case store.ActionRetry:
		result, err = st.Retry(ctx, f, nil)
	case store.ActionCancel:
		result, err = st.Cancel(ctx, f, nil)
	}
	if err != nil || result.Changed > 0 || len(result.Unchanged) == 0 {
		return "", err
	}
	return whyNot(action, result.Unchanged[0]), nil
}

// whyNot says why an action did not change a delivery.
func whyNot(action store.Action, u store.Unchanged) string {
	pending := u.Status == delivery.StatusPending
	switch {
	case action == store.ActionReplay && pending:
		return "it is pending: only what has ended starts over; retry brings its next attempt forward"
	case action == store.ActionRetry && pending && u.Sending:
		return "an attempt is being made right now"
	case action == store.ActionRetry && pending:
		return "it is due already"
	case action == store.ActionRetry:
		return "it is " + string(u.Status) + ": replay starts it over"
	}
	return "it is " + string(u.Status) + " already"
}
