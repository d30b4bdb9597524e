package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"riverqueue.com/riverui"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/events"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/replay"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/egress"
	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/sweeper"
	"github.com/riverhook/riverhook/worker"
)

// UIPrefix is where River UI is.
const UIPrefix = "/river"

// Config is everything a node depends on. There are no defaults here: the program's settings have them.
type Config struct {
	Database *pgxpool.Config
	Schema   string
	Log      *slog.Logger
	Version  string

	Concurrency         int // attempts in flight
	EndpointConcurrency int // of those, the share of an origin that does not answer
	MaxConns            int // connections to Postgres, all pools together
	PollOnly            bool
	Migrate             bool // bring the schema up first

	Timeout, Lease        time.Duration
	Policy                delivery.Policy
	SweepInterval         time.Duration
	Retention             time.Duration // of what succeeded or was canceled; 0 keeps it for ever
	RetentionDeadLetter   time.Duration // of dead letters; 0 keeps them for ever
	Headers               delivery.HeaderRules
	Egress                egress.Config       // where requests may go; the database's addresses are added to Never
	Keys                  *credential.Keyring // that credentials and signing secrets are sealed under
	LogRequests           bool
	MaxPayload            int
	SendWithoutCredential bool
	AlertURL              string // where events are sent; empty: they are logged only

	Progress *progress.Board // is told of each try of every loop; may be nil

	WorkerHooks  worker.Hooks // may be empty, as the sweeper's
	SweeperHooks sweeper.Hooks
}

const (
	fetchCooldown     = 10 * time.Millisecond
	fetchPollInterval = 100 * time.Millisecond
	jobRetention      = time.Hour
	// sweepWorkers: while one sweep drains, the ticks that come due end at once in the other places.
	sweepWorkers = 2
	// connectDelay is the longest pause between two tries to reach Postgres.
	connectDelay = 2 * time.Second
	// closeGrace is how long releases may go on after the last attempt has ended.
	closeGrace = 5 * time.Second
	// connectTimeout is for making one connection, if the settings do not say: one that is never answered, after a way to Postgres
	// was lost, keeps its place in a pool for so long. The only one that proves that this node lives cannot wait for that.
	connectTimeout, presenceConnectTimeout = 10 * time.Second, 5 * time.Second
	// leaveTimeout is for telling the other nodes.
	leaveTimeout = 3 * time.Second
)

// reindexed are River's indexes that a schema of ours still has.
var reindexed = []string{"river_job_pkey", "river_job_prioritized_fetching_index", "river_job_state_and_finalized_at_index", "river_job_unique_idx"}

// Node is one running riverhook. Its zero value is not usable: New makes one.
type Node struct {
	Config
	ID string // new at each start, in claimed_by, attempts.node and as River's client id

	pools pools
	store *store.Store // on the pool for everything else
	watch *events.Watch
	ready atomic.Bool
	ui    atomic.Pointer[riverui.Handler]
}

// MinConns is the least number of connections a node can do with.
const MinConns = 10

// pools are separate, so that neither claims nor River's leadership wait for anything else.
type pools struct{ river, batches, other, requests, presence *pgxpool.Pool }

func (p pools) close() {
	for _, pool := range []*pgxpool.Pool{p.river, p.batches, p.other, p.requests, p.presence} {
		if pool != nil {
			pool.Close()
		}
	}
}

// New is a node that has not started. It does not connect.
func New(c Config) (*Node, error) {
	n := &Node{Config: c, ID: newID()}
	var err error
	// The listener's connection is taken out of River's pool, and comes on top.
	batches := max(2, c.MaxConns/4)
	other := max(2, c.MaxConns/5)
	requests := max(2, c.MaxConns/5)
	rivers := c.MaxConns - batches - other - requests - 1
	if !n.PollOnly {
		rivers-- // what proves that this node lives
		n.pools.presence, err = n.newPool("presence", 1, func(config *pgxpool.Config) {
			config.ConnConfig.ConnectTimeout = min(config.ConnConfig.ConnectTimeout, presenceConnectTimeout)
		})
	}
	if err == nil {
		n.pools.batches, err = n.newPool("batches", batches, store.TuneForBatches)
	}
	if err == nil {
		n.pools.other, err = n.newPool("other", other, nil)
	}
	if err == nil {
		n.pools.requests, err = n.newPool("requests", requests, store.TuneForRequests)
	}
	if err == nil {
		n.pools.river, err = n.newPool("river", rivers, nil)
	}
	if err != nil {
		n.pools.close()
		return nil, fmt.Errorf("node: connection pools: %w", err)
	}
	n.store = n.storeOn(n.pools.other)
	n.watch = events.New(events.Config{Store: n.store, Log: n.Log, Node: n.ID, URL: n.AlertURL, Progress: n.Progress})
	return n, nil
}

