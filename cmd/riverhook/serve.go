package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/egress"
)

// serveCmd has every setting of the service.
type serveCmd struct {
	schemaFlag
	policyFlags
	logFlags
	Migrate             bool      `help:"Bring the database's schema up first, as \"riverhook migrate up\" does."`
	Listen              string    `env:"RIVERHOOK_LISTEN" default:"127.0.0.1:8090" help:"Address of the HTTP listener: dashboard, API, /docs, /metrics, /healthz, /readyz and River UI (default ${default}). Any other than a loopback address takes a token first."`
	PublicURL           publicURL `env:"RIVERHOOK_PUBLIC_URL" placeholder:"URL" help:"How clients reach the listener, such as https://hooks.example.com: requests for another host are refused (default: loopback names, and the address itself)."`
	Concurrency         int       `env:"RIVERHOOK_CONCURRENCY" default:"2000" help:"Attempts in flight (default ${default})."`
	EndpointConcurrency int       `env:"RIVERHOOK_ENDPOINT_CONCURRENCY" default:"100" help:"Attempts in flight of a receiver that does not answer, per node; one that answers may use what is free (default ${default})."`
	DBMaxConns          int       `name:"db-max-conns" env:"RIVERHOOK_DB_MAX_CONNS" default:"20" help:"Connections to Postgres, all together (default ${default})."`
	PollOnly            bool      `env:"RIVERHOOK_POLL_ONLY" default:"false" help:"Poll instead of LISTEN, as PgBouncer and other poolers need it."`
	Timeout             duration  `env:"RIVERHOOK_TIMEOUT" default:"30s" help:"Of one attempt, from name resolution to the end of the answer (default ${default})."`
	Lease               *duration `env:"RIVERHOOK_LEASE" placeholder:"DURATION" help:"How long a claim holds without an outcome (default: timeout + 60s; at least timeout + 2s)."`
	SweepInterval       duration  `env:"RIVERHOOK_SWEEP_INTERVAL" default:"15s" help:"Time between two sweeps (default ${default})."`
	retentionFlags
	headerFlags
	MissingCredential string   `env:"RIVERHOOK_MISSING_CREDENTIAL" default:"fail" enum:"fail,send" help:"What to do with a delivery whose credential is missing: ${enum} (default ${default})."`
	EgressAllow       prefixes `env:"RIVERHOOK_EGRESS_ALLOW" placeholder:"CIDR,..." help:"Private networks that requests may reach, such as 10.1.0.0/16,127.0.0.1/32 (default: none)."`
	EgressDeny        prefixes `env:"RIVERHOOK_EGRESS_DENY" placeholder:"CIDR,..." help:"Public networks that requests must not reach (default: none)."`
	AlertURL          string   `env:"RIVERHOOK_ALERT_URL" placeholder:"URL" help:"Where riverhook sends events: a receiver fails, has recovered, deliveries were dead-lettered. Deliveries of organization riverhook, whose signing secrets sign them (default: they are logged only). See riverhook help events."`
	LogRequests       bool     `env:"RIVERHOOK_LOG_REQUESTS" default:"false" help:"Log a line per request, with sensitive fields redacted (default ${default})."`
	MaxPayload        byteSize `env:"RIVERHOOK_MAX_PAYLOAD" default:"1MiB" help:"Largest payload that is sent; a larger one is a dead letter (default ${default})."`
}

// Validate checks each setting, and those that do not fit each other.
func (s *serveCmd) Validate() error {
	if err := s.check(); err != nil {
		return err
	}
	timeout := time.Duration(s.Timeout)
	switch {
	case s.Concurrency < 1 || s.Concurrency > 10_000:
		return errors.New("--concurrency (RIVERHOOK_CONCURRENCY): from 1 to 10000")
	case s.EndpointConcurrency < 1 || s.EndpointConcurrency > 10_000:
		return errors.New("--endpoint-concurrency (RIVERHOOK_ENDPOINT_CONCURRENCY): from 1 to 10000")
	case s.DBMaxConns < node.MinConns || s.DBMaxConns > 1000:
		return fmt.Errorf("--db-max-conns (RIVERHOOK_DB_MAX_CONNS): from %d to 1000", node.MinConns)
	case timeout < 10*time.Millisecond || timeout > time.Hour:
		return errors.New("--timeout (RIVERHOOK_TIMEOUT): from 10ms to 1h")
	case s.lease() < timeout+2*time.Second:
		return fmt.Errorf("--lease (RIVERHOOK_LEASE): %s is too short, an attempt may take %s: at least %s", s.lease(), timeout, timeout+2*time.Second)
	case s.SweepInterval < duration(100*time.Millisecond) || s.SweepInterval > duration(time.Hour):
		return errors.New("--sweep-interval (RIVERHOOK_SWEEP_INTERVAL): from 100ms to 1h")
	case !s.Retention.isRetention():
		return errors.New("--retention (RIVERHOOK_RETENTION): at least 1m, or 0 for ever")
	case !s.RetentionDeadLetter.isRetention():
		return errors.New("--retention-dead-letter (RIVERHOOK_RETENTION_DEAD_LETTER): at least 1m, or 0 for ever")
	case !validHeaderPrefix(s.HeaderPrefix):
		return errors.New("--header-prefix (RIVERHOOK_HEADER_PREFIX): letters, digits and dashes, a dash at its end, such as X-Riverhook-")
	}
	if s.AlertURL != "" { // a type of its own would have the value, which may hold a token, in the parser's errors
		if _, err := delivery.ParseEndpoint(s.AlertURL); err != nil {
			return fmt.Errorf("--alert-url (RIVERHOOK_ALERT_URL): %s", strings.Replace(err.Error(), "endpoint_url", "it", 1))
		}
	}
	if _, _, err := net.SplitHostPort(s.Listen); err != nil {
		return errors.New("--listen (RIVERHOOK_LISTEN): an address such as 127.0.0.1:8090")
	}
	return nil
}

