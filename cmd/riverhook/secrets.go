package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
)

type secretsCmd struct {
	Create secretsCreateCmd `cmd:"" help:"Make a signing secret: deliveries of the organization (to that origin) are signed with it from then on."`
	List   secretsListCmd   `cmd:"" help:"List signing secrets, without the secrets themselves."`
	Show   secretsShowCmd   `cmd:"" help:"Print the active secrets, for the receiver. The one place that does."`
	Rotate secretsRotateCmd `cmd:"" help:"Make a new secret; deliveries are signed with the old one, too, until --overlap has passed."`
	Expire secretsExpireCmd `cmd:"" help:"End the secrets that a rotation left at once, or, with --all, every one: then deliveries are not signed."`
}

// scopeFlags are whom a secret is for.
type scopeFlags struct {
	databaseFlags
	tenantFlag
	Origin string `placeholder:"ORIGIN" help:"For this receiver only, such as https://receiver.example: give each receiver a secret of its own, or any of them can forge for another (default: every receiver that has none of its own)."`
}

func (f scopeFlags) scope() (store.Scope, error) {
	scope := store.Scope{Organization: f.Organization}
	if f.Origin == "" {
		return scope, nil
	}
	u, err := delivery.ParseEndpoint(f.Origin)
	if err != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return scope, usageError{fmt.Errorf("--origin %q: scheme, host and port only, such as https://receiver.example", f.Origin)}
	}
	scope.Origin = delivery.Origin(u)
	return scope, nil
}

// keyFlags say which key a new secret has.
type keyFlags struct {
	Ed25519 bool   `name:"ed25519" help:"An asymmetric key: the receiver gets its public half."`
	From    string `placeholder:"FILE" help:"Take the secret from this file (- for standard input) instead of making one: whsec_... or whsk_..."`
}

func (f keyFlags) key(c console) (signing.Key, error) {
	switch {
	case f.From != "":
		text, err := readSecret(c, f.From)
		if err != nil {
			return signing.Key{}, err
		}
		return signing.ParseKey(strings.TrimSpace(string(text)))
	case f.Ed25519:
		return signing.GenerateEd25519(), nil
	default:
		return signing.Generate(), nil
	}
}

type secretsCreateCmd struct {
	scopeFlags
	keyFlags
}

// Run makes one.
func (cmd *secretsCreateCmd) Run(ctx context.Context, c console) error {
	return cmd.add(ctx, c, cmd.keyFlags, false, 0)
}

type secretsRotateCmd struct {
	scopeFlags
	keyFlags
	Overlap duration `default:"24h" help:"How long deliveries are signed with the old secret, too (default ${default})."`
}

// Run makes a new one beside the old.
func (cmd *secretsRotateCmd) Run(ctx context.Context, c console) error {
	return cmd.add(ctx, c, cmd.keyFlags, true, time.Duration(cmd.Overlap))
}

func (f scopeFlags) add(ctx context.Context, c console, k keyFlags, rotate bool, overlap time.Duration) error {
	scope, err := f.scope()
	if err != nil {
		return err
	}
	keys, err := keyring()
	if err != nil {
		return err
	}
	key, err := k.key(c)
	if err != nil {
		return err
	}
	var uuid string
	err = f.withStore(ctx, "service", func(st *store.Store) error {
		warnOfAnotherKey(ctx, c, st, keys)
		uuid, err = st.AddSecret(ctx, scope, rotate, overlap, func(uuid, organization string) ([]byte, error) {
			return keys.Seal([]byte(key.Reveal()), uuid, organization)
		})
		return err
	})
	if errors.Is(err, store.ErrSecretExists) {
		return hintError{errors.New("there is a signing secret already"), "riverhook secrets rotate makes a new one, riverhook secrets show prints it"}
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "made signing secret %s; print it for the receiver with: riverhook secrets show%s\n", uuid, f.again())
	return err
}

// again are the flags that name the same scope.
func (f scopeFlags) again() string {
	flags := ""
	if f.Organization != "default" {
		flags += " --organization " + printable(f.Organization)
	}
	if f.Origin != "" {
		flags += " --origin " + printable(f.Origin)
	}
	return flags
}

type secretsListCmd struct {
	databaseFlags
	Organization string `help:"Of this tenant (default: all)."`
	JSON         bool   `name:"json" help:"Print one JSON object per line."`
}

// Run lists.
func (cmd *secretsListCmd) Run(ctx context.Context, c console) error {
	return cmd.withStore(ctx, "service", func(st *store.Store) error {
		list, err := st.Secrets(ctx, cmd.Organization)
		if err != nil {
			return err
		}
		return printList(c, cmd.JSON, list, "UUID\tORGANIZATION\tORIGIN\tCREATED\tEXPIRES", func(one store.SigningSecret) string {
			expires := "never"
			if one.ExpiresAt != nil {
				expires = moment(*one.ExpiresAt)
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", one.UUID, printable(one.OrganizationID), printable(dash(one.EndpointOrigin)), moment(one.CreatedAt), expires)
		})
	})
}

type secretsShowCmd struct {
	scopeFlags
	JSON bool `name:"json" help:"Print one JSON object per line."`
}

// Run prints the active secrets of the scope, the newest first.
func (cmd *secretsShowCmd) Run(ctx context.Context, c console) error {
	scope, err := cmd.scope()
	if err != nil {
		return err
	}
	keys, err := keyring()
	if err != nil {
		return err
	}
	var list []store.SigningSecret
	err = cmd.withStore(ctx, "service", func(st *store.Store) error {
		list, err = st.Secrets(ctx, scope.Organization)
		return err
	})
	if err != nil {
		return err
	}
	shown := 0
	for _, one := range list {
		if !one.Active || text(one.EndpointOrigin) != scope.Origin {
			continue
		}
		key, err := openSecret(keys, one)
		if err != nil {
			return fmt.Errorf("signing secret %s: %w", one.UUID, err)
		}
		public, _ := key.Public()
		shown++
		if cmd.JSON {
			if err := printJSON(c.out, map[string]any{"secret_uuid": one.UUID, "secret": key.Reveal(), "public": public, "expires_at": one.ExpiresAt}); err != nil {
				return err
			}
			continue
		}
		_, _ = fmt.Fprint(c.out, key.Reveal())
		if public != "" {
			_, _ = fmt.Fprint(c.out, "  public: ", public)
		}
		if one.ExpiresAt != nil {
			_, _ = fmt.Fprint(c.out, "  until ", moment(*one.ExpiresAt))
		}
		_, _ = fmt.Fprintln(c.out)
	}
	if shown == 0 {
		return errNoSecret
	}
	return nil
}

type secretsExpireCmd struct {
	scopeFlags
	All bool `help:"Every secret of the scope, the newest too."`
}

// Run ends them.
func (cmd *secretsExpireCmd) Run(ctx context.Context, c console) error {
	scope, err := cmd.scope()
	if err != nil {
		return err
	}
	return cmd.withStore(ctx, "service", func(st *store.Store) error {
		n, err := st.ExpireSecrets(ctx, scope, cmd.All)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "expired %s\n", count(n, "signing secret"))
		return err
	})
}

// moment is a time for people.
func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
