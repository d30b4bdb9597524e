package main

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// printable is s as it can be shown in a terminal: what a receiver sent may hold escape sequences.
func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	quoted := strconv.QuoteToGraphic(s)
	return quoted[1 : len(quoted)-1]
}

// lacksRights says whether a statement failed because the role may not do that.
func lacksRights(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

// explainDatabaseError adds what to do about a statement that failed: a role of the named kind is wanted.
func explainDatabaseError(err error, as string) error {
	var pg *pgconn.PgError
	switch {
	case lacksRights(err):
		return hintError{err, "this role lacks the rights: riverhook migrate grant ROLE --as " + as}
	case errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000"):
		return hintError{err, "is this the right database and --schema? Otherwise: riverhook migrate up"}
	}
	return err
}
