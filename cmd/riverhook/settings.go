package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/migrations"
)

// dropEmptySettings: an empty variable is not set.
func dropEmptySettings() {
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); value == "" && strings.HasPrefix(name, "RIVERHOOK_") {
			_ = os.Unsetenv(name)
		}
	}
}

// duration is a time.Duration that also reads days: 36h, 7d, 1d12h.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	s := string(text)
	var total time.Duration
	if days, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 || n > 100_000 {
			return fmt.Errorf("%q is not a duration: try 30s, 10m, 6h or 7d", s)
		}
		total, s = time.Duration(n)*24*time.Hour, rest
	}
	if s != "" && s != "0" {
		rest, err := time.ParseDuration(s)
		if err != nil || rest < 0 {
			return fmt.Errorf("%q is not a duration: try 30s, 10m, 6h or 7d", string(text))
		}
		total += rest
	}
	*d = duration(total)
	return nil
}

func (d duration) String() string { return time.Duration(d).String() }

// byteSize is a number of bytes, also as 64KiB or 1MiB.
type byteSize int

func (b *byteSize) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	factor := 1
	for suffix, f := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, factor = strings.TrimSpace(rest), f
		}
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > (1<<30)/factor {
		return fmt.Errorf("%q is not a size: try 65536, 64KiB or 1MiB (at most 1024MiB)", string(text))
	}
	*b = byteSize(n * factor)
	return nil
}

// statusSet is delivery.StatusSet as a flag.
type statusSet struct{ delivery.StatusSet }

func (s *statusSet) UnmarshalText(text []byte) (err error) {
	s.StatusSet, err = delivery.ParseStatusSet(string(text))
	return err
}

// schemaName is the name of a schema that riverhook can have.
type schemaName string

func (s *schemaName) UnmarshalText(text []byte) error {
	*s = schemaName(text)
	return migrations.CheckSchemaName(string(text))
}

// schemaFlag is where riverhook lives in the database.
type schemaFlag struct {
	Schema schemaName `env:"RIVERHOOK_SCHEMA" default:"riverhook" help:"Schema of riverhook's tables and River's (default ${default})."`
}

// databaseFlags are for every command but serve, whose secrets come from the environment only.
type databaseFlags struct {
	DatabaseURL string `name:"database-url" placeholder:"URL" help:"Postgres to work on (default: RIVERHOOK_DATABASE_URL, the file that RIVERHOOK_DATABASE_URL_FILE names, systemd's credential database_url, or DATABASE_URL)."`
	schemaFlag
}

// config reads the database's URL.
func (f databaseFlags) config() (*pgxpool.Config, error) {
	if f.DatabaseURL != "" {
		return parseDatabaseURL("--database-url", func() (string, error) { return f.DatabaseURL, nil })
	}
	return databaseFromEnvironment()
}

func databaseFromEnvironment() (*pgxpool.Config, error) {
	url, err := secretSetting("RIVERHOOK_DATABASE_URL")
	if err != nil {
		return nil, err
	}
	if url != "" {
		return parseDatabaseURL("RIVERHOOK_DATABASE_URL", func() (string, error) { return secretSetting("RIVERHOOK_DATABASE_URL") })
	}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return parseDatabaseURL("DATABASE_URL", func() (string, error) { return url, nil })
	}
	return nil, hintError{errors.New("no database"), "set RIVERHOOK_DATABASE_URL, for example postgres://riverhook@localhost/app"}
}

// parseDatabaseURL reads a URL. User and password are read again for each new connection, since they may have been changed
// in the file that has the URL, or in ~/.pgpass. While that cannot be read they stay what they were.
func parseDatabaseURL(source string, read func() (string, error)) (*pgxpool.Config, error) {
	url, err := read()
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The text of pgx has the URL without its password, but what could not be parsed may have it anywhere.
		return nil, hintError{fmt.Errorf("%s is not a Postgres URL", source), "it looks like postgres://user:password@host:5432/database?sslmode=require; in a password, %20 stands for a space, %40 for @"}
	}
	var mu sync.Mutex
	user, password := config.ConnConfig.User, config.ConnConfig.Password
	config.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		mu.Lock()
		defer mu.Unlock()
		if url, err := read(); err == nil && url != "" {
			if fresh, err := pgx.ParseConfig(url); err == nil {
				user, password = fresh.User, fresh.Password
			}
		}
		conn.User, conn.Password = user, password
		return nil
	}
	return config, nil
}

