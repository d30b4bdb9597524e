package dashboard

import (
	"errors"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/store"
)

// failure is what a visitor is told instead of a page. It holds no secret, and nothing of the database.
type failure struct {
	status int
	text   string
}

func (f *failure) Error() string { return f.text }

// wrong is a failure because of one field.
func wrong(text string) error { return &failure{http.StatusUnprocessableEntity, text} }

// explain turns an error into what the visitor is told. What he cannot know or change is logged, and not told.
func (d *Dashboard) explain(r *http.Request, err error) *failure {
	var told *failure
	var field *ask.Error
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &told):
		return told
	case errors.As(err, &field) && field.Foreign:
		return &failure{http.StatusForbidden, "Your token is for another organization than the one that is asked for."}
	case errors.As(err, &field):
		return &failure{http.StatusUnprocessableEntity, strings.ReplaceAll(field.Field, "_", " ") + " " + field.Message + "."}
	case errors.Is(err, store.ErrNotFound):
		return &failure{http.StatusNotFound, "There is no such delivery."}
	case errors.Is(err, store.ErrNoReplay):
		return &failure{http.StatusNotFound, "There is no such replay."}
	case errors.As(err, &pg) && pg.Code == "55P03":
		return &failure{http.StatusConflict, "Another transaction, which has not ended, holds the same row: try again later."}
	case errors.As(err, &pg) && pg.Code == "57014":
		return &failure{http.StatusUnprocessableEntity, "This takes too long: narrow the filter, by status, organization, run or time."}
	case store.IsRowError(err):
		d.Log.InfoContext(r.Context(), "the database refused a row", "path", r.Pattern, "error", err)
		return &failure{http.StatusUnprocessableEntity, "The database refuses what this holds."}
	case store.IsRefusal(err):
		d.Log.ErrorContext(r.Context(), "a page failed", "path", r.Pattern, "error", err)
		return &failure{http.StatusInternalServerError, "This is riverhook's fault: its log says more."}
	}
	if r.Context().Err() == nil {
		d.Log.WarnContext(r.Context(), "a page failed", "path", r.Pattern, "error", err)
	}
	return &failure{http.StatusServiceUnavailable, "The database does not answer: try again. What was asked for may have been done."}
}

// refusal turns what auth says into what a visitor is told.
func (d *Dashboard) refusal(w http.ResponseWriter, r *http.Request, err error) *failure {
	var tooMany *auth.TooManyError
	switch {
	case errors.As(err, &tooMany):
		w.Header().Set("Retry-After", retryAfter(tooMany.RetryAfter))
		return &failure{http.StatusTooManyRequests, "Too many wrong tokens from this address: wait " + length(tooMany.RetryAfter) + ", then try again."}
	case errors.Is(err, auth.ErrNoToken):
		return &failure{http.StatusUnprocessableEntity, "Enter a token."}
	case errors.Is(err, auth.ErrBadToken):
		d.Log.InfoContext(r.Context(), "a wrong token", "remote", auth.RemoteAddr(r).String())
		return &failure{http.StatusUnauthorized, "This token is unknown, has expired or was revoked."}
	}
	d.Log.WarnContext(r.Context(), "cannot check a token", "error", err)
	return &failure{http.StatusServiceUnavailable, "The database does not answer: try again."}
}

// showError writes a page that says what is wrong.
func (d *Dashboard) showError(w http.ResponseWriter, v *visit, f *failure) {
	if f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	d.show(w, v, answer{template: "error", title: http.StatusText(f.status), status: f.status, data: f.text})
}
