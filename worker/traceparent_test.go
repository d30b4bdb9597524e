package worker

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/riverhook/riverhook/delivery"
)

const testTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// Where nobody traces, the delivery's own traceparent is sent on, before a custom one; what is not valid is not.
func TestSendTraceparent(t *testing.T) {
	t.Parallel()
	got := make(chan []string, 1)
	w := sender(t, ample, roundTrip(func(r *http.Request) (*http.Response, error) {
		got <- r.Header.Values("traceparent")
		return nil, errors.New("not here")
	}))
	for _, c := range []struct {
		stored        string
		custom        []byte
		want, dropped []string
	}{
		{"", nil, nil, nil},
		{testTrace, nil, []string{testTrace}, nil},
		{testTrace, custom(t, "TraceParent", "mine"), []string{testTrace}, []string{"Traceparent"}},
		{"", custom(t, "TraceParent", "mine"), []string{"mine"}, nil},
		{"no trace at all\r\nX-Evil: 1", custom(t, "TraceParent", "mine"), []string{"mine"}, nil},
		{testTrace + "\r\nX-Evil: 1", nil, nil, nil},
	} {
		d := post("http://receiver.example/")
		d.Traceparent, d.CustomHeaders = c.stored, c.custom
		s := w.send(t.Context(), d)
		assert.Equal(t, c.want, <-got, "%q", c.stored)
		assert.Equal(t, c.dropped, s.dropped, "%q", c.stored)
	}
}

// The hook that traces is told how each attempt ended, also one that failed before it was sent, or by a fault of ours.
func TestSendTrace(t *testing.T) {
	t.Parallel()
	var header string
	broken := false
	w := sender(t, ample, roundTrip(func(r *http.Request) (*http.Response, error) {
		if header = r.Header.Get("Traceparent"); broken {
			panic("a fault")
		}
		return nil, errors.New("not here")
	}))
	var ended []delivery.Observation
	w.hooks.Trace = func(d *delivery.Delivery) (string, func(delivery.Observation)) {
		assert.Equal(t, "stored", d.Traceparent)
		return testTrace, func(o delivery.Observation) { ended = append(ended, o) }
	}
	d := post("http://receiver.example/")
	d.Traceparent = "stored"
	w.send(t.Context(), d)
	assert.Equal(t, testTrace, header)
	broken = true
	w.send(t.Context(), d)
	d.EndpointURL = "none"
	w.send(t.Context(), d)
	if assert.Len(t, ended, 3) {
		assert.Equal(t, delivery.FailureProtocol, ended[0].Failure)
		assert.Equal(t, delivery.FailureInternal, ended[1].Failure)
		assert.Equal(t, delivery.FailureInvalid, ended[2].Failure)
	}
}
