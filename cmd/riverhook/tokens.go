package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/store"
)

type tokensCmd struct {
	Create tokensCreateCmd `cmd:"" help:"Make a token, and print it: it is not kept, and cannot be printed again."`
	List   tokensListCmd   `cmd:"" help:"List tokens by their prefix."`
	Revoke tokensRevokeCmd `cmd:"" help:"Revoke a token: it stops working within 5 seconds."`
}

type tokensCreateCmd struct {
	databaseFlags
	Scope        string    `required:"" enum:"enqueue,read,operate,admin" help:"${enum}. enqueue: insert deliveries, and nothing else; read: look; operate: both, and replay, retry and cancel; admin: everything."`
	Organization string    `placeholder:"ID" help:"The one tenant whose rows it sees (default: all)."`
	Name         string    `help:"For people: whose it is."`
	Expires      *duration `placeholder:"DURATION" help:"How long it works, such as 90d (default: until it is revoked)."`
	JSON         bool      `name:"json" help:"Print one JSON object."`
}

// Validate checks the flags.
func (cmd *tokensCreateCmd) Validate() error {
	switch {
	case cmd.Expires != nil && *cmd.Expires < duration(time.Second):
		return errors.New("--expires: at least 1s")
	case len(cmd.Name) > 200:
		return errors.New("--name: at most 200 bytes")
	case len(cmd.Organization) > 800:
		return errors.New("--organization: at most 800 bytes")
	}
	return nil
}

// Run makes one.
func (cmd *tokensCreateCmd) Run(ctx context.Context, c console) error {
	scope, err := auth.ParseScope(cmd.Scope)
	if err != nil {
		return usageError{err}
	}
	token, prefix, hash := auth.NewToken()
	t := store.Token{Prefix: prefix, Name: cmd.Name, Scope: string(scope), CreatedBy: commandUser()}
	if cmd.Organization != "" {
		t.OrganizationID = &cmd.Organization
	}
	var lifetime time.Duration
	if cmd.Expires != nil {
		lifetime = time.Duration(*cmd.Expires)
	}
	err = cmd.withStore(ctx, "service", func(st *store.Store) error {
		t, err = st.AddToken(ctx, t, hash, lifetime)
		return err
	})
	if err != nil {
		return err
	}
	if cmd.JSON {
		return printJSON(c.out, struct {
			store.Token
			Secret string `json:"token"`
		}{t, token.Reveal()})
	}
	_, _ = fmt.Fprintf(c.err, "made token %s of scope %s%s; it is printed this once:\n", t.Prefix, t.Scope, forOrganization(t))
	_, err = fmt.Fprintln(c.out, token.Reveal())
	return err
}

// commandUser is who made a token here, for the record.
func commandUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return "command line (" + u.Username + ")"
	}
	return "command line"
}

func forOrganization(t store.Token) string {
	if t.OrganizationID == nil {
		return " for all organizations"
	}
	return " for organization " + printable(*t.OrganizationID)
}

type tokensListCmd struct {
	databaseFlags
	Organization string `help:"Of this tenant (default: all)."`
	JSON         bool   `name:"json" help:"Print one JSON object per line."`
}

// Run lists.
func (cmd *tokensListCmd) Run(ctx context.Context, c console) error {
	return cmd.withStore(ctx, "service", func(st *store.Store) error {
		list, err := st.Tokens(ctx, cmd.Organization)
		if err != nil {
			return err
		}
		return printList(c, cmd.JSON, list, "PREFIX\tNAME\tSCOPE\tORGANIZATION\tSTATE\tLAST USED\tCREATED", func(t store.Token) string {
			used := "never"
			if t.LastUsedAt != nil {
				used = moment(*t.LastUsedAt)
			}
			organization := "(all)"
			if t.OrganizationID != nil {
				organization = *t.OrganizationID
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", t.Prefix, printable(dash(&t.Name)), t.Scope, printable(organization), tokenState(t), used, moment(t.CreatedAt))
		})
	})
}

// tokenState says whether a token works, and until when.
func tokenState(t store.Token) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case !t.Active:
		return "expired"
	case t.ExpiresAt != nil:
		return "until " + moment(*t.ExpiresAt)
	}
	return "active"
}

type tokensRevokeCmd struct {
	databaseFlags
	Prefix string `arg:"" help:"The token's prefix, as the list has it."`
	JSON   bool   `name:"json" help:"Print one JSON object."`
}

// Run revokes.
func (cmd *tokensRevokeCmd) Run(ctx context.Context, c console) error {
	if !auth.ValidPrefix(cmd.Prefix) { // which may be a whole token: it is not repeated
		return usageError{errors.New("that is no token's prefix: riverhook tokens list shows them")}
	}
	return cmd.withStore(ctx, "service", func(st *store.Store) error {
		found, err := st.RevokeToken(ctx, cmd.Prefix, "")
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("there is no token %s", cmd.Prefix)
		}
		if cmd.JSON {
			return printJSON(c.out, map[string]string{"revoked": cmd.Prefix})
		}
		_, err = fmt.Fprintf(c.out, "revoked token %s\n", cmd.Prefix)
		return err
	})
}
