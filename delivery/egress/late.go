package egress

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// ErrLate says that a request was not begun because it had become too late: nothing of it was written.
var ErrLate = errors.New("too late to begin the request")

// epoch is what a conn counts from, by the monotonic clock.
var epoch = time.Now()

// conn is a connection whose next write may be refused: see BeginBefore.
type conn struct {
	net.Conn
	before atomic.Int64 // since epoch; 0: whenever
}

// BeginBefore lets the next write on a connection of NewTransport's pass only before a time, by the monotonic clock; later
// it fails with ErrLate. The process may be stopped at any place, for any time, and this check is the last thing before
// the bytes go out. c is what httptrace.GotConnInfo has.
func BeginBefore(c net.Conn, before time.Time) {
	if encrypted, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = encrypted.NetConn()
	}
	if ours, ok := c.(*conn); ok {
		ours.before.Store(max(1, int64(before.Sub(epoch))))
	}
}

func (c *conn) Write(b []byte) (int, error) {
	if before := c.before.Load(); before != 0 {
		if int64(time.Since(epoch)) >= before {
			return 0, ErrLate
		}
		c.before.Store(0)
	}
	return c.Conn.Write(b)
}
