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
)

var (
	armed  Point // set before anything runs
	at     int64
	passes atomic.Int64
)

// Arm has the process killed at a point: "after-claim", or "after-claim:3" for the third pass. "" is never.
func Arm(spec string) error {
	if spec == "" {
		return nil
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

// Hit kills the process, as kill -9 does, when it is to die here. It does not return then.
func Hit(p Point) {
	if p != armed || passes.Add(1) != at {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s\n", p)
	process, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {} // the signal is on its way
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
