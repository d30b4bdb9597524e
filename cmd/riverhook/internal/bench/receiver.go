package bench

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/riverhook/riverhook/delivery"
)

const deliveryIDHeader = "X-Riverhook-" + delivery.HeaderDeliveryID

// ledger is what receivers know about the deliveries that they are to get.
type ledger struct {
	ids   []string       // delivery_uuid, by number
	index map[string]int // numbers; nobody writes to it once requests come

	requests []atomic.Int32 // per delivery
	arrived  []atomic.Int64 // first request of each, in ns since base
	base     time.Time

	distinct, strays atomic.Int64
	first            atomic.Int64  // arrival of the first request of all
	all              chan struct{} // closed when every delivery has been requested
}

func newLedger(n int) *ledger {
	l := &ledger{
		ids: make([]string, n), index: make(map[string]int, n), requests: make([]atomic.Int32, n), arrived: make([]atomic.Int64, n),
		base: time.Now(), all: make(chan struct{}),
	}
	for i := range l.ids {
		u := pgtype.UUID{Valid: true}
		_, _ = rand.Read(u.Bytes[:]) // never fails
		u.Bytes[6], u.Bytes[8] = u.Bytes[6]&0x0f|0x40, u.Bytes[8]&0x3f|0x80
		l.ids[i] = u.String()
		l.index[l.ids[i]] = i
	}
	return l
}

// now is the time since base.
func (l *ledger) now() time.Duration { return time.Since(l.base) }

// enter notes a request.
func (l *ledger) enter(r *http.Request) {
	at := int64(l.now())
	i, known := l.index[r.Header.Get(deliveryIDHeader)]
	if !known {
		l.strays.Add(1)
		return
	}
	if l.requests[i].Add(1) > 1 {
		return
	}
	l.arrived[i].Store(at)
	l.first.CompareAndSwap(0, at)
	if l.distinct.Add(1) == int64(len(l.ids)) {
		close(l.all)
	}
}

// newest are the deliveries, n at most, that were received last.
func (l *ledger) newest(n int) []string {
	order := make([]int, len(l.ids))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(l.arrived[j].Load(), l.arrived[i].Load()) })
	ids := make([]string, min(n, len(order)))
	for i := range ids {
		ids[i] = l.ids[order[i]]
	}
	return ids
}

// problem says what is wrong with the requests when every delivery was to be requested once; empty if nothing is.
func (l *ledger) problem() string {
	missing, repeated := 0, 0
	for i := range l.requests {
		switch n := l.requests[i].Load(); {
		case n == 0:
			missing++
		case n > 1:
			repeated++
		}
	}
	if missing+repeated+int(l.strays.Load()) == 0 {
		return ""
	}
	return fmt.Sprintf("of %d deliveries, %d were not received and %d more than once; %d requests were of no known delivery",
		len(l.ids), missing, repeated, l.strays.Load())
}

// receiver is an origin that deliveries go to.
type receiver struct {
	url    string
	server *http.Server
}

// receive starts a receiver on a port of its own.
func receive(ctx context.Context, answer http.HandlerFunc) (*receiver, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("receiver: %w", err)
	}
	r := &receiver{
		url:    "http://" + listener.Addr().String() + "/hook",
		server: &http.Server{Handler: answer, ReadHeaderTimeout: time.Minute},
	}
	go func() { _ = r.server.Serve(listener) }() // until close
	return r, nil
}

// close ends it, and every request that it still holds.
func (r *receiver) close() { _ = r.server.Close() }

// healthy answers 200 at once.
func healthy(l *ledger) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		l.enter(r)
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// hangs never answers.
func hangs(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// fails answers 503 at once.
func fails(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusServiceUnavailable)
}