// Requests is a store for those who ask over HTTP, on a pool of that many connections, which nothing else uses.
func (n *Node) Requests() (st *store.Store, conns int) {
	return n.storeOn(n.pools.requests), int(n.pools.requests.Config().MaxConns)
}

func (n *Node) storeOn(pool *pgxpool.Pool) *store.Store {
	if n.PollOnly {
		return store.New(pool, n.Schema).BehindPooler()
	}
	return store.New(pool, n.Schema)
}

func newID() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "node"
	}
	if len(host) > 80 { // River's limit for all of it is 100
		host = host[:80]
	}
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails
	return host + "-" + hex.EncodeToString(random)
}

// SessionParameters are set at the beginning of every session of a node that does not only poll. PgBouncer refuses them.
func SessionParameters() map[string]string {
	return map[string]string{"default_transaction_isolation": "read committed"} // whatever the role's is
}

func (n *Node) newPool(name string, size int, tune func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	config := n.Database.Copy()
	config.MaxConns, config.MinConns, config.MinIdleConns = int32(size), 0, 0 //nolint:gosec // small
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "riverhook " + name
	}
	if n.PollOnly {
		// A pooler may hand each statement to another server connection, and refuses parameters that it does not know.
		// What is set for a session would be another program's, too.
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	} else {
		maps.Copy(config.ConnConfig.RuntimeParams, SessionParameters())
		if tune != nil {
			tune(config)
		}
	}
	return pgxpool.NewWithConfig(context.Background(), config)
}

// Run delivers until ctx ends; then it fetches no more, lets the attempts in flight finish within their timeout, records
// them and returns nil. It waits for a Postgres that is not up, for as long as it takes, and survives one that goes away.
// It returns *migrations.NotMigratedError and *migrations.TooOldError as they are.
func (n *Node) Run(ctx context.Context) error {
	defer n.pools.close()
	if err := n.waitForDatabase(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it waited
		}
		return err
	}
	for {
		err := n.deliver(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if LacksRights(err) {
			return n.wantsRights(err)
		}
		n.Log.Warn("cannot start yet: trying again", append([]any{"error", err}, n.hint(err)...)...)
		if !sleep(ctx, connectDelay) {
			return nil
		}
	}
}

// waitForDatabase returns once Postgres answers and has a schema that this program can work with.
func (n *Node) waitForDatabase(ctx context.Context) error {
	var reported time.Time
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, connectDelay) {
		err := n.checkSchema(ctx)
		var connect *connectError
		if !errors.As(err, &connect) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(reported) > 10*time.Second {
			reported = time.Now()
			n.Log.Warn("waiting for Postgres", append([]any{"error", connect.Unwrap()}, n.hint(connect)...)...)
		}
		if !sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}

// hint says more about why Postgres cannot be reached, where that is known.
func (n *Node) hint(err error) []any {
	var pg *pgconn.PgError
	// One session's prepared statements in another's: 42P05 is one that is there already, 26000 one that is not.
	mixed := errors.As(err, &pg) && (pg.Code == "42P05" || pg.Code == "26000")
	if (mixed || RefusedByPooler(err) || errors.Is(err, errSharedSessions)) && !n.PollOnly {
		return []any{"hint", "this is PgBouncer, or another pooler: set RIVERHOOK_POLL_ONLY=true, or connect to Postgres itself (riverhook help pgbouncer)"}
	}
	if pg != nil && (pg.Code == "28P01" || pg.Code == "28000" || pg.Code == "3D000") {
		return []any{"hint", "Postgres is up, and refuses this user, password or database: is RIVERHOOK_DATABASE_URL right?"}
	}
	return nil
}

// RefusedByPooler says whether a connection with SessionParameters failed because of them. No Postgres answers to the
// beginning of a connection like that: it is how PgBouncer refuses.
func RefusedByPooler(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "08P01"
}

// connectError is a failure that may pass by waiting.
type connectError struct{ error }

