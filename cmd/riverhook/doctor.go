package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/events"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/egress"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
)

type doctorCmd struct {
	databaseFlags
	LongTransaction duration `default:"5m" help:"Warn of transactions that are older: vacuum removes nothing that died after they began (default ${default})."`
	JSON            bool     `name:"json" help:"Print one JSON object per line: check, result, message, hint."`
}

// Help is what --help says besides the flags.
func (*doctorCmd) Help() string {
	return "Run it with the environment of \"riverhook serve\", on the same machine and as the same database role: settings that serve has " +
		"from flags are not seen. Each line says ok, warn or fail, and after a warn or fail what to do. Exit code 1 only after a fail.\n\n" +
		"It inserts a delivery for tomorrow and rolls back, which uses up a number of the ids, and connects to the receivers of the last " +
		"day without sending anything. Secrets are opened in memory and never printed."
}

// What a check found.
const (
	resultOK   = "ok"
	resultWarn = "warn"
	resultFail = "fail"
)

// finding is one line of the doctor's.
type finding struct {
	Check   string `json:"check"`
	Result  string `json:"result"`
	Message string `json:"message"`
	Hint    string `json:"hint"` // what to do; empty when it is ok
}

func ok(format string, args ...any) finding {
	return finding{Result: resultOK, Message: fmt.Sprintf(format, args...)}
}

