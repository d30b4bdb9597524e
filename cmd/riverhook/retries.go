package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/riverhook/riverhook/delivery"
)

type helpRetriesCmd struct{ policyFlags }

// Validate checks the settings.
func (cmd *helpRetriesCmd) Validate() error { return cmd.check() }

// middle is the jitter argument that leaves a delay as it is.
const middle = 0.5

func (cmd *helpRetriesCmd) Run(c console) error {
	p := cmd.policy()
	var b strings.Builder
	fmt.Fprintf(&b, "A delivery is tried up to %s. An attempt that fails for a reason that may pass is followed by the next\n"+
		"one after a delay: no HTTP answer (name not resolved, refused, reset, timeout, TLS or certificate, malformed answer),\n"+
		"a missing credential, or HTTP %s. Anything else but 2xx ends the\n"+
		"delivery as a dead letter at once.\n\n", count(p.MaxAttempts, "time"), p.Retryable)
	fmt.Fprintf(&b, "The delay is %s after the first attempt and doubles with each one, up to %s.", words(p.BaseDelay), words(p.MaxDelay))
	if p.Jitter > 0 {
		fmt.Fprintf(&b, " Each is up to\n%.0f %% shorter or longer, so that a failed receiver does not get everything back at one moment.", p.Jitter*100)
	}
	b.WriteString("\nA receiver's Retry-After makes it longer, never longer than the longest.\n\n")
	b.WriteString("  attempt   after the one before   after the first\n")
	var since time.Duration
	for attempt := 1; attempt <= p.MaxAttempts; attempt++ {
		var delay time.Duration
		if attempt > 1 {
			delay = p.Delay(attempt-1, 0, middle)
		}
		since += delay
		if attempt == 1 {
			fmt.Fprintf(&b, "  %7d   %-20s   %s\n", attempt, "at once", "-")
		} else {
			fmt.Fprintf(&b, "  %7d   %-20s   %s\n", attempt, words(delay), words(since))
		}
	}
	fmt.Fprintf(&b, "\nAfter %s, about %s after the first, the delivery is a dead letter.\n", count(p.MaxAttempts, "attempt"), words(since))
	fmt.Fprintf(&b, "An attempt whose node died is repeated without counting; %d of these in a row make it a dead letter.\n", delivery.MaxAbandoned)
	b.WriteString("A row's max_attempts replaces the number of attempts.\n" +
		"Try again now: riverhook deliveries retry ID. Start over: riverhook deliveries replay ID.\n" +
		"Settings: RIVERHOOK_MAX_ATTEMPTS, RIVERHOOK_BASE_DELAY, RIVERHOOK_MAX_DELAY, RIVERHOOK_JITTER, RIVERHOOK_RETRYABLE_STATUS.\n" +
		"These are the settings of this shell's environment. With the service's: set -a; . /etc/riverhook.env; riverhook help retries\n")
	_, err := fmt.Fprint(c.out, b.String())
	return err
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// words says a duration in its two largest units.
func words(d time.Duration) string {
	type unit struct {
		name string
		size time.Duration
	}
	units := []unit{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}}
	if d < time.Second {
		return d.String()
	}
	var parts []string
	for _, u := range units {
		if n := int(d / u.size); n > 0 {
			parts = append(parts, count(n, u.name))
			d -= time.Duration(n) * u.size
		}
		if len(parts) == 2 {
			break
		}
	}
	return strings.Join(parts, " ")
}
