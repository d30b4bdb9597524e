package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/delivery/store"
)

// A node that cannot prove that it lives begins no new attempt after presenceQuiet, and has ended those in flight before
// store.DeadAfter, when its peers may take it for dead and send again what it was sending. All of these are counted from
// when the last proof was asked for.
const (
	presencePing    = 2 * time.Second // between two proofs
	presenceTry     = 2 * time.Second // for one, or for taking the lock again
	presenceRetry   = 250 * time.Millisecond
	presenceQuiet   = 5 * time.Second
	presenceEnd     = store.DeadAfter - 2*time.Second
	presenceCheck   = 250 * time.Millisecond
	presenceMention = 10 * time.Second // between two complaints
	// proveTimeout is of one proof: it asks, closes a connection that fails, and takes the lock again.
	proveTimeout = 2*presenceTry + 2*discardTimeout
	// discardTimeout is for closing a connection.
	discardTimeout = time.Second
)

// Presence is the lock by which the peers of a node know that it lives, held on a connection of its own. A nil Presence is
// that of a node behind a pooler: always there, and only its leases say whether it lives.
type Presence struct {
	pool          *pgxpool.Pool // of one connection
	store         *store.Store
	log           *slog.Logger
	node, version string
	progress      *progress.Board

	conn   *pgxpool.Conn             // while the lock is held
	lost   func()                    // ends the attempts in flight; nil before Keep
	proven atomic.Pointer[time.Time] // when the last proof was asked for
	since  atomic.Pointer[time.Time] // from when on there was no gap in which the peers may have taken this node for dead
}

// NewPresence is a presence that is not taken yet. The pool is for one connection, which nothing else may use. The board is
// told of each proof, and may be nil.
func NewPresence(pool *pgxpool.Pool, st *store.Store, log *slog.Logger, node, version string, board *progress.Board) *Presence {
	return &Presence{pool: pool, store: st, log: log, node: node, version: version, progress: board}
}

// Take takes the lock, or says why that cannot be. store.ErrPooler means that it never will.
func (p *Presence) Take(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, presenceTry)
	defer cancel()
	if err := p.store.Register(ctx, p.node, p.version); err != nil {
		return err
	}
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	asked := time.Now()
	if err := p.store.TakePresence(ctx, conn.Conn(), p.node); err != nil {
		discard(conn)
		return err
	}
	p.conn = conn
	p.proved(asked)
	return nil
}

// proved notes a proof that was asked for at a time. After a gap that was so long that the peers may have taken back what this
// node had claimed, nothing of that may be sent any more, however well it can prove now that it lives: the watch may not have
// seen the gap, in a process that was stopped.
func (p *Presence) proved(asked time.Time) {
	if p.unproven() > presenceEnd {
		now := time.Now()
		p.since.Store(&now)
		if p.lost != nil {
			p.lost()
		}
	}
	p.proven.Store(&asked)
}

// Keep keeps what Take took, and takes it again when it is lost, until ctx ends; then it gives it back. It calls lost when
// the attempts in flight must end.
func (p *Presence) Keep(ctx context.Context, lost func()) {
	p.lost = lost
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.watch(watching, lost)
	}()
	defer func() { stop(); <-done }()
	var mentioned time.Time
	for wait := presencePing; sleep(ctx, wait); {
		wait = presencePing
		end := p.progress.Begin("presence", proveTimeout)
		err := p.prove(ctx)
		end()
		if err == nil {
			continue
		}
		if ctx.Err() == nil && time.Since(mentioned) > presenceMention {
			mentioned = time.Now()
			p.log.WarnContext(ctx, "the connection that proves that this node lives is lost: taking it again", "error", err)
		}
		if p.conn == nil {
			wait = presenceRetry
		}
	}
	discard(p.conn)
	p.conn = nil
}

// prove asks for a proof, or takes the lock again.
func (p *Presence) prove(ctx context.Context) error {
	if p.conn == nil {
		return p.Take(ctx)
	}
	try, cancel := context.WithTimeout(ctx, presenceTry)
	defer cancel()
	asked := time.Now()
	holds, err := p.store.HoldsPresence(try, p.conn.Conn(), p.node)
	if err == nil && holds {
		p.proved(asked)
		return nil
	}
	if err == nil {
		err = errors.New("the session no longer holds the node's lock")
	}
	discard(p.conn)
	p.conn = nil
	return errors.Join(err, p.Take(ctx)) //nolint:wrapcheck // the second is nil when all is well again
}

// watch calls lost when there has been no proof for too long, once until there is one again.
func (p *Presence) watch(ctx context.Context, lost func()) {
	for said := false; sleep(ctx, presenceCheck); {
		away := p.unproven() > presenceEnd
		switch {
		case away && !said:
			p.log.ErrorContext(ctx, "this node cannot prove that it lives: attempts in flight are ended, and none is begun", "for", p.unproven().Round(time.Millisecond).String())
			end := p.progress.Begin("presence", presenceTry)
			lost()
			end()
		case said && !away:
			p.log.InfoContext(ctx, "this node can prove that it lives again")
		}
		said = away
	}
}

// unproven is how long ago the last proof was asked for: by the clock of which more has passed, since a machine that sleeps
// may stop one of them.
func (p *Presence) unproven() time.Duration {
	at := p.proven.Load()
	if at == nil {
		return presenceEnd + 1
	}
	return elapsed(*at)
}

// Proven says whether an attempt may begin, now.
func (p *Presence) Proven() bool { return p == nil || p.unproven() < presenceQuiet }

// ProvenSince says whether an attempt may begin, now, of what was claimed at a time: nobody can have taken it back since.
func (p *Presence) ProvenSince(claimed time.Time) bool {
	return p == nil || p.Proven() && !claimed.Before(*p.since.Load())
}

// until is t, or when what is in flight ends unless there is another proof, if that is sooner.
func (p *Presence) until(t time.Time) time.Time {
	if p == nil {
		return t
	}
	if end := time.Now().Add(presenceEnd - p.unproven()); end.Before(t) {
		return end
	}
	return t
}

// elapsed is the time since at, by the monotonic clock or by the wall clock, whichever shows more.
func elapsed(at time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(at), now.Round(0).Sub(at.Round(0)))
}

// discard closes a connection, with its session and what that holds.
func discard(conn *pgxpool.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), discardTimeout)
	defer cancel()
	_ = conn.Conn().Close(ctx)
	conn.Release()
}