func warn(hint, format string, args ...any) finding {
	return finding{Result: resultWarn, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func fail(hint, format string, args ...any) finding {
	return finding{Result: resultFail, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// patient is what the checks look at, and what earlier ones have learnt of it.
type patient struct {
	cmd      *doctorCmd
	settings serveCmd // of the environment: the defaults where that could not be read
	problems []error  // what is wrong with it

	pool   *pgxpool.Pool // nil without a connection
	st     *store.Store
	server store.Server
	schema bool // riverhook's schema is there, of a version that serve takes

	mu      sync.Mutex
	warning string // the last of the server's

	secrets []openedSecret // the signing secrets in use
}

// What a check needs before it can look at anything.
const (
	needsNothing = iota
	needsConnection
	needsSchema
)

// checkTimeout is for one check, whatever it waits for.
const checkTimeout = 12 * time.Second

// checks are the doctor's, in their order: later ones use what earlier ones have learnt.
var checks = []struct {
	name  string
	needs int
	run   func(context.Context, *patient) []finding
}{
	{"settings", needsNothing, checkSettings},
	{"connection", needsNothing, checkConnection},
	{"postgres", needsConnection, checkPostgres},
	{"clock", needsConnection, checkClock},
	{"connections", needsConnection, checkConnections},
	{"notify", needsConnection, checkNotify},
	{"vacuum", needsConnection, checkVacuum},
	{"schema", needsConnection, checkSchema},
	{"privileges", needsConnection, checkPrivileges},
	{"triggers", needsSchema, checkTriggers},
	{"enqueue", needsSchema, checkEnqueue},
	{"dead rows", needsSchema, checkDeadRows},
	{"secret key", needsSchema, checkKey},
	{"shared secrets", needsSchema, checkSharedSecrets},
	{"events", needsSchema, checkEvents},
	{"backlog", needsSchema, checkBacklog},
	{"held", needsSchema, checkHeld},
	{"receivers", needsSchema, checkReceivers},
}

// Run runs every check that can be run.
func (cmd *doctorCmd) Run(ctx context.Context, c console) error {
	p := &patient{cmd: cmd}
	p.settings, p.problems = environmentSettings()
	defer func() {
		if p.pool != nil {
			p.pool.Close()
		}
	}()
	failed := false
	report := func(f finding) error {
		failed = failed || f.Result == resultFail
		return printFinding(c.out, f, cmd.JSON)
	}
	var skipped []string
	for _, check := range checks {
		if check.needs >= needsConnection && p.pool == nil || check.needs == needsSchema && !p.schema {
			skipped = append(skipped, check.name)
			continue
		}
		for _, f := range runCheck(ctx, check.run, p) {
			f.Check = check.name
			if err := report(f); err != nil {
				return err
			}
		}
	}
	if len(skipped) > 0 {
		why := "the schema cannot be used as it is"
		if p.pool == nil {
			why = "there is no connection"
		}
		f := warn("mend what failed above, and run riverhook doctor again", "not looked at, since %s: %s", why, strings.Join(skipped, ", "))
		f.Check = "skipped"
		if err := report(f); err != nil {
			return err
		}
	}
	if failed {
		return exitError(exitFailed)
	}
	return nil
}

// runCheck runs a check within its time.
func runCheck(ctx context.Context, run func(context.Context, *patient) []finding, p *patient) []finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return run(ctx, p)
}

func printFinding(out io.Writer, f finding, asJSON bool) error {
	f.Message, f.Hint = strings.Join(strings.Fields(f.Message), " "), strings.Join(strings.Fields(f.Hint), " ")
	if asJSON {
		return printJSON(out, f)
	}
	_, err := fmt.Fprintf(out, "%-4s  %-14s  %s\n", f.Result, f.Check, printable(f.Message))
	if err == nil && f.Hint != "" {
		_, err = fmt.Fprintf(out, "%22s  -> %s\n", "", printable(f.Hint))
	}
	return err
}

// unable is the finding of a check that could not be made.
func unable(p *patient, err error) []finding {
	message := internalPrefix.ReplaceAllString(err.Error(), "")
	switch {
	case node.LacksRights(err):
		return []finding{fail(p.grant(), "%s", message)}
	case errors.Is(err, context.DeadlineExceeded), store.IsTooSlow(err):
		return []finding{warn("run it again when the database has less to do", "this could not be looked at in time: %s", message)}
	}
	return []finding{warn("run it again; if it stays so, look into the server's log", "this could not be looked at: %s", message)}
}

// grant is the command that gives this role what serve needs.
func (p *patient) grant() string {
	role := p.server.Role
	if role == "" {
		role = "ROLE"
	}
	return "as the owner of the schema: riverhook migrate grant " + role + " --as service" + p.schemaFlag()
}

func (p *patient) schemaFlag() string {
	if p.cmd.Schema == migrations.DefaultSchema {
		return ""
	}
	return " --schema " + string(p.cmd.Schema)
}

// environmentSettings are those that serve would have, from the environment alone, and what is wrong with them. A value
// that cannot be read counts as the default, so that the other checks go on.
func environmentSettings() (settings serveCmd, problems []error) {
	var cli struct {
		Serve serveCmd `cmd:""`
	}
	unreadable := func(k *kong.Kong) error {
		return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
			flag, ok := node.(*kong.Flag)
			if !ok {
				return next(nil)
			}
			for _, name := range flag.Tag.Envs {
				value, set := os.LookupEnv(name)
				if !set {
					continue
				}
				err := flag.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value}), reflect.New(flag.Target.Type()).Elem())
				if err != nil {
					problems = append(problems, fmt.Errorf("--%s (%s): %w", flag.Name, name, err))
					flag.Tag.Envs = nil
				}
			}
			return next(nil)
		})
	}
	parser, err := kong.New(&cli, kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}), helpVars(), kong.PostBuild(unreadable))
	if err == nil {
		_, err = parser.Parse([]string{"serve"})
	}
	if err != nil {
		problems = append(problems, err)
	}
	return cli.Serve, problems
}

func checkSettings(_ context.Context, p *patient) (found []finding) {
	for _, problem := range p.problems {
		found = append(found, fail("mend it: serve does not start with it", "%s", strings.TrimPrefix(problem.Error(), "serve: ")))
	}
	if _, err := apiToken(); err != nil {
		found = append(found, fail("mend it: serve does not start with it", "%s", err))
	}
	if unknown := unknownSettings(); len(unknown) > 0 {
		found = append(found, warn("correct or remove it", "no such setting, is it misspelt? %s", strings.Join(unknown, ", ")))
	}
	s := &p.settings
	if s.EndpointConcurrency > s.Concurrency {
		found = append(found, warn("lower RIVERHOOK_ENDPOINT_CONCURRENCY below RIVERHOOK_CONCURRENCY",
			"RIVERHOOK_ENDPOINT_CONCURRENCY (%d) is more than RIVERHOOK_CONCURRENCY (%d): one receiver that does not answer can take all attempts", s.EndpointConcurrency, s.Concurrency))
	}
	if len(found) == 0 {
		found = append(found, ok("what is in the environment fits together"))
	}
	return found
}