// gcPercent instead of Go's 100: some 5 % less CPU time per delivery (measured with bench deliver) for 10 % more memory. GOGC
// overrides it.
const gcPercent = 125

func (s *serveCmd) lease() time.Duration {
	if s.Lease != nil {
		return time.Duration(*s.Lease)
	}
	return time.Duration(s.Timeout) + 60*time.Second
}

func validHeaderPrefix(prefix string) bool {
	for _, c := range prefix {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	first := strings.ToLower(prefix)
	return strings.HasSuffix(prefix, "-") && len(prefix) > 1 && len(prefix) <= 50 && first != "webhook-" && first[0] != '-'
}

// Run serves until it is told to stop.
func (s *serveCmd) Run(ctx context.Context, c console) error {
	database, err := databaseFromEnvironment()
	if err != nil {
		return err
	}
	keys, err := keyring()
	if err != nil {
		return err
	}
	token, err := apiToken()
	if err != nil {
		return err
	}
	log := s.logger(c)
	slog.SetDefault(log) // for the signal that ends it at once
	warnOfUnknownSettings(log)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	systemd := newSystemd(log)
	if err := s.mayListen(ctx, database, token, log, systemd); err != nil {
		return err
	}
	stdlog.SetOutput(io.Discard) // net/http quotes there what receivers sent unasked
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return hintError{fmt.Errorf("cannot listen on %s: %w", s.Listen, err), "choose another address with --listen or RIVERHOOK_LISTEN"}
	}
	n, err := node.New(node.Config{
		Database: database, Schema: string(s.Schema), Log: log, Version: programVersion(),
		Concurrency: s.Concurrency, EndpointConcurrency: s.EndpointConcurrency, MaxConns: s.DBMaxConns, PollOnly: s.PollOnly, Migrate: s.Migrate,
		Timeout: time.Duration(s.Timeout), Lease: s.lease(), Policy: s.policy(), SweepInterval: time.Duration(s.SweepInterval),
		Retention: time.Duration(s.Retention), RetentionDeadLetter: time.Duration(s.RetentionDeadLetter),
		Headers:    s.rules(),
		Progress:   &systemd.board,
		MaxPayload: int(s.MaxPayload), SendWithoutCredential: s.MissingCredential == "send", Keys: keys, LogRequests: s.LogRequests, AlertURL: s.AlertURL,
		Egress: egress.Config{Allow: s.EgressAllow, Deny: s.EgressDeny, Never: []netip.AddrPort{addressOf(listener)}},
	})
	if err != nil {
		_ = listener.Close()
		return err
	}
	log.Info("riverhook", "version", programVersion(), "node", n.ID, "listen", "http://"+listener.Addr().String())

	group, ctx := errgroup.WithContext(ctx)
	web := s.newWeb(ctx, n, token, listener.Addr())
	defer startTracing(ctx, n, log)()
	server := web.server()
	defer systemd.watch(ctx, n, time.Duration(s.Timeout))()
	group.Go(func() error {
		web.api.Run(ctx)
		return nil
	})
	group.Go(func() error {
		web.metrics.Run(ctx)
		return nil
	})
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if server.Shutdown(ctx) != nil {
				_ = server.Close()
			}
		}()
		return n.Run(ctx)
	})
	err = group.Wait()
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// prefixes are networks as a flag.
type prefixes []netip.Prefix

func (p *prefixes) UnmarshalText(text []byte) (err error) {
	*p, err = egress.ParsePrefixes(string(text))
	return err
}

// addressOf is where a listener listens.
func addressOf(listener net.Listener) netip.AddrPort {
	address, _ := netip.ParseAddrPort(listener.Addr().String())
	return address
}

// warnOfUnknownSettings names variables that look like settings and are none.
func warnOfUnknownSettings(log *slog.Logger) {
	for _, name := range unknownSettings() {
		log.Warn("unknown setting: is it misspelt?", "variable", name)
	}
}

// unknownSettings are variables that look like settings and are none: they may be misspelt.
func unknownSettings() (unknown []string) {
	known := map[string]bool{
		"RIVERHOOK_DATABASE_URL": true, "RIVERHOOK_DATABASE_URL_FILE": true, "RIVERHOOK_SECRET_KEY": true, "RIVERHOOK_SECRET_KEY_FILE": true,
		"RIVERHOOK_API_TOKEN": true, "RIVERHOOK_API_TOKEN_FILE": true,
	}
	var flags func(reflect.Type)
	flags = func(t reflect.Type) {
		for field := range t.Fields() {
			known[field.Tag.Get("env")] = true
			if field.Anonymous {
				flags(field.Type)
			}
		}
	}
	flags(reflect.TypeFor[serveCmd]())
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "RIVERHOOK_") && !known[name] {
			unknown = append(unknown, name)
		}
	}
	return unknown
}