// logFlags say what is logged, and how.
type logFlags struct {
	LogLevel  string `env:"RIVERHOOK_LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"Least severe level that is logged: ${enum} (default ${default})."`
	LogFormat string `env:"RIVERHOOK_LOG_FORMAT" default:"auto" enum:"auto,text,json" help:"${enum}; auto is text on a terminal and JSON otherwise (default ${default})."`
}

// logger writes to standard error.
func (f logFlags) logger(c console) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(f.LogLevel)) // one of the enum
	terminal := isTerminal(c.err)
	if f.LogFormat == "json" || f.LogFormat == "auto" && !terminal {
		return slog.New(slog.NewJSONHandler(c.err, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(c.err, &tint.Options{Level: level, TimeFormat: time.TimeOnly + ".000", NoColor: !terminal}))
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) //nolint:gosec // a file descriptor
}

// headerFlags say which headers a request has.
type headerFlags struct {
	HeaderPrefix  string `env:"RIVERHOOK_HEADER_PREFIX" default:"X-Riverhook-" help:"Of the headers that identify a delivery (default ${default})."`
	SecretHeaders string `env:"RIVERHOOK_SECRET_HEADERS" default:"drop" enum:"drop,send" help:"What to do with custom headers whose name looks like a secret's: ${enum} (default ${default})."`
}

func (f headerFlags) rules() delivery.HeaderRules {
	return delivery.HeaderRules{Prefix: f.HeaderPrefix, SendSecrets: f.SecretHeaders == "send"}
}

// retentionFlags say how long what ended is kept.
type retentionFlags struct {
	Retention           duration `env:"RIVERHOOK_RETENTION" default:"30d" help:"How long deliveries that succeeded or were canceled are kept, with their attempts; 0 is for ever (default ${default})."`
	RetentionDeadLetter duration `env:"RIVERHOOK_RETENTION_DEAD_LETTER" default:"0" help:"How long dead letters are kept, with their attempts; 0 is for ever (default ${default})."`
}

// isRetention says whether what ended can be kept for so long: longer than a transaction takes that still has to do with it.
func (d duration) isRetention() bool { return d == 0 || d >= duration(time.Minute) }

// policyFlags are what retries depend on.
type policyFlags struct {
	MaxAttempts     int       `env:"RIVERHOOK_MAX_ATTEMPTS" default:"20" help:"Attempts of a delivery that does not say (default ${default})."`
	BaseDelay       duration  `env:"RIVERHOOK_BASE_DELAY" default:"30s" help:"Delay after the first attempt; it doubles with each one (default ${default})."`
	MaxDelay        duration  `env:"RIVERHOOK_MAX_DELAY" default:"6h" help:"Longest delay, Retry-After included (default ${default})."`
	Jitter          float64   `env:"RIVERHOOK_JITTER" default:"0.2" help:"How far a delay may be off, from 0 to 1 (default ${default})."`
	RetryableStatus statusSet `env:"RIVERHOOK_RETRYABLE_STATUS" default:"${retryable}" placeholder:"LIST" help:"Statuses that are tried again; replaces the default (${default})."`
}

// check is for the Validate of each command that has these flags: a command's own replaces that of what it embeds.
func (f policyFlags) check() error {
	switch {
	case f.MaxAttempts < 1 || f.MaxAttempts > 1000:
		return errors.New("--max-attempts (RIVERHOOK_MAX_ATTEMPTS): from 1 to 1000")
	case f.BaseDelay < duration(time.Millisecond):
		return errors.New("--base-delay (RIVERHOOK_BASE_DELAY): at least 1ms")
	case f.MaxDelay < f.BaseDelay:
		return errors.New("--max-delay (RIVERHOOK_MAX_DELAY): not shorter than --base-delay")
	case !(f.Jitter >= 0 && f.Jitter <= 1):
		return errors.New("--jitter (RIVERHOOK_JITTER): from 0 to 1")
	}
	return nil
}

func (f policyFlags) policy() delivery.Policy {
	return delivery.Policy{
		MaxAttempts: f.MaxAttempts, BaseDelay: time.Duration(f.BaseDelay), MaxDelay: time.Duration(f.MaxDelay),
		Jitter: f.Jitter, Retryable: f.RetryableStatus.StatusSet,
	}
}

// helpVars are the defaults that code knows.
func helpVars() kong.Vars {
	return kong.Vars{"retryable": delivery.DefaultRetryable().String()}
}

// formatHelp: a flag's help names its variable, and its default where the text has it already.
func formatHelp(value *kong.Value) string {
	if len(value.Tag.Envs) == 0 {
		return value.Help
	}
	return value.Help + " [" + strings.Join(value.Tag.Envs, ", ") + "]"
}