func checkConnection(ctx context.Context, p *patient) []finding {
	config, err := p.cmd.config()
	if err == nil {
		config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			if n.Severity == "WARNING" {
				p.mu.Lock()
				p.warning = n.Message
				p.mu.Unlock()
			}
		}
		p.pool, err = connectTo(ctx, config)
	}
	if err != nil {
		hint := "is Postgres up, and is the URL right (--database-url, RIVERHOOK_DATABASE_URL)?"
		if h := (hintError{}); errors.As(err, &h) {
			err, hint = h.err, h.hint
		}
		return []finding{fail(hint, "%s", err)}
	}
	p.st = store.New(p.pool, string(p.cmd.Schema)).Within(checkTimeout / 2)
	if p.server, err = p.st.Server(ctx); err != nil {
		return unable(p, err)
	}
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return unable(p, err)
	}
	_, encrypted := conn.Conn().PgConn().Conn().(*tls.Conn)
	conn.Release()
	host := config.ConnConfig.Host
	what := fmt.Sprintf("%s port %d, database %s, role %s", host, config.ConnConfig.Port, p.server.Database, p.server.Role)
	switch {
	case p.server.ReadOnly:
		return []finding{fail("connect to the primary, as a role that may write", "%s: read only (a standby?)", what)}
	case encrypted:
		return []finding{ok("%s, TLS", what)}
	case isLocal(host):
		return []finding{ok("%s, without TLS on this machine", what)}
	}
	return []finding{warn("add sslmode=verify-full (or require) to the URL, unless that network is trusted", "%s, without TLS", what)}
}

// isLocal says whether a database's host is this machine.
func isLocal(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" || err == nil && addr.IsLoopback()
}

func checkPostgres(_ context.Context, p *patient) []finding {
	switch s := p.server; {
	case s.VersionNumber < 140000:
		return []finding{fail("use PostgreSQL 14 or newer", "PostgreSQL %s is too old", s.Version)}
	case s.Encoding != "UTF8":
		return []finding{fail("create a database with ENCODING 'UTF8'", "the database's encoding is %s: not every payload can be stored", s.Encoding)}
	default:
		return []finding{ok("PostgreSQL %s, UTF8 (riverhook is tested on 14 to 18)", s.Version)}
	}
}

// maxSkew is how far clocks may be apart without a word.
const maxSkew = time.Second

func checkClock(ctx context.Context, p *patient) []finding {
	before := time.Now()
	server, err := p.st.Server(ctx)
	took := time.Since(before)
	if err != nil {
		return unable(p, err)
	}
	return []finding{judgeSkew(server.Clock.Sub(before.Add(took/2)), took)}
}

// judgeSkew judges how far the database's clock is ahead of this machine's, known to half of what asking took.
func judgeSkew(skew, took time.Duration) finding {
	if skew.Abs() <= maxSkew+took/2 {
		return ok("the clocks of this machine and of the database agree to %s", (skew.Abs() + took/2).Round(time.Millisecond))
	}
	behind := "behind"
	if skew < 0 {
		behind = "ahead of"
	}
	return warn("synchronize both with NTP", "this machine's clock is %s %s the database's. Leases and retries go by the database's; "+
		"logs and webhook-timestamp by this machine's, and receivers refuse signatures that are minutes off", skew.Abs().Round(time.Millisecond), behind)
}

func checkConnections(ctx context.Context, p *patient) []finding {
	c, err := p.st.Connections(ctx)
	if err != nil {
		return unable(p, err)
	}
	free, want := c.Max-c.Reserved-c.Used, p.settings.DBMaxConns
	what := fmt.Sprintf("max_connections %d, %d reserved, %d in use (%d of them riverhook's, this command's included): %d free; RIVERHOOK_DB_MAX_CONNS is %d for each node",
		c.Max, c.Reserved, c.Used, c.Ours, free, want)
	if free+c.Ours < want {
		return []finding{warn("raise max_connections, or lower RIVERHOOK_DB_MAX_CONNS: a node that gets no connection waits, and delivers late (riverhook help sizing)", "%s", what)}
	}
	return []finding{ok("%s", what)}
}