func (e *connectError) Unwrap() error { return e.error }

func (n *Node) checkSchema(ctx context.Context) error {
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := n.pools.other.Ping(try); err != nil {
		return &connectError{err}
	}
	if n.Migrate {
		report, err := migrations.Up(ctx, n.pools.other, migrations.Options{Schema: n.Schema, Log: n.Log})
		if LacksRights(err) {
			return fmt.Errorf("%w (only the schema's owner may migrate: run riverhook migrate up as that role, and serve without --migrate)", err)
		}
		if err != nil {
			return err
		}
		if report.Changed() {
			n.Log.Info("migrated", "schema", n.Schema, "from", report.From, "to", report.To)
		}
	}
	status, err := migrations.Inspect(try, n.pools.other, n.Schema)
	if LacksRights(err) {
		return n.wantsRights(err)
	}
	if err != nil {
		return &connectError{err}
	}
	return status.Check(n.Schema)
}

// LacksRights says whether a statement failed because the role may not do that.
func LacksRights(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

func (n *Node) wantsRights(err error) error {
	return fmt.Errorf("%w (what %s needs, the schema's owner grants: riverhook migrate grant %s --as service)", err, n.Database.ConnConfig.User, n.Database.ConnConfig.User)
}

// deliver runs River's client until ctx ends. An error means that it could not be started.
func (n *Node) deliver(ctx context.Context) error {
	presence, err := n.enter(ctx)
	if err != nil {
		return err
	}
	ended := newEndedJobs()
	w := worker.New(worker.Config{
		JobEnded:   ended.add,
		Presence:   presence,
		Store:      n.storeOn(n.pools.batches),
		Transport:  egress.NewTransport(n.newGuard(ctx)),
		Log:        n.Log,
		Node:       n.ID,
		Policy:     n.Policy,
		Headers:    worker.Headers{HeaderRules: n.Headers, UserAgent: "riverhook/" + n.Version},
		Timeout:    n.Timeout,
		Lease:      n.Lease,
		MaxPayload: n.MaxPayload,

		Concurrency:         n.Concurrency,
		EndpointConcurrency: n.EndpointConcurrency,

		Keys:        n.Keys,
		LogRequests: n.LogRequests,

		SendWithoutCredential: n.SendWithoutCredential,

		Hooks: n.workerHooks(),

		Progress: n.Progress,
	})
	defer n.keep(context.WithoutCancel(ctx), presence, w)()
	if err := w.LoadPauses(ctx); err != nil {
		return err
	}
	queue := &front{store: n.storeOn(n.pools.batches), life: ctx, clearing: w.Clearing}
	client, err := n.newClient(w, n.NewSweeper(), &driver{riverpgxv5.New(n.pools.river), ended, queue})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	// River's leader sweeps periodically, but after a crash there may be none for a while: look at once.
	if _, err := client.Insert(ctx, sweeper.JobArgs{}, nil); err != nil {
		n.Log.Warn("no sweep at the start", "error", err)
	}
	var loops sync.WaitGroup
	defer n.watch.Close()
	loops.Go(func() { w.Isolate(ctx) })
	n.watch.CheckSigned(ctx)
	loops.Go(func() { n.checkKeys(ctx) })
	loops.Go(func() { n.watch.Run(ctx) })
	watch := sweeper.NewWatch(sweeper.WatchConfig{Store: n.store, Sweeper: n.NewSweeper(), Log: n.Log, Node: n.ID, Interval: n.SweepInterval})
	loops.Go(func() { watch.Run(ctx) })
	loops.Go(func() { n.watchClock(ctx) })
	defer loops.Wait()
	ui, err := n.newUI(ctx, client)
	if err != nil {
		n.Log.Error("River UI is not available", "error", err)
	} else {
		n.ui.Store(ui)
	}
	n.ready.Store(true)
	n.Log.Info("delivering", "node", n.ID, "schema", n.Schema, "concurrency", n.Concurrency)

	<-ctx.Done()
	n.ready.Store(false)
	n.Log.Info("stopping: attempts in flight may finish", "within", n.Timeout.String())
	queue.end()
	n.Log.Debug("nothing more is fetched")
	<-client.Stopped()
	return nil
}

// checkedCells bounds how many credentials, and how many signing secrets, are tried at the start.
const checkedCells = 1000

// checkKeys warns of secrets that this node cannot open: it has no key, or another than they were sealed with.
func (n *Node) checkKeys(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cells, err := n.store.UsedCells(ctx, checkedCells)
	if err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) {
			n.Log.Warn("cannot look whether the secrets can be opened", "error", err)
		}
		return
	}
	closed := map[string]int{}
	for _, c := range cells {
		if _, openErr := n.Keys.Open(c.Cell, c.UUID, c.OrganizationID); openErr != nil {
			closed[c.Kind]++
			err = openErr
		}
	}
	if len(closed) == 0 {
		return
	}
	then := "their deliveries wait, and are dead letters in the end"
	if n.SendWithoutCredential && closed["credential"] > 0 {
		then = "what such credentials are for is sent without them, and what such secrets are for waits"
	}
	n.Log.Warn("credentials or signing secrets cannot be opened (riverhook doctor says which and why)",
		"credentials", closed["credential"], "signing_secrets", closed["secret"], "of", len(cells), "then", then, "error", err)
}

