package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
)

// printable is s as it can be shown in a terminal: what a receiver sent may hold escape sequences.
func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	quoted := strconv.QuoteToGraphic(s)
	return quoted[1 : len(quoted)-1]
}

// explainDatabaseError adds what to do about a statement that failed: a role of the named kind is wanted.
func explainDatabaseError(err error, as string) error {
	var pg *pgconn.PgError
	switch {
	case node.LacksRights(err):
		return hintError{err, "this role lacks the rights: riverhook migrate grant ROLE --as " + as}
	case errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000"):
		return hintError{err, "is this the right database and --schema? Otherwise: riverhook migrate up"}
	}
	return err
}

// printList prints a list: a table with that head, one line each, or, as JSON, one object per line.
func printList[T any](c console, asJSON bool, list []T, head string, line func(T) string) error {
	if asJSON {
		for i := range list {
			if err := printJSON(c.out, list[i]); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, head)
	for i := range list {
		_, _ = fmt.Fprintln(table, line(list[i]))
	}
	return table.Flush()
}
