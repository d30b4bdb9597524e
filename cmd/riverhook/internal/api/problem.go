package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/store"
)

// at says what is wrong, and where: body.endpoint_url, query.limit. It repeats no value, which may be a secret.
func at(location, message string) *huma.ErrorDetail {
	return &huma.ErrorDetail{Location: location, Message: message}
}

// problem is an answer of RFC 9457.
func problem(status int, detail string, errs ...*huma.ErrorDetail) huma.StatusError {
	return &huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail, Errors: errs}
}

// wrong is a 422 about one field.
func wrong(location, message string) huma.StatusError {
	return problem(http.StatusUnprocessableEntity, location+" "+message, at(location, message))
}

// WriteProblem answers with a problem outside of the API's operations.
func WriteProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem(status, detail))
}

// WriteUnauthorized answers somebody whom auth did not let in, and names the scheme (Bearer or Basic) to try. An error that
// is none of auth's is the database's, and a 503.
func (a *API) WriteUnauthorized(w http.ResponseWriter, r *http.Request, err error, scheme string) {
	var tooMany *auth.TooManyError
	switch {
	case errors.As(err, &tooMany):
		w.Header().Set("Retry-After", strconv.Itoa(int(tooMany.RetryAfter.Seconds())+1))
		WriteProblem(w, http.StatusTooManyRequests, "too many requests with a wrong token from this address: wait")
	case errors.Is(err, auth.ErrNoToken):
		w.Header().Set("WWW-Authenticate", scheme+` realm="riverhook"`)
		WriteProblem(w, http.StatusUnauthorized, "a token is needed, in the header Authorization: Bearer ... (make one with: riverhook tokens create)")
	case errors.Is(err, auth.ErrBadToken):
		a.log.InfoContext(r.Context(), "a wrong token", "remote", auth.RemoteAddr(r).String())
		w.Header().Set("WWW-Authenticate", scheme+` realm="riverhook", error="invalid_token"`)
		WriteProblem(w, http.StatusUnauthorized, "the token is unknown, has expired or was revoked (make one with: riverhook tokens create)")
	default:
		a.log.WarnContext(r.Context(), "cannot check a token", "error", err)
		w.Header().Set("Retry-After", "1")
		WriteProblem(w, http.StatusServiceUnavailable, "the database does not answer: try again")
	}
}

// fail turns an error of a handler into an answer. What the client cannot know or change is logged, and not told.
func (a *API) fail(ctx context.Context, operation string, err error) error {
	var status huma.StatusError
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &status):
		return err
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, "there is no such delivery")
	case errors.Is(err, store.ErrNoReplay):
		return problem(http.StatusNotFound, "there is no such replay")
	case errors.Is(err, store.ErrKeyReused):
		return problem(http.StatusConflict, "this Idempotency-Key was used for another request", at("header.Idempotency-Key", "was used for another request"))
	case errors.Is(err, store.ErrTryAgain):
		return problem(http.StatusConflict, "the delivery that was in the way has just gone: try again")
	case errors.As(err, &pg) && pg.Code == "55P03":
		return problem(http.StatusConflict, "another transaction, which has not ended, holds the same row: try again later")
	case errors.As(err, &pg) && pg.Code == "57014":
		return problem(http.StatusUnprocessableEntity, "this takes too long: narrow the filter, by status, organization_id, workflow_run_id or since")
	case store.IsRowError(err):
		a.log.InfoContext(ctx, "the database refused a row", "operation", operation, "error", err)
		return problem(http.StatusUnprocessableEntity, "the database refuses what this holds"+constraint(err))
	case store.IsRefusal(err):
		a.log.ErrorContext(ctx, "a request failed", "operation", operation, "error", err)
		return problem(http.StatusInternalServerError, "this is riverhook's fault: its log says more")
	}
	if ctx.Err() == nil {
		a.log.WarnContext(ctx, "a request failed", "operation", operation, "error", err)
	}
	return unavailable("the database does not answer: try again (what was asked for may have been done)")
}

// constraint names the rule that a row broke, if it was one.
func constraint(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.ConstraintName != "" {
		return ": " + pg.ConstraintName
	}
	return ""
}

// unavailable is a 503.
func unavailable(detail string) error {
	return huma.ErrorWithHeaders(problem(http.StatusServiceUnavailable, detail), http.Header{"Retry-After": {"1"}})
}