// notifyWait is how long a notification may take that says whether a pooler keeps sessions.
const notifyWait = 2 * time.Second

// errSharedSessions says that nothing works: what is prepared or listened to in a session is soon somebody else's.
var errSharedSessions = errors.New("a pooler in between gives the sessions of this program to others")

// enter makes this node known to its peers. The presence is nil where it has none: only leases say whether it lives then.
func (n *Node) enter(ctx context.Context) (*worker.Presence, error) {
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if n.PollOnly {
		return nil, n.store.Register(try, n.ID, n.Version)
	}
	presence := worker.NewPresence(n.pools.presence, n.store, n.Log, n.ID, n.Version, n.Progress)
	err := presence.Take(try)
	if errors.Is(err, store.ErrPooler) {
		if arrived, err := n.store.TryNotify(ctx, n.ID, notifyWait); err != nil || !arrived {
			return nil, errors.Join(errSharedSessions, err)
		}
		n.Log.Warn("what a node held that dies waits for the end of its lease: set RIVERHOOK_POLL_ONLY=true behind a pooler (riverhook help pgbouncer)", "error", err)
		return nil, nil
	}
	return presence, err
}

// keep keeps this node known until the returned function is called, which closes the worker and says goodbye.
func (n *Node) keep(ctx context.Context, presence *worker.Presence, w *worker.Worker) (leave func()) {
	keeping, stop := context.WithCancel(ctx)
	var kept sync.WaitGroup
	if presence != nil {
		kept.Go(func() { presence.Keep(keeping, w.EndAttempts) })
	}
	return func() {
		defer stop()
		closing, cancel := context.WithTimeout(ctx, closeGrace)
		defer cancel()
		w.Close(closing)
		stop()
		kept.Wait()
		leaving, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		if err := n.store.Leave(leaving, n.ID, w.LeftBehind()); err != nil {
			n.Log.Warn("could not say goodbye to the other nodes: they take this one for dead", "error", err)
		}
	}
}

// workerHooks are those of the settings, and the watch's.
func (n *Node) workerHooks() worker.Hooks {
	hooks := n.WorkerHooks
	hooks.Recorded = n.watch.Attempted
	return hooks
}

func (n *Node) sweeperHooks() sweeper.Hooks {
	hooks := n.SweeperHooks
	reclaimed := hooks.Reclaimed
	hooks.Reclaimed = func(a store.Attempt) {
		if reclaimed != nil {
			reclaimed(a)
		}
		n.watch.Reclaimed(a)
	}
	return hooks
}

// NewSweeper is a sweeper on this node's pool for everything else.
func (n *Node) NewSweeper() *sweeper.Sweeper {
	return sweeper.New(sweeper.Config{Store: n.store, Policy: n.Policy, Log: n.Log, Node: n.ID, Hooks: n.sweeperHooks(), Progress: n.Progress})
}

func (n *Node) newRetention() *sweeper.Retention {
	return sweeper.NewRetention(sweeper.RetentionConfig{Store: n.store, Done: n.Retention, DeadLetter: n.RetentionDeadLetter, Log: n.Log, Progress: n.Progress})
}

