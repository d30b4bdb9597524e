//go:build !failpoints

package failpoint

import "net/http/httptrace"

// Hit does nothing.
func Hit(Point) {}

// Trace is trace.
func Trace(trace *httptrace.ClientTrace) *httptrace.ClientTrace { return trace }
