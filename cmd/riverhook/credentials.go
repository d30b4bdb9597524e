package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
)

type credentialsCmd struct {
	Set    credentialsSetCmd    `cmd:"" help:"Store a credential, or rotate it: one of the same organization and name keeps its uuid. The secret comes from standard input or --file, never from an argument."`
	List   credentialsListCmd   `cmd:"" help:"List credentials, without their secrets."`
	Rm     credentialsRmCmd     `cmd:"" help:"Remove a credential. Deliveries that name it fail, and are retried; set --uuid brings it back for them."`
	Reseal credentialsResealCmd `cmd:"" help:"Seal all credentials and signing secrets anew under the first key of RIVERHOOK_SECRET_KEY."`
}

// tenantFlag is whose it is.
type tenantFlag struct {
	Organization string `default:"default" help:"The tenant (default ${default})."`
}

// maxSecretInput bounds a secret that is read, in bytes.
const maxSecretInput = 64 << 10

// readSecret reads a secret from a file, or from standard input.
func readSecret(c console, file string) ([]byte, error) {
	in := c.in
	if file != "" && file != "-" {
		f, err := os.Open(file) //nolint:gosec // the user's file
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	} else if isTerminal(c.in) {
		_, _ = fmt.Fprintln(c.err, "type the secret and end with Ctrl-D (it is shown while you type; a pipe or --file is better):")
	}
	secret, err := io.ReadAll(io.LimitReader(in, maxSecretInput+1))
	if err == nil && len(secret) > maxSecretInput {
		err = fmt.Errorf("the secret is longer than %d bytes", maxSecretInput)
	}
	return secret, err
}

// keyring reads the keys that secrets are sealed under. Without any it is empty, and says so when one is needed.
func keyring() (*credential.Keyring, error) {
	setting, err := secretSetting("RIVERHOOK_SECRET_KEY")
	if err != nil {
		return nil, err
	}
	keys, err := credential.ParseKeyring(setting)
	if err != nil {
		return nil, usageError{err} // it names the setting
	}
	return keys, nil
}

// warnOfAnotherKey says that what is sealed in the database was sealed under another key than these: then serve has that one,
// and will not open what is sealed now. Where it cannot look, it says nothing.
func warnOfAnotherKey(ctx context.Context, c console, st *store.Store, keys *credential.Keyring) {
	cells, err := st.UsedCells(ctx, checkedCells)
	if err != nil {
		return
	}
	closed := 0
	for _, cell := range cells {
		if _, err := keys.Open(cell.Cell, cell.UUID, cell.OrganizationID); err != nil {
			closed++
		}
	}
	if closed > 0 {
		_, _ = fmt.Fprintf(c.err, "warning: this RIVERHOOK_SECRET_KEY does not open %d of %d that are sealed already: is it the one that serve has? To change the key, "+
			"put the new one before it (NEW,OLD) and run riverhook credentials reseal; if it is lost, riverhook doctor says what to do\n", closed, len(cells))
	}
}

// checkedCells bounds how many credentials, and how many signing secrets, are tried.
const checkedCells = 1000

type credentialsSetCmd struct {
	databaseFlags
	tenantFlag
	Name   string `required:"" help:"Its name within the organization."`
	Type   string `required:"" enum:"none,api_key,bearer_token,basic_auth,custom_header" help:"${enum}. The secret is the key, the token, user:password, or the header's value."`
	Header string `help:"Name of the header: of a custom_header, or of an api_key (default X-API-Key)."`
	UUID   string `name:"uuid" placeholder:"UUID" help:"Of a credential that was removed: the deliveries that name it heal (default: a random one)."`
	File   string `placeholder:"FILE" help:"Read the secret from there (default: standard input)."`
	JSON   bool   `name:"json" help:"Print one JSON object."`
}

// Validate checks the flags.
func (cmd *credentialsSetCmd) Validate() error {
	if cmd.Name == "" {
		return errors.New("--name: it is empty")
	}
	if cmd.UUID != "" && !uuidSyntax.MatchString(cmd.UUID) {
		return errors.New("--uuid: that is no uuid")
	}
	return nil
}

// Run stores the credential.
func (cmd *credentialsSetCmd) Run(ctx context.Context, c console) error {
	keys, err := keyring()
	if err != nil {
		return err
	}
	var input []byte
	if cmd.Type != string(credential.TypeNone) {
		if input, err = readSecret(c, cmd.File); err != nil {
			return err
		}
	}
	parsed, err := credential.Parse(credential.Type(cmd.Type), cmd.Header, input)
	if err != nil {
		return err
	}
	var uuid string
	var rotated bool
	err = cmd.withStore(ctx, "service", func(st *store.Store) error {
		warnOfAnotherKey(ctx, c, st, keys)
		uuid, rotated, err = st.SetCredential(ctx, cmd.Organization, cmd.Name, cmd.Type, strings.ToLower(cmd.UUID), func(uuid, organization string) ([]byte, error) {
			return keys.Seal(parsed.Encode(), uuid, organization)
		})
		return err
	})
	if err != nil {
		return err
	}
	if cmd.JSON {
		return printJSON(c.out, map[string]any{"credential_uuid": uuid, "rotated": rotated})
	}
	verb := "stored"
	if rotated {
		verb = "rotated"
	}
	_, err = fmt.Fprintf(c.out, "%s credential %s (%s)\n", verb, uuid, printable(cmd.Name))
	return err
}