func (n *Node) newClient(w *worker.Worker, s *sweeper.Sweeper, d *driver) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	river.AddWorker(workers, sweeper.NewWorker(s))
	retention := n.newRetention()
	river.AddWorker(workers, sweeper.NewRetentionWorker(retention))
	river.AddWorker(workers, replay.NewWorker(n.store, n.Log, n.ID))
	config := &river.Config{
		ID:      n.ID,
		Schema:  n.Schema,
		Logger:  slog.New(newQuiet(n.Log.Handler())),
		Workers: workers,
		Queues: map[string]river.QueueConfig{
			delivery.JobQueue:      {MaxWorkers: n.Concurrency},
			sweeper.Queue:          {MaxWorkers: sweepWorkers, FetchPollInterval: time.Second},
			sweeper.RetentionQueue: {MaxWorkers: 1, FetchPollInterval: 5 * time.Second},
			store.ReplayQueue:      {MaxWorkers: replay.Workers, FetchPollInterval: time.Second},
		},
		PeriodicJobs:                []*river.PeriodicJob{sweeper.Periodic(n.SweepInterval), replay.Periodic()},
		MaxAttempts:                 1, // retries are the row's
		JobTimeout:                  worker.JobTimeout(n.Timeout),
		RescueStuckJobsAfter:        worker.RescueAfter(n.Timeout),
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           fetchPollInterval,
		PollOnly:                    n.PollOnly,
		CompletedJobRetentionPeriod: jobRetention,
		SoftStopTimeout:             n.Timeout + 5*time.Second,
	}
	if !retention.Forever() {
		config.PeriodicJobs = append(config.PeriodicJobs, sweeper.PeriodicRetention())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	owns, err := n.store.OwnsJobs(ctx)
	if err != nil {
		return nil, err
	}
	config.ReindexerIndexNames = []string{} // River's daily reindexing takes the owner
	if owns {
		config.ReindexerIndexNames = append(config.ReindexerIndexNames, reindexed...)
	}
	return river.NewClient[pgx.Tx](d, config)
}

func (n *Node) newUI(ctx context.Context, client *river.Client[pgx.Tx]) (*riverui.Handler, error) {
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(client, nil),
		Logger:    slog.New(newQuiet(n.Log.Handler())),
		Prefix:    UIPrefix,
	})
	if err != nil {
		return nil, err
	}
	return ui, ui.Start(ctx)
}

// ServeUI is River UI, to look at only: what it could cancel or delete are jobs, not deliveries.
func (n *Node) ServeUI(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "River UI is read-only here: its jobs only wake deliveries up. Use `riverhook deliveries retry|replay|cancel`.", http.StatusMethodNotAllowed)
		return
	}
	ui := n.ui.Load()
	if ui == nil {
		http.Error(w, "not ready: waiting for Postgres", http.StatusServiceUnavailable)
		return
	}
	ui.ServeHTTP(w, r)
}

// Delivering says whether this node has begun to deliver and was not told to stop, wherever Postgres is just now.
func (n *Node) Delivering() bool { return n.ready.Load() }

// Ready is nil while deliveries are worked: the database answers, its schema fits, River runs.
func (n *Node) Ready(ctx context.Context) error {
	if !n.ready.Load() {
		return errors.New("not started, or stopping")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	status, err := migrations.Inspect(ctx, n.pools.other, n.Schema)
	if err != nil {
		return errors.New("the database does not answer")
	}
	if readOnly, err := n.store.ReadOnly(ctx); err != nil || readOnly {
		return errors.New("the database is read-only: nothing is sent until it can be written to")
	}
	return status.Check(n.Schema)
}

// quiet makes River's information debug, since what it says at info is about its own services, and lets through the same
// complaint once in a while only: while Postgres is away, every one of its loops complains at every try.
type quiet struct {
	slog.Handler
	said *complaints
}

func newQuiet(h slog.Handler) quiet {
	return quiet{h, &complaints{last: make(map[string]time.Time)}}
}

// complaintInterval is how often the same complaint is let through.
const complaintInterval = 10 * time.Second

// complaints are when each was last let through. Their texts are River's constants: there are few.
type complaints struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (c *complaints) again(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.last[text]) < complaintInterval {
		return true
	}
	c.last[text] = time.Now()
	return false
}

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, demoted(level))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = demoted(r.Level)
	if r.Level >= slog.LevelWarn && q.said.again(r.Message) {
		return nil
	}
	r.AddAttrs(slog.String("component", "river"))
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.said}
}
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name), q.said} }

func demoted(level slog.Level) slog.Level {
	if level == slog.LevelInfo {
		return slog.LevelDebug
	}
	return level
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