// notifyWait is how long a notification may take.
const notifyWait = 2 * time.Second

func checkNotify(ctx context.Context, p *patient) []finding {
	if p.settings.PollOnly {
		return []finding{ok("not needed: RIVERHOOK_POLL_ONLY is true")}
	}
	const hint = "set RIVERHOOK_POLL_ONLY=true, or connect to Postgres itself (riverhook help pgbouncer)"
	pooled, err := p.connectAsServe(ctx)
	if node.RefusedByPooler(err) {
		return []finding{fail(hint, "a pooler refuses the connections of serve: %s", err)}
	}
	if err != nil {
		return unable(p, err)
	}
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails
	began := time.Now()
	arrived, err := p.st.TryNotify(ctx, hex.EncodeToString(random), notifyWait)
	switch {
	case err != nil:
		return unable(p, err)
	case pooled && !arrived:
		return []finding{fail(hint, "a pooler in between swallows NOTIFY, and mixes up the sessions of serve")}
	case pooled:
		return []finding{warn(hint, "a pooler in between keeps nodes from proving that they live: what one held that dies waits for the end of its lease")}
	case !arrived:
		return []finding{warn(hint, "a NOTIFY did not arrive within %s: a transaction pooler in between may swallow it", notifyWait)}
	}
	return []finding{ok("arrives, after %s", time.Since(began).Round(time.Millisecond))}
}

// connectAsServe begins one session as serve does that listens. It says whether a pooler is in between: those have numbers of
// their own for sessions.
func (p *patient) connectAsServe(ctx context.Context) (pooled bool, err error) {
	config := p.pool.Config()
	maps.Copy(config.ConnConfig.RuntimeParams, node.SessionParameters())
	if config.BeforeConnect != nil { // it knows the password of now
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return false, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return false, err
	}
	var pid uint32
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return pid != conn.PgConn().PID(), errors.Join(err, conn.Close(ctx))
}

func checkVacuum(ctx context.Context, p *patient) (found []finding) {
	threshold := time.Duration(p.cmd.LongTransaction)
	horizons, hidden, err := p.st.Horizons(ctx, threshold)
	if err != nil {
		return unable(p, err)
	}
	for _, h := range horizons {
		switch h.What {
		case "transaction":
			found = append(found, warn("end it (SELECT pg_terminate_backend(PID)), and set idle_in_transaction_session_timeout",
				"a transaction has been open for %s and holds back vacuum in the whole database: %s", h.Age.Round(time.Second), h.Name))
		case "prepared transaction":
			found = append(found, warn("COMMIT PREPARED or ROLLBACK PREPARED it", "a prepared transaction is %s old and holds back vacuum: %s", h.Age.Round(time.Second), h.Name))
		default:
			found = append(found, warn("bring its consumer up, or drop it: SELECT pg_drop_replication_slot(...)", "a replication slot holds back vacuum: %s", h.Name))
		}
	}
	if hidden > 0 {
		found = append(found, ok("the age of %d other roles' transactions is not shown to this role (GRANT pg_read_all_stats shows them)", hidden))
	}
	if len(found) == 0 {
		found = append(found, ok("no transaction is older than %s", words(threshold)))
	}
	return found
}

func checkSchema(ctx context.Context, p *patient) []finding {
	status, err := migrations.Inspect(ctx, p.pool, string(p.cmd.Schema))
	if err != nil {
		return unable(p, err)
	}
	up := "riverhook migrate up" + p.schemaFlag()
	switch err := status.Check(string(p.cmd.Schema)); {
	case err == nil:
		p.schema = true
		return []finding{ok("%s: version %d of %d, River %d of %d", string(p.cmd.Schema), status.Version, migrations.Latest, status.River, status.RiverLatest)}
	case status.Version == 0:
		return []finding{fail(up+" (is this the right database and --schema?)", "there is no riverhook schema %s", string(p.cmd.Schema))}
	case errors.As(err, new(*migrations.TooOldError)):
		return []finding{fail("install a newer riverhook", "%s", err)}
	default:
		return []finding{fail(up, "%s is at version %d of %d, River at %d of %d", string(p.cmd.Schema), status.Version, migrations.Latest, status.River, status.RiverLatest)}
	}
}

