package main

import "fmt"

type helpEventsCmd struct{}

const eventsText = `riverhook tells of its receivers: in its log, and, where RIVERHOOK_ALERT_URL says so, by a webhook of its own.

  origin.failing          5 attempts at a receiver have failed in a row, by all nodes together: no answer, or another than 2xx
  origin.recovered        and then one succeeded
  delivery.dead_lettered  a delivery will not be tried again (count: how many)

Of each type, one is sent about a receiver in five minutes, whatever the number of nodes; count says how often it
happened since the one before. What was swallowed is sent when the five minutes are over.

A line of the log counts as one of these: where RIVERHOOK_ALERT_URL is set later, the first webhook about a receiver may come
up to five minutes after the last line about it, and count what happened since that line.

An event is a delivery of organization "riverhook": it is retried, listed and replayed like any other, and signed by that
organization's secret, which you make with

  riverhook secrets create --organization riverhook --origin https://alert.example.com

Nothing that happens to these deliveries makes an event, so that there are no loops. Keep the organization for them.
The payload:

  {"type": "origin.failing", "origin": "https://example.com", "count": 1, "at": "2026-01-01T12:00:00Z", "failures": 6,
   "failing_since": "2026-01-01T12:00:00Z", "delivery_id": 42, "failure_kind": "status", "status_code": 503, "node": "host-1a2b3c4d"}

  type           one of the three; there may be more in later versions
  origin         the receiver: scheme, host and port; null for endpoint URLs that have none
  count          how often it happened since the last event of this type about this receiver
  at             when it was told, by the database's clock
  failures       attempts in a row that failed; of origin.failing
  failing_since  since when it fails, or had failed; not of delivery.dead_lettered
  delivery_id    the last delivery that failed: riverhook deliveries show ID; not of origin.recovered
  failure_kind   why its last attempt failed (status, timeout, dns, refused, reset, tls, protocol, ...); null after an abandoned one
  status_code    what the receiver answered; null where it did not
  node           which node tells

A node tells every five seconds what it has seen. What it saw since then is lost when it is killed: deliveries never are.
At most 100 events are sent in one go; where more than 10,000 receivers fail within five seconds, of some nothing is told.
Which receivers fail right now: riverhook status.
`

// Run explains events.
func (helpEventsCmd) Run(c console) error {
	_, err := fmt.Fprint(c.out, eventsText)
	return err
}
