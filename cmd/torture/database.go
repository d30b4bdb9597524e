package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/riverhook/riverhook/migrations/pgtemp"
)

const schema = "riverhook"

// statementTimeout bounds one statement of the harness.
const statementTimeout = 10 * time.Second

// database is a Postgres of our own, which may be broken.
type database struct {
	server  *pgtemp.Server
	proxies *toxiproxy.ApiServer
}

func startDatabase(ctx context.Context, clock *clock) (*database, error) {
	server, err := pgtemp.Start(ctx, pgtemp.Options{
		Settings: map[string]string{
			// What is committed survives the server's crash, though not the machine's: that is as slow as disks are.
			"synchronous_commit": "on", "full_page_writes": "on",
			"log_min_messages": "warning", "log_lock_waits": "on",
		},
		Env: clock.environment(),
	})
	if err != nil {
		return nil, err
	}
	quiet := zerolog.New(io.Discard)
	return &database{server: server, proxies: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), quiet)}, nil
}

// do does something in a session of its own, past all proxies.
func (d *database) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, d.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return f(ctx, conn)
}

func (d *database) exec(ctx context.Context, statements ...string) error {
	return d.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for _, s := range statements {
			if _, err := conn.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// insist does it again until it is done, or ctx ends.
func insist(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		if !wait(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// link is a way to the database that can be broken.
type link struct {
	database *database
	proxy    *toxiproxy.Proxy
	address  string     // 127.0.0.1:port, whether it is cut or not
	mu       sync.Mutex // held from cut to mend
}

func (d *database) newLink(name string) (*link, error) {
	upstream := net.JoinHostPort("127.0.0.1", strconv.Itoa(d.server.Port()))
	l := &link{database: d, proxy: toxiproxy.NewProxy(d.proxies, name, "127.0.0.1:0", upstream)}
	if err := l.proxy.Start(); err != nil {
		return nil, fmt.Errorf("torture: proxy: %w", err)
	}
	l.address = l.proxy.Listen
	return l, nil
}

func (l *link) url(role string) string {
	return "postgres://" + role + "@" + l.address + "/postgres?sslmode=disable"
}

// poison adds a toxic to one direction; heal takes them all away.
func (l *link) poison(kind, stream string, attributes map[string]int) error {
	text, err := json.Marshal(map[string]any{"name": kind, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes})
	if err != nil {
		return err
	}
	_, err = l.proxy.Toxics.AddToxicJson(strings.NewReader(string(text)))
	return err
}

func (l *link) heal(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	l.proxy.Toxics.ResetToxics(ctx)
}

// cut closes all connections and takes no new ones.
func (l *link) cut() { l.proxy.Stop() }

// mend lets connections through again, if it was cut.
func (l *link) mend() error {
	err := l.proxy.Start()
	if errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return nil
	}
	return err
}

// cutFor cuts after a while, and mends at once.
func (l *link) cutFor(d time.Duration) {
	time.Sleep(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut()
	_ = l.mend() // where that fails, the end of the run tries again
}

// clock can set the database's clock wrong, where libfaketime is installed.
type clock struct{ library, file string }

var faketimeLibraries = []string{
	"/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
	"/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
	"/usr/lib/faketime/libfaketime.so.1",
	"/usr/lib64/faketime/libfaketime.so.1",
}

func newClock() (*clock, error) {
	for _, library := range faketimeLibraries {
		if _, err := os.Stat(library); err != nil {
			continue
		}
		// Not in the directory of evidence: the server is another user, and has to read it.
		file, err := os.CreateTemp("", "riverhook-torture-clock-*")
		if err != nil {
			return nil, fmt.Errorf("torture: clock: %w", err)
		}
		c := &clock{library, file.Name()}
		return c, errors.Join(file.Close(), os.Chmod(c.file, 0o644), c.set(0))
	}
	return &clock{}, nil
}

func (c *clock) installed() bool { return c.library != "" }

func (c *clock) environment() []string {
	if !c.installed() {
		return nil
	}
	return []string{
		"LD_PRELOAD=" + c.library, "FAKETIME_TIMESTAMP_FILE=" + c.file, "FAKETIME_CACHE_DURATION=1",
		"FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1",
	}
}

// set puts the clock ahead.
func (c *clock) set(ahead time.Duration) error {
	return os.WriteFile(c.file, fmt.Appendf(nil, "%+d\n", int(ahead.Seconds())), 0o644)
}

func (c *clock) remove() {
	if c.installed() {
		_ = os.Remove(c.file)
	}
}