// named bounds how many things a line names.
const named = 5

// some names the first few of a list.
func some(names []string) string {
	text := strings.Join(names[:min(len(names), named)], ", ")
	if rest := len(names) - named; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}

func checkPrivileges(ctx context.Context, p *patient) []finding {
	missing, err := p.st.MissingRights(ctx, string(p.cmd.Schema))
	switch {
	case err != nil:
		return unable(p, err)
	case len(missing) > 0:
		return []finding{fail("run doctor with the database URL that serve has; if this is it, "+p.grant(), "role %s lacks what serve needs: %s", p.server.Role, some(missing))}
	case !p.schema:
		return []finding{ok("nothing is missing of what is there")}
	}
	return []finding{ok("role %s has what serve needs", p.server.Role)}
}

// triggers are those of deliveries, and what does not happen without them.
var triggers = []struct{ name, without string }{
	{"deliveries_enqueue", "new deliveries wait for the next sweep"},
	{"deliveries_defaults", "explicit NULLs fail an INSERT"},
	{"deliveries_origin", "it is not known whom a new delivery is for, so that it is neither isolated nor paused"},
	{"deliveries_origin_again", "a delivery whose URL is changed counts as one for the old receiver"},
	{"deliveries_replay", "a replay starts no new round"},
	{"deliveries_reschedule", "a retry-now does nothing before the next sweep"},
	{"deliveries_keep_time", "a delivery that is being sent can be lost sight of"},
	{"deliveries_end", "a canceled delivery is not finished"},
}

func checkTriggers(ctx context.Context, p *patient) (found []finding) {
	fires, err := p.st.Triggers(ctx)
	if err != nil {
		return unable(p, err)
	}
	for _, trigger := range triggers {
		enabled, there := fires[trigger.name]
		switch {
		case !there:
			found = append(found, fail("somebody dropped it: take its CREATE TRIGGER from pg_dump --schema-only of a new database after riverhook migrate up",
				"trigger %s is missing: %s", trigger.name, trigger.without))
		case !enabled:
			found = append(found, fail(fmt.Sprintf(`ALTER TABLE "%s".deliveries ENABLE TRIGGER %s`, string(p.cmd.Schema), trigger.name),
				"trigger %s is disabled, or set to REPLICA: %s", trigger.name, trigger.without))
		}
	}
	if len(found) == 0 {
		found = append(found, ok("all %d are there and enabled", len(triggers)))
	}
	return found
}

func checkEnqueue(ctx context.Context, p *patient) []finding {
	p.mu.Lock()
	p.warning = ""
	p.mu.Unlock()
	fired, err := p.st.TryInsert(ctx)
	p.mu.Lock()
	warning := p.warning
	p.mu.Unlock()
	switch {
	case err != nil && !node.LacksRights(err) && store.IsRefusal(err) && !store.IsTooSlow(err):
		return []finding{fail("applications cannot enqueue either: look at what the error names", "an INSERT fails: %s", internalPrefix.ReplaceAllString(err.Error(), ""))}
	case err != nil:
		return unable(p, err)
	case fired:
		return []finding{ok("an INSERT made a job (and was rolled back)")}
	case warning != "":
		return []finding{fail("mend what the warning names; until then the sweep enqueues, later", "an INSERT made no job: %s", warning)}
	case p.server.ReplicationRole != "origin":
		return []finding{fail("ALTER ROLE ... RESET session_replication_role", "an INSERT made no job: session_replication_role is %s for this role", p.server.ReplicationRole)}
	}
	return []finding{fail("see triggers; until then the sweep enqueues, later", "an INSERT made no job")}
}

// Dead rows are worth a word when there are many, more than a share of the live ones, and vacuum has not been there.
const (
	manyDead      = 100_000
	vacuumOverdue = 10 * time.Minute
)

// isBloated says whether a table has more dead rows than autovacuum would leave.
func isBloated(b store.Bloat) bool {
	return b.Dead > manyDead && b.Dead > b.Live/5 && (b.Vacuumed == nil || *b.Vacuumed > vacuumOverdue)
}