type credentialsListCmd struct {
	databaseFlags
	Organization string `help:"Of this tenant (default: all)."`
	JSON         bool   `name:"json" help:"Print one JSON object per line."`
}

// Run lists.
func (cmd *credentialsListCmd) Run(ctx context.Context, c console) error {
	return cmd.withStore(ctx, "service", func(st *store.Store) error {
		list, err := st.Credentials(ctx, cmd.Organization)
		if err != nil {
			return err
		}
		return printList(c, cmd.JSON, list, "UUID\tORGANIZATION\tNAME\tTYPE\tUPDATED", func(one store.Credential) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", one.UUID, printable(one.OrganizationID), printable(one.Name), one.Type, moment(one.UpdatedAt))
		})
	})
}

type credentialsRmCmd struct {
	databaseFlags
	tenantFlag
	Name string `required:"" help:"Its name within the organization."`
	JSON bool   `name:"json" help:"Print one JSON object."`
}

// Run removes it.
func (cmd *credentialsRmCmd) Run(ctx context.Context, c console) error {
	return cmd.withStore(ctx, "service", func(st *store.Store) error {
		removed, err := st.RemoveCredential(ctx, cmd.Organization, cmd.Name)
		if err != nil {
			return err
		}
		if !removed {
			return fmt.Errorf("there is no credential %q in organization %q", cmd.Name, cmd.Organization)
		}
		if cmd.JSON {
			return printJSON(c.out, map[string]string{"removed": cmd.Name})
		}
		_, err = fmt.Fprintf(c.out, "removed credential %s\n", printable(cmd.Name))
		return err
	})
}

type credentialsResealCmd struct {
	databaseFlags
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Run seals everything under the first key. What cannot be opened is named, and left as it is.
func (cmd *credentialsResealCmd) Run(ctx context.Context, c console) error {
	keys, err := keyring()
	if err != nil {
		return err
	}
	return cmd.withStore(ctx, "service", func(st *store.Store) error {
		cells, err := st.SealedCells(ctx)
		if err != nil {
			return err
		}
		done, current, failed := 0, 0, 0
		for _, cell := range cells {
			if keys.IsCurrent(cell.Cell) {
				current++
				continue
			}
			sealed, err := reseal(keys, cell)
			if err == nil {
				err = st.Reseal(ctx, cell, sealed)
			}
			if err != nil {
				failed++
				_, _ = fmt.Fprintf(c.err, "%s %s of organization %s: %v\n", cell.Kind, cell.UUID, printable(cell.OrganizationID), err)
				continue
			}
			done++
		}
		if cmd.JSON {
			err = printJSON(c.out, map[string]int{"resealed": done, "current": current, "failed": failed})
		} else {
			_, err = fmt.Fprintf(c.out, "resealed %d, already under the first key %d, failed %d\n", done, current, failed)
		}
		if err != nil {
			return err
		}
		if failed > 0 {
			return exitError(exitFailed)
		}
		return nil
	})
}

func reseal(keys *credential.Keyring, cell store.Sealed) ([]byte, error) {
	plain, err := keys.Open(cell.Cell, cell.UUID, cell.OrganizationID)
	if err != nil {
		return nil, err
	}
	return keys.Seal(plain, cell.UUID, cell.OrganizationID)
}

// secretSetting reads a setting that is a secret: the variable itself, or the file that NAME_FILE names, or the credential
// that systemd's LoadCredential= put into $CREDENTIALS_DIRECTORY (RIVERHOOK_SECRET_KEY's is secret_key).
func secretSetting(name string) (string, error) {
	if value := os.Getenv(name); value != "" {
		return value, nil
	}
	file := os.Getenv(name + "_FILE")
	if file == "" {
		return loadedCredential(strings.ToLower(strings.TrimPrefix(name, "RIVERHOOK_")))
	}
	value, err := os.ReadFile(file) //nolint:gosec // the operator's file
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// loadedCredential reads a credential of the service manager; empty: it was given none of that name.
func loadedCredential(name string) (string, error) {
	directory := os.Getenv("CREDENTIALS_DIRECTORY")
	if directory == "" {
		return "", nil
	}
	value, err := os.ReadFile(filepath.Join(directory, name)) //nolint:gosec // the service manager's directory
	switch text := strings.TrimSpace(string(value)); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("credential %s of $CREDENTIALS_DIRECTORY: %w", name, err)
	case text == "":
		return "", hintError{fmt.Errorf("credential %s of $CREDENTIALS_DIRECTORY is empty", name), "look at LoadCredential= in the unit and at the file that it names"}
	default:
		return text, nil
	}
}

var errNoSecret = hintError{errors.New("there is no signing secret: riverhook secrets create makes one"), "riverhook help signatures says what a receiver does with it"}

// openSecret opens a signing secret of the database.
func openSecret(keys *credential.Keyring, s store.SigningSecret) (signing.Key, error) {
	plain, err := keys.Open(s.Sealed, s.UUID, s.OrganizationID)
	if err != nil {
		return signing.Key{}, err
	}
	return signing.ParseKey(string(plain))
}
