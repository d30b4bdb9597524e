package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The names of the endpoints: the receiver's paths, and a port where nobody listens.
const (
	well    = "/well"
	flaky   = "/flaky"
	slow    = "/slow"
	broken  = "/broken"
	gone    = "/gone"
	refused = "refused"
)

const slowness = 1500 * time.Millisecond

// endpoint is one place that deliveries go to, and what has to become of them.
type endpoint struct {
	name    string
	url     string
	rows    int
	does    string
	status  string // of the row in the end
	history string // what its attempts came to: status codes or kinds of failure
}

// endpoints are all places that the demo sends to.
func (r *receiver) endpoints() []endpoint {
	return []endpoint{
		{well, r.url + well, 150, "answers 200", "succeeded", "200"},
		{slow, r.url + slow, 20, "answers 200, after 1.5 s", "succeeded", "200"},
		{flaky, r.url + flaky, 40, "answers 503 twice, then 200", "succeeded", "503 503 200"},
		{broken, r.url + broken, 10, "always answers 500", "dead_letter", "500 500 500 500"},
		{refused, "http://" + r.closed.address, 10, "nobody listens there", "dead_letter", "refused refused refused refused"},
		{gone, r.url + gone, 10, "answers 410", "dead_letter", "410"},
	}
}

// request is one that the receiver got.
type request struct {
	path     string
	delivery string // X-Riverhook-Delivery-Id
	attempt  int    // X-Riverhook-Delivery-Attempt; 0 without it
	body     string
	status   int // what it was answered
}

// receiver is the other side: an HTTP server, and a port that refuses.
type receiver struct {
	url    string
	server *http.Server
	closed *closedPort

	mu        sync.Mutex
	requests  []request
	perPath   map[string]int
	seen      map[string]int // requests of a delivery
	announced func(request)
}

func startReceiver(ctx context.Context) (*receiver, error) {
	closed, err := reserveClosedPort()
	if err != nil {
		return nil, fmt.Errorf("receiver: reserve a port that refuses: %w", err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		_ = closed.release()
		return nil, fmt.Errorf("receiver: %w", err)
	}
	r := &receiver{
		url:     "http://" + listener.Addr().String(),
		closed:  closed,
		perPath: map[string]int{},
		seen:    map[string]int{},
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = r.server.Serve(listener) }() // until close
	return r, nil
}

func (r *receiver) close() error {
	err := r.server.Close()
	if err := r.closed.release(); err != nil {
		return err
	}
	return err
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(hr.Body, 1<<20))
	attempt, _ := strconv.Atoi(hr.Header.Get("X-Riverhook-Delivery-Attempt"))
	got := request{path: hr.URL.Path, delivery: hr.Header.Get("X-Riverhook-Delivery-Id"), attempt: attempt, body: string(body)}
	answer := r.log(&got)
	if got.path == slow {
		_ = pause(hr.Context(), slowness)
	}
	w.WriteHeader(got.status)
	_, _ = io.WriteString(w, answer)
}

// log remembers a request, and decides about the answer to it.
func (r *receiver) log(got *request) (answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[got.delivery]++
	switch got.path {
	case well, slow:
		got.status, answer = 200, "thank you"
	case flaky:
		if got.status, answer = 200, "thank you"; r.seen[got.delivery] <= 2 {
			got.status, answer = 503, "busy, come back later"
		}
	case broken:
		got.status, answer = 500, "out of order"
	case gone:
		got.status, answer = 410, "this customer has left"
	default:
		got.status, answer = 404, "no such endpoint"
	}
	r.requests = append(r.requests, *got)
	r.perPath[got.path]++
	if r.announced != nil && got.delivery != "" {
		r.announced(*got)
	}
	return answer
}

// announce has f called with each request from now on.
func (r *receiver) announce(f func(request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.announced = f
}

func (r *receiver) received() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

func (r *receiver) count(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.perPath[path]
}

// closedPort is a port that is taken, so that nobody can come to listen there, and refuses connections.
type closedPort struct {
	fd      int
	address string
}

func reserveClosedPort() (*closedPort, error) {
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, err
	}
	p := &closedPort{fd: fd}
	// Bound, but without listen.
	err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	var name syscall.Sockaddr
	if err == nil {
		name, err = syscall.Getsockname(fd)
	}
	if err != nil {
		_ = p.release()
		return nil, err
	}
	p.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	return p, nil
}

func (p *closedPort) release() error { return syscall.Close(p.fd) }