func checkDeadRows(ctx context.Context, p *patient) (found []finding) {
	bloats, err := p.st.Bloats(ctx)
	if err != nil {
		return unable(p, err)
	}
	var fine []string
	for _, b := range bloats {
		what := fmt.Sprintf("%s %d dead, %d live", b.Table, b.Dead, b.Live)
		if isBloated(b) {
			found = append(found, warn("see vacuum above; is autovacuum on and not outrun (autovacuum_vacuum_cost_delay)? Until then: VACUUM "+string(p.cmd.Schema)+"."+b.Table, "%s, and no vacuum lately", what))
			continue
		}
		fine = append(fine, what)
	}
	if len(fine) > 0 {
		found = append(found, ok("%s", strings.Join(fine, "; ")))
	}
	return found
}

// maxCells bounds how many credentials, and how many signing secrets, are opened.
const maxCells = 5000

// openedSecret is a signing secret whose key was opened: what is known of it without the key itself.
type openedSecret struct {
	store.UsedCell
	hash      [sha256.Size]byte
	symmetric bool // the receiver can sign with it, too
	opened    bool
}

func checkKey(ctx context.Context, p *patient) []finding {
	keys, keyErr := keyring()
	cells, err := p.st.UsedCells(ctx, maxCells)
	if err != nil {
		return unable(p, err)
	}
	var closed []string
	why := map[error]int{}
	old := 0
	for _, cell := range cells {
		opened := openedSecret{UsedCell: cell, symmetric: true}
		plain, err := keys.Open(cell.Cell, cell.UUID, cell.OrganizationID)
		if err == nil && cell.Kind == "secret" {
			var key signing.Key
			if key, err = signing.ParseKey(string(plain)); err == nil {
				opened.opened, opened.hash, opened.symmetric = true, sha256.Sum256(plain), key.Algorithm() != signing.AlgorithmEd25519
			}
		}
		if cell.Kind == "secret" {
			p.secrets = append(p.secrets, opened)
		}
		if err != nil {
			closed = append(closed, cell.Kind+" "+cell.UUID)
			for _, known := range []error{credential.ErrUnknownKey, credential.ErrNoKey} {
				if errors.Is(err, known) {
					why[known]++
				}
			}
			continue
		}
		if !keys.IsCurrent(cell.Cell) {
			old++
		}
	}
	return []finding{judgeKey(keys, keyErr, len(cells), old, closed, why)}
}

func judgeKey(keys *credential.Keyring, keyErr error, cells, old int, closed []string, why map[error]int) finding {
	const lost = "; what is lost has to be stored again: riverhook credentials set, riverhook secrets rotate"
	what := fmt.Sprintf("%d of %d credentials and signing secrets cannot be opened (%s): their deliveries wait, and are dead letters in the end", len(closed), cells, some(closed))
	switch {
	case keyErr != nil:
		return fail("mend it: serve does not start with it", "%s", internalPrefix.ReplaceAllString(keyErr.Error(), ""))
	case len(closed) > 0 && keys.IsEmpty():
		return fail("set RIVERHOOK_SECRET_KEY (or _FILE) to the key that they were sealed under, the one that serve has"+lost, "there is no key: %s", what)
	case why[credential.ErrUnknownKey] > 0:
		return fail("add the key that they were sealed under to RIVERHOOK_SECRET_KEY, behind the first, after a comma"+lost, "%s", what)
	case len(closed) > 0:
		return fail("they were changed, or copied from another row"+lost, "%s", what)
	case cells == 0:
		return ok("there are no credentials and no signing secrets")
	case old > 0:
		return ok("opens all %d credentials and signing secrets, %d of them under an older key (riverhook credentials reseal)", cells, old)
	}
	return ok("opens all %d credentials and signing secrets", cells)
}

// What the search for shared secrets is bounded by.
const (
	newestOfOrganization = 10_000
	maxOrganizations     = 50
)

