//go:build failpoints

package failpoint

import (
	"fmt"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	armed  Point // set before anything runs
	at     int64
	signal os.Signal = syscall.SIGKILL
	passes atomic.Int64
)

// Arm has the process killed at a point: "after-claim", or "after-claim:3" for the third pass. "stop:after-claim" has it
// stopped instead, until it gets SIGCONT. "" is never.
func Arm(spec string) error {
	if spec == "" {
		return nil
	}
	if rest, ok := strings.CutPrefix(spec, "stop:"); ok {
		spec, signal = rest, syscall.SIGSTOP
	}
	name, count, counted := strings.Cut(spec, ":")
	if !slices.Contains(Points, Point(name)) {
		return fmt.Errorf("failpoint: there is no %q: %v", name, Points)
	}
	armed, at = Point(name), 1
	if counted {
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 {
			return fmt.Errorf("failpoint: %q: not a number of passes", spec)
		}
		at = int64(n)
	}
	return nil
}

// Hit kills the process, as kill -9 does, when it is to die here, and does not return then; or it stops it for a while.
func Hit(p Point) {
	if p != armed || passes.Add(1) != at {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s\n", p)
	process, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = process.Signal(signal)
	}
	if err != nil {
		panic(err)
	}
	if signal == syscall.SIGKILL {
		select {} // it is on its way
	}
	time.Sleep(time.Second) // all threads have stopped by then, and go on later
}

// Trace is trace with AfterWrite in it.
func Trace(trace *httptrace.ClientTrace) *httptrace.ClientTrace {
	trace.WroteRequest = func(info httptrace.WroteRequestInfo) {
		if info.Err == nil {
			Hit(AfterWrite)
		}
	}
	return trace
}
