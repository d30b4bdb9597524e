package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/riverhook/riverhook/cmd/torture/internal/check"
)

// The moods of a receiver. In a good one it still fails a few requests in a hundred.
const (
	moodGood = iota
	moodHang
	moodReset
	moodGarbage
	moodBusy
)

var moods = []string{"good", "hanging", "resetting", "garbage", "busy"}

// longestHang is how long a receiver keeps quiet: longer than any attempt waits.
const longestHang = 20 * time.Second

// receivers are the other side: each on a port of its own, all with one log.
type receivers struct {
	log    *journal
	all    []*receiver
	count  atomic.Int64
	number atomic.Int64
}

type receiver struct {
	*receivers
	origin string
	server *http.Server
	mood   atomic.Int32
}

// event is a line of the receivers' log: a request when it has come in, and again when it has been answered.
type event struct {
	Number int64
	Ended  bool
	check.Request
}

func startReceivers(ctx context.Context, n int, log *journal) (*receivers, error) {
	rs := &receivers{log: log}
	for range n {
		var lc net.ListenConfig
		listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			rs.close()
			return nil, fmt.Errorf("torture: receiver: %w", err)
		}
		r := &receiver{receivers: rs, origin: "http://" + listener.Addr().String()}
		r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
		rs.all = append(rs.all, r)
		go func() { _ = r.server.Serve(listener) }() // until close
	}
	return rs, nil
}

func (rs *receivers) close() {
	for _, r := range rs.all {
		_ = r.server.Close()
	}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	q := check.Request{UUID: hr.Header.Get("Webhook-Id"), Origin: r.origin, Start: time.Now()}
	q.Attempt, _ = strconv.Atoi(hr.Header.Get("X-Riverhook-Delivery-Attempt"))
	body, err := io.ReadAll(io.LimitReader(hr.Body, 1<<20))
	var payload struct{ Token string }
	if err == nil {
		err = json.Unmarshal(body, &payload)
	}
	q.Token = payload.Token
	if err != nil { // cut off on its way: nobody can say what it would have been
		q.Token = q.UUID
	}
	number := r.number.Add(1)
	r.count.Add(1)
	r.log.add(event{Number: number, Request: q})
	r.answer(w, hr, &q)
	r.log.add(event{Number: number, Ended: true, Request: q})
}

func (r *receiver) answer(w http.ResponseWriter, hr *http.Request, q *check.Request) {
	mood := int(r.mood.Load())
	q.How = moods[mood]
	switch mood {
	case moodHang:
		wait(hr.Context(), longestHang)
		hangUp(w, q, "")
	case moodReset:
		hangUp(w, q, "")
	case moodGarbage:
		hangUp(w, q, "\x00\xff\x16\x03 not HTTP at all\r\n\r\n")
	case moodBusy:
		w.Header().Set("Retry-After", "1")
		reply(w, q, http.StatusServiceUnavailable)
	default:
		r.answerWell(w, hr, q)
	}
}

func (r *receiver) answerWell(w http.ResponseWriter, hr *http.Request, q *check.Request) {
	// Not from the seed: requests come in no order that could be repeated.
	switch chance := rand.IntN(100); { //nolint:gosec // not a secret
	case chance < 6:
		reply(w, q, http.StatusServiceUnavailable)
	case chance < 9:
		reply(w, q, http.StatusInternalServerError)
	case chance < 10:
		reply(w, q, http.StatusGone) // for good
	case chance < 12:
		hangUp(w, q, "")
	case chance < 13: // the status line decides, whatever becomes of the rest
		q.How = "cut"
		q.Status = http.StatusOK
		hangUp(w, q, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthat is n")
	case chance < 25: // so that there is always something in flight
		q.How = "slow"
		wait(hr.Context(), time.Duration(300+rand.IntN(1200))*time.Millisecond) //nolint:gosec // not a secret
		reply(w, q, http.StatusOK)
	case chance < 28:
		reply(w, q, http.StatusNoContent)
	default:
		wait(hr.Context(), time.Duration(rand.IntN(20))*time.Millisecond) //nolint:gosec // not a secret
		reply(w, q, http.StatusOK)
	}
}

// reply answers. The attempt ends before the answer is written: who has it may go on at once.
func reply(w http.ResponseWriter, q *check.Request, status int) {
	q.End, q.Status = time.Now(), status
	w.WriteHeader(status)
	q.Written = http.NewResponseController(w).Flush() == nil
}

// hangUp breaks the connection, after some last words.
func hangUp(w http.ResponseWriter, q *check.Request, words string) {
	q.End = time.Now()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if words == "" {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
	_, _ = io.WriteString(conn, words)
	_ = conn.Close()
}

// readRequests reads the receivers' log.
func readRequests(path string) ([]check.Request, error) {
	events, err := readJournal[event](path)
	if err != nil {
		return nil, err
	}
	at := make(map[int64]int)
	var requests []check.Request
	for _, e := range events {
		i, begun := at[e.Number]
		switch {
		case begun && e.Ended:
			requests[i] = e.Request
		case !begun && !e.Ended:
			at[e.Number] = len(requests)
			e.End = e.Start
			requests = append(requests, e.Request)
		default:
			return nil, errors.New("torture: the receivers' log makes no sense: request " + strconv.FormatInt(e.Number, 10))
		}
	}
	return requests, nil
}

// wait is false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