func checkSharedSecrets(ctx context.Context, p *patient) (found []finding) {
	const hint = "whoever shares one can forge for the others: give each receiver its own: riverhook secrets create --origin ORIGIN"
	wide := map[string]bool{} // organizations with a symmetric secret for whoever has none of his own
	for _, s := range p.secrets {
		if s.symmetric && s.EndpointOrigin == nil {
			wide[s.OrganizationID] = true
		}
	}
	organizations := slices.Sorted(maps.Keys(wide))
	rest := max(0, len(organizations)-maxOrganizations)
	shared, err := p.st.SharedBy(ctx, organizations[:len(organizations)-rest], newestOfOrganization)
	if err != nil {
		return unable(p, err)
	}
	for _, organization := range slices.Sorted(maps.Keys(shared)) {
		found = append(found, warn(hint+organizationFlag(organization), "the deliveries of organization %s to %d receivers are signed with one secret", organization, shared[organization]))
	}
	for _, scopes := range sameKeys(p.secrets) {
		found = append(found, warn(hint, "one key is stored for several receivers: %s", some(scopes)))
	}
	if len(found) == 0 {
		found = append(found, ok("no signing secret is shared by several receivers"))
	}
	if rest > 0 {
		found = append(found, ok("%d more organizations were not looked at", rest))
	}
	return found
}

func checkEvents(ctx context.Context, p *patient) []finding {
	target, err := delivery.ParseEndpoint(p.settings.AlertURL)
	if p.settings.AlertURL == "" || err != nil { // what is wrong with it, the settings' check says
		return []finding{ok("logged only: RIVERHOOK_ALERT_URL is not set")}
	}
	origin := delivery.Origin(target)
	signed, err := p.st.Signs(ctx, events.Organization, origin)
	switch {
	case err != nil:
		return unable(p, err)
	case !signed:
		return []finding{warn("riverhook secrets create --organization "+events.Organization+" --origin "+origin+p.schemaFlag(), "sent to %s, and nothing signs them", origin)}
	}
	return []finding{ok("sent to %s, signed", origin)}
}

func organizationFlag(organization string) string {
	if organization == "default" {
		return ""
	}
	return " --organization " + organization
}

// sameKeys are the scopes that have the same key, those of each key together.
func sameKeys(secrets []openedSecret) (groups [][]string) {
	byKey := map[[sha256.Size]byte]map[string]bool{}
	for _, s := range secrets {
		if !s.opened || !s.symmetric {
			continue
		}
		scope := "every receiver of organization " + s.OrganizationID
		if s.EndpointOrigin != nil {
			scope = *s.EndpointOrigin // of whatever organization: it is one receiver
		}
		if byKey[s.hash] == nil {
			byKey[s.hash] = map[string]bool{}
		}
		byKey[s.hash][scope] = true
	}
	for _, scopes := range byKey {
		if len(scopes) > 1 {
			groups = append(groups, slices.Sorted(maps.Keys(scopes)))
		}
	}
	slices.SortFunc(groups, slices.Compare)
	return groups
}

const (
	maxBacklog = 50_000          // rows that are looked at
	lateAfter  = time.Minute     // a delivery that nobody sends
	deadAfter  = 5 * time.Minute // and no node either
)

func checkBacklog(ctx context.Context, p *patient) (found []finding) {
	sweeps := 2 * max(time.Duration(p.settings.SweepInterval), time.Second)
	b, err := p.st.Backlog(ctx, maxBacklog, sweeps)
	if err != nil {
		return unable(p, err)
	}
	node := "a node is up"
	if !b.Leader {
		node = "no node is up"
	}
	if b.Oldest != nil && *b.Oldest > max(lateAfter, sweeps) {
		what := fmt.Sprintf("due and not sent: %s (of the %d that are due first), the oldest for %s; %s", counted(b.Waiting), b.Seen, words(*b.Oldest), node)
		if !b.Leader && *b.Oldest > deadAfter {
			found = append(found, fail("start riverhook serve", "%s", what))
		} else {
			found = append(found, warn("is serve running, and does its log have errors? More attempts at a time: RIVERHOOK_CONCURRENCY, or another node", "%s", what))
		}
	}
	if b.Stale > 0 {
		found = append(found, warn("riverhook sweep, and look into serve's log for failing sweeps", "claimed, under a lease that ended more than %s ago: %s; nobody sweeps", sweeps, counted(b.Stale)))
	}
	if b.Discarded > 0 {
		found = append(found, warn("River UI (/riverui of the listener) shows their errors; no delivery is lost by it, the sweep finds them", "discarded by River: %s", count(b.Discarded, "job")))
	}
	if len(found) == 0 {
		found = append(found, ok("due and not sent: %s, none for long; %s", counted(b.Waiting), node))
	}
	return found
}

