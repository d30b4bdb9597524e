package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
)

// apiToken reads the token of the settings; empty: there is none.
func apiToken() (credential.Secret, error) {
	text, err := secretSetting("RIVERHOOK_API_TOKEN")
	if err != nil || text == "" {
		return credential.Secret{}, err
	}
	if err := auth.CheckSetToken(text); err != nil {
		return credential.Secret{}, usageError{err}
	}
	return credential.NewSecret(text), nil
}

// tokenWait is between two looks for a token in a database that does not answer yet.
const tokenWait = 2 * time.Second

// mayListen says whether the listener may be where it is wanted: any address but a loopback one takes a token, in the
// settings or in the database. It waits for a database that is not up.
func (s *serveCmd) mayListen(ctx context.Context, database *pgxpool.Config, token credential.Secret, log *slog.Logger, systemd *systemd) error {
	if !token.IsZero() || loopbackOnly(s.Listen) {
		return nil
	}
	refused := hintError{
		errors.New("--listen " + s.Listen + " can be reached from other machines, and there is no token: without one, riverhook listens on a loopback address only"),
		"make one first (riverhook tokens create --scope admin), or set RIVERHOOK_API_TOKEN, or listen on 127.0.0.1:8090",
	}
	config := database.Copy()
	config.MaxConns, config.MinConns, config.MinIdleConns = 1, 0, 0
	config.ConnConfig.ConnectTimeout = connectTimeout
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	st := store.New(pool, string(s.Schema))
	for waited := false; ; waited = true {
		try, cancel := context.WithTimeout(ctx, connectTimeout)
		found, err := st.AnyToken(try)
		cancel()
		var pg *pgconn.PgError
		switch {
		case err == nil && found:
			return nil
		case err == nil, errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000"): // not migrated: there can be none
			return refused
		case errors.As(err, &pg) && !strings.HasPrefix(pg.Code, "57P") && !strings.HasPrefix(pg.Code, "53"):
			return explainDatabaseError(err, "service")
		case !waited:
			systemd.tell("STATUS=waiting for Postgres, to see whether there is a token")
			log.Warn("waiting for Postgres, to see whether there is a token: without one, only loopback is listened on", "listen", s.Listen, "error", err)
		}
		select {
		case <-ctx.Done():
			return exitError(exitOK) // told to stop
		case <-time.After(tokenWait):
		}
	}
}

// loopbackOnly says whether an address to listen on can be reached from this machine only. A name other than localhost may
// stand for anything.
func loopbackOnly(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.Unmap().IsLoopback()
}