func checkHeld(ctx context.Context, p *patient) []finding {
	groups, more, err := p.st.Held(ctx, 100)
	if err != nil {
		return unable(p, err)
	}
	pauses, err := p.st.Pauses(ctx)
	if err != nil {
		return unable(p, err)
	}
	reasons, total := map[string]int{}, 0
	for _, g := range groups {
		reasons[text(g.HeldReason)] += g.Count
		total += g.Count
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		parts = append(parts, fmt.Sprintf("%s %d", reason, reasons[reason]))
	}
	because := ""
	if len(parts) > 0 {
		because = " (" + strings.Join(parts, ", ") + ")"
	}
	atLeast := ""
	if more || slices.ContainsFunc(groups, func(g store.HeldGroup) bool { return g.AtLeast }) {
		atLeast = "at least "
	}
	what := fmt.Sprintf("held back: %s%s%s; %s", atLeast, counted(total), because, count(len(pauses), "pause"))
	switch {
	case total == 0 && len(pauses) == 0:
		return []finding{ok("nothing is held back or paused")}
	case total == reasons["crowded"] && len(pauses) == 0:
		return []finding{ok("%s", what)}
	}
	return []finding{warn("riverhook held says which and why; riverhook resume ends a pause", "%s", what)}
}

// What reaching receivers is bounded by.
const (
	newestDeliveries = 1000
	maxReceivers     = 20
	reachTimeout     = 2 * time.Second
)

func checkReceivers(ctx context.Context, p *patient) (found []finding) {
	origins, err := p.st.RecentOrigins(ctx, newestDeliveries, maxReceivers)
	if err != nil {
		return unable(p, err)
	}
	if len(origins) == 0 {
		return []finding{ok("there were no deliveries in the last day")}
	}
	limits := egress.Config{Allow: p.settings.EgressAllow, Deny: p.settings.EgressDeny}
	if own, err := netip.ParseAddrPort(p.settings.Listen); err == nil {
		limits.Never = append(limits.Never, own)
	}
	transport := egress.NewTransport(egress.NewGuard(limits))
	problems, hints := make([]string, len(origins)), make([]string, len(origins))
	var group sync.WaitGroup
	for i, origin := range origins {
		group.Go(func() { problems[i], hints[i] = reach(ctx, transport.DialContext, origin) })
	}
	group.Wait()
	for i, problem := range problems {
		if problem != "" {
			found = append(found, warn(hints[i], "%s: %s", origins[i], problem))
		}
	}
	if reached := len(origins) - len(found); reached > 0 {
		found = append(found, ok("%d of %s of the last day can be reached", reached, count(len(origins), "receiver")))
	}
	return found
}

// reach connects to an origin, sends nothing, and says what is wrong, without addresses, and what to do about it.
func reach(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), origin string) (problem, hint string) {
	const (
		refused = "deliveries to it are dead letters at once: riverhook deliveries list --status dead_letter"
		retried = "deliveries to it are retried; is it up, and may this machine reach it (firewall, DNS)?"
	)
	u, err := url.Parse(origin)
	if err == nil {
		_, err = delivery.ParseEndpoint(origin)
	}
	if err != nil {
		return "that is no URL which can be sent to", refused
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	conn, err := dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	var dns *net.DNSError
	var blocked *egress.BlockedError
	var number syscall.Errno
	switch {
	case err == nil:
		conn.Close()
		return "", ""
	case errors.As(err, &blocked):
		return blocked.Error(), refused + "; RIVERHOOK_EGRESS_ALLOW opens more networks, but never riverhook's own listener and database"
	case ctx.Err() != nil:
		return fmt.Sprintf("no connection within %s", reachTimeout), retried
	case errors.As(err, &dns):
		return "its name does not resolve", retried
	case errors.As(err, &number):
		return number.Error(), retried
	}
	return "no connection", retried
}
