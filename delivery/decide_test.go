package delivery_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
)

// noon is a fixed "now" of the tests.
var noon = time.Date(2026, time.March, 4, 12, 0, 0, 0, time.UTC)

const (
	middle  = 0.5             // the jitter argument that leaves a delay as it is
	almost1 = 1 - 1.0/(1<<53) // the largest jitter argument
	maxNum  = math.MaxInt64   // as seconds: far more than a Duration holds
	longest = time.Duration(1<<63 - 1)
)

// statusRetried are the statuses that the default policy retries, written out on purpose.
var statusRetried = map[int]bool{
	408: true, 425: true, 429: true, 500: true, 502: true, 503: true, 504: true,
	520: true, 521: true, 522: true, 523: true, 524: true, 529: true, 530: true,
}

func TestDecideByStatus(t *testing.T) {
	t.Parallel()
	for status := -1; status <= 1000; status++ {
		got := delivery.Decide(&delivery.Delivery{}, delivery.Observation{StatusCode: status, Error: "HTTP text"}, delivery.DefaultPolicy(), noon, middle)
		var want delivery.Decision
		switch {
		case status >= 200 && status <= 299:
			want = delivery.Decision{Outcome: delivery.OutcomeSucceeded, Status: delivery.StatusSucceeded}
		case statusRetried[status]:
			want = delivery.Decision{
				Outcome: delivery.OutcomeTransient, Failure: delivery.FailureStatus, Status: delivery.StatusPending,
				Delay: 30 * time.Second, Error: "HTTP text",
			}
		default:
			want = delivery.Decision{
				Outcome: delivery.OutcomePermanent, Failure: delivery.FailureStatus, Status: delivery.StatusDeadLetter, Error: "HTTP text",
			}
		}
		assert.Equal(t, want, got, "status %d", status)
	}
}

// The statuses that matter by name: both sides of each boundary.
func TestDecideStatusBoundaries(t *testing.T) {
	t.Parallel()
	const ok, again, never = delivery.OutcomeSucceeded, delivery.OutcomeTransient, delivery.OutcomePermanent
	for status, want := range map[int]delivery.Outcome{
		0: never, 100: never, 101: never, 199: never,
		200: ok, 201: ok, 202: ok, 204: ok, 206: ok, 226: ok, 299: ok,
		300: never, 301: never, 302: never, 303: never, 304: never, 307: never, 308: never, 399: never,
		400: never, 401: never, 403: never, 404: never, 405: never, 407: never,
		408: again, 409: never, 410: never, 422: never, 424: never,
		425: again, 426: never, 428: never,
		429: again, 430: never, 499: never,
		500: again, 501: never,
		502: again, 503: again, 504: again, 505: never,
		519: never, 520: again, 521: again, 522: again, 523: again, 524: again, 525: never,
		528: never, 529: again, 530: again, 531: never, 599: never, 600: never,
	} {
		got := delivery.Decide(&delivery.Delivery{}, delivery.Observation{StatusCode: status}, delivery.DefaultPolicy(), noon, middle)
		assert.Equal(t, want, got.Outcome, "status %d", status)
	}
}

func TestDecideUsesThePolicysStatuses(t *testing.T) {
	t.Parallel()
	set, err := delivery.ParseStatusSet("404,500-501")
	require.NoError(t, err)
	p := delivery.DefaultPolicy()
	p.Retryable = set
	for status, want := range map[int]delivery.Outcome{
		403: delivery.OutcomePermanent, 404: delivery.OutcomeTransient, 405: delivery.OutcomePermanent,
		499: delivery.OutcomePermanent, 500: delivery.OutcomeTransient, 501: delivery.OutcomeTransient, 502: delivery.OutcomePermanent,
		503: delivery.OutcomePermanent, 429: delivery.OutcomePermanent,
	} {
		got := delivery.Decide(&delivery.Delivery{}, delivery.Observation{StatusCode: status}, p, noon, middle)
		assert.Equal(t, want, got.Outcome, "status %d", status)
	}
}

// The closed list of kinds, and what each means. FailureNone and FailureStatus are decided by the status.
var transientKind = map[delivery.FailureKind]bool{
	delivery.FailureTimeout:    true,
	delivery.FailureDNS:        true,
	delivery.FailureRefused:    true,
	delivery.FailureReset:      true,
	delivery.FailureTLS:        true,
	delivery.FailureProtocol:   true,
	delivery.FailureCredential: true,
	delivery.FailureBlocked:    false,
	delivery.FailureInvalid:    false,
	delivery.FailureInternal:   false,
}

func TestDecideByFailureKind(t *testing.T) {
	t.Parallel()
	for kind, transient := range transientKind {
		got := delivery.Decide(&delivery.Delivery{}, delivery.Observation{Failure: kind, Error: "cause of " + string(kind)}, delivery.DefaultPolicy(), noon, middle)
		want := delivery.Decision{
			Outcome: delivery.OutcomePermanent, Failure: kind, Status: delivery.StatusDeadLetter, Error: "cause of " + string(kind),
		}
		if transient {
			want.Outcome, want.Status, want.Delay = delivery.OutcomeTransient, delivery.StatusPending, 30*time.Second
		}
		assert.Equal(t, want, got, "kind %q", kind)
	}
	unknown := delivery.Decide(&delivery.Delivery{}, delivery.Observation{Failure: "new", Error: "?"}, delivery.DefaultPolicy(), noon, middle)
	assert.Equal(t, delivery.OutcomePermanent, unknown.Outcome, "a kind that nobody knows must not loop")
	assert.Equal(t, delivery.StatusDeadLetter, unknown.Status)
}

// Every constant of type FailureKind in the source stands in this file's list: a new kind must be decided on here as well.
func TestFailureKindsAreAllTested(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "decide.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	declared := []string{}
	for _, decl := range file.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			value := spec.(*ast.ValueSpec)
			if name, ok := value.Type.(*ast.Ident); !ok || name.Name != "FailureKind" {
				continue
			}
			require.Len(t, value.Values, 1)
			text, err := strconv.Unquote(value.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			declared = append(declared, text)
		}
	}
	tested := []string{string(delivery.FailureNone), string(delivery.FailureStatus)}
	for kind := range transientKind {
		tested = append(tested, string(kind))
	}
	assert.ElementsMatch(t, tested, declared)
	assert.ElementsMatch(t, []string{
		"", "status", "timeout", "dns", "refused", "reset", "tls", "protocol", "blocked", "invalid", "credential", "internal",
	}, declared, "the list is closed: the database and the metrics know it too")
}

func TestDecideZeroObservationIsNoSuccess(t *testing.T) {
	t.Parallel()
	got := delivery.Decide(&delivery.Delivery{}, delivery.Observation{}, delivery.Policy{}, noon, middle)
	assert.Equal(t, delivery.OutcomePermanent, got.Outcome)
	assert.Equal(t, delivery.StatusDeadLetter, got.Status)
	assert.Equal(t, delivery.FailureStatus, got.Failure)
}

func TestDecideZeroPolicyDoesNotLoop(t *testing.T) {
	t.Parallel()
	got := delivery.Decide(&delivery.Delivery{}, delivery.Observation{Failure: delivery.FailureTimeout}, delivery.Policy{}, noon, middle)
	assert.Equal(t, delivery.OutcomeTransient, got.Outcome)
	assert.Equal(t, delivery.StatusDeadLetter, got.Status)
}

func TestDecideSuccessForgetsErrorAndDelay(t *testing.T) {
	t.Parallel()
	got := delivery.Decide(
		&delivery.Delivery{AttemptCount: 100, MaxAttempts: 1, AbandonedCount: 4, AbandonedTotal: 4},
		delivery.Observation{StatusCode: 204, Error: "the answer broke off", RetryAfter: "60"},
		delivery.DefaultPolicy(), noon, middle)
	assert.Equal(t, delivery.Decision{Outcome: delivery.OutcomeSucceeded, Status: delivery.StatusSucceeded}, got)
}

func TestDecideExhaustion(t *testing.T) {
	t.Parallel()
	const parked, pending = delivery.StatusDeadLetter, delivery.StatusPending
	for _, test := range []struct {
		name       string
		own        int // the row's max_attempts
		policy     int
		count      int // attempt_count before this attempt
		abandoned  int // of these
		wantStatus delivery.Status
		wantDelay  time.Duration
	}{
		{"own, one before the last", 5, 20, 3, 0, pending, 4 * time.Minute},
		{"own, the last", 5, 20, 4, 0, parked, 0},
		{"own, over it", 5, 20, 5, 0, parked, 0},
		{"own of one", 1, 20, 0, 0, parked, 0},
		{"own of two", 2, 20, 0, 0, pending, 30 * time.Second},
		{"own above the policy's", 30, 20, 19, 0, pending, 6 * time.Hour},
		{"policy's, one before the last", 0, 20, 18, 0, pending, 6 * time.Hour},
		{"policy's, the last", 0, 20, 19, 0, parked, 0},
		{"policy's of one", 0, 1, 0, 0, parked, 0},
		{"negative is not a number of its own", -1, 2, 0, 0, pending, 30 * time.Second},
		{"abandoned do not count: the last", 5, 20, 7, 3, parked, 0},
		{"abandoned do not count: one before", 5, 20, 7, 4, pending, 4 * time.Minute},
		{"abandoned do not count for the policy's: the last", 0, 3, 6, 4, parked, 0},
		{"abandoned do not count for the policy's: one before", 0, 3, 6, 5, pending, time.Minute},
		{"only abandoned ones before: as the first", 5, 20, 4, 4, pending, 30 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := delivery.DefaultPolicy()
			p.MaxAttempts = test.policy
			d := &delivery.Delivery{MaxAttempts: test.own, AttemptCount: test.count, AbandonedTotal: test.abandoned}
			for _, o := range []delivery.Observation{
				{StatusCode: 503, Error: "HTTP 503: busy"},
				{Failure: delivery.FailureTimeout, Error: "timeout"},
			} {
				got := delivery.Decide(d, o, p, noon, middle)
				assert.Equal(t, delivery.OutcomeTransient, got.Outcome, "what it showed does not depend on what is left")
				assert.Equal(t, test.wantStatus, got.Status)
				assert.Equal(t, test.wantDelay, got.Delay)
				assert.Equal(t, o.Error, got.Error)
			}
			want := p.MaxAttempts
			if test.own > 0 {
				want = test.own
			}
			assert.Equal(t, want, d.MaxAttemptsUnder(p))
		})
	}
}

func TestDecidePermanentDoesNotWaitForExhaustion(t *testing.T) {
	t.Parallel()
	d := &delivery.Delivery{MaxAttempts: 100}
	got := delivery.Decide(d, delivery.Observation{StatusCode: 404, Error: "HTTP 404: no", RetryAfter: "10"}, delivery.DefaultPolicy(), noon, middle)
	assert.Equal(t, delivery.Decision{
		Outcome: delivery.OutcomePermanent, Failure: delivery.FailureStatus, Status: delivery.StatusDeadLetter, Error: "HTTP 404: no",
	}, got)
}

func TestDecideDoesNotChangeTheDelivery(t *testing.T) {
	t.Parallel()
	d := &delivery.Delivery{ID: 7, MaxAttempts: 3, AttemptCount: 2, AbandonedCount: 1, AbandonedTotal: 1, Claim: 9}
	before := *d
	for _, o := range []delivery.Observation{{StatusCode: 200}, {StatusCode: 503}, {StatusCode: 404}, {Abandoned: true}} {
		delivery.Decide(d, o, delivery.DefaultPolicy(), noon, middle)
	}
	assert.Equal(t, before, *d)
}

func TestDecideAbandoned(t *testing.T) {
	t.Parallel()
	const why = "node a-1 did not report by the end of its lease"
	for _, test := range []struct {
		before int // abandoned in a row before this one
		status delivery.Status
		delay  time.Duration
	}{
		{0, delivery.StatusPending, 0},
		{1, delivery.StatusPending, 30 * time.Second},
		{2, delivery.StatusPending, time.Minute},
		{3, delivery.StatusPending, 2 * time.Minute},
		{4, delivery.StatusDeadLetter, 0},
		{5, delivery.StatusDeadLetter, 0},
	} {
		// Of a row that has long used up its attempts otherwise: abandoned ones do not depend on that.
		d := &delivery.Delivery{AbandonedCount: test.before, AbandonedTotal: test.before + 3, AttemptCount: 50, MaxAttempts: 1}
		// Whatever else the observation says, nobody knows the outcome.
		o := delivery.Observation{Abandoned: true, Error: why, StatusCode: 200, Failure: delivery.FailureTimeout, RetryAfter: "3600"}
		got := delivery.Decide(d, o, delivery.DefaultPolicy(), noon, middle)
		assert.Equal(t, delivery.OutcomeAbandoned, got.Outcome, "after %d", test.before)
		assert.Equal(t, delivery.FailureNone, got.Failure, "after %d", test.before)
		assert.Equal(t, test.status, got.Status, "after %d", test.before)
		assert.Equal(t, test.delay, got.Delay, "after %d", test.before)
		assert.Contains(t, got.Error, why, "after %d", test.before)
		if test.status == delivery.StatusDeadLetter {
			assert.Contains(t, got.Error, strconv.Itoa(test.before+1)+" attempts in a row", "the error explains why it was parked")
		} else {
			assert.Equal(t, why, got.Error, "after %d", test.before)
		}
	}
	assert.Equal(t, 5, delivery.MaxAbandoned)
}

func TestDecideAbandonedBacksOffWithJitterAndCap(t *testing.T) {
	t.Parallel()
	p := delivery.DefaultPolicy()
	d := &delivery.Delivery{AbandonedCount: 3}
	o := delivery.Observation{Abandoned: true, Error: "gone"}
	assert.Equal(t, 96*time.Second, delivery.Decide(d, o, p, noon, 0).Delay, "2m less 20 %")
	p.MaxDelay = 50 * time.Second
	assert.Equal(t, 50*time.Second, delivery.Decide(d, o, p, noon, middle).Delay)
}

func TestDecideRetryAfter(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, header string
		want         time.Duration
	}{
		{"none", "", 30 * time.Second},
		{"smaller", "29", 30 * time.Second},
		{"as large", "30", 30 * time.Second},
		{"larger", "31", 31 * time.Second},
		{"just under the cap", "21599", 6*time.Hour - time.Second},
		{"the cap", "21600", 6 * time.Hour},
		{"over the cap", "21601", 6 * time.Hour},
		{"absurd", strings.Repeat("9", 60), 6 * time.Hour},
		{"a date, held against now", noon.Add(90 * time.Second).Format("Mon, 02 Jan 2006 15:04:05 GMT"), 90 * time.Second},
		{"a date that has passed", noon.Add(-time.Hour).Format("Mon, 02 Jan 2006 15:04:05 GMT"), 30 * time.Second},
		{"a date in years", noon.AddDate(5, 0, 0).Format("Mon, 02 Jan 2006 15:04:05 GMT"), 6 * time.Hour},
		{"garbage", "soon", 30 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := delivery.Observation{StatusCode: 429, Error: "HTTP 429: slow down", RetryAfter: test.header}
			got := delivery.Decide(&delivery.Delivery{}, o, delivery.DefaultPolicy(), noon, middle)
			assert.Equal(t, delivery.StatusPending, got.Status)
			assert.Equal(t, test.want, got.Delay)
		})
	}
}

func TestDelayDoubles(t *testing.T) {
	t.Parallel()
	p := delivery.Policy{BaseDelay: 3 * time.Second, MaxDelay: longest, Jitter: 0.2}
	want := 3 * time.Second
	for attempt := 1; attempt <= 31; attempt++ { // 3 s * 2^30 is about 102 years
		assert.Equal(t, want, p.Delay(attempt, 0, middle), "attempt %d", attempt)
		want *= 2
	}
	assert.Equal(t, 3*time.Second, p.Delay(0, 0, middle))
	assert.Equal(t, 3*time.Second, p.Delay(-1, 0, middle))
	assert.Equal(t, 3*time.Second, p.Delay(math.MinInt, 0, middle))
}

func TestDelayCap(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cap     time.Duration
		attempt int
		want    time.Duration
	}{
		{8 * time.Second, 3, 4 * time.Second},
		{8 * time.Second, 4, 8 * time.Second},
		{8 * time.Second, 5, 8 * time.Second},
		{8*time.Second - 1, 3, 4 * time.Second},
		{8*time.Second - 1, 4, 8*time.Second - 1},
		{8*time.Second + 1, 4, 8 * time.Second},
		{8*time.Second + 1, 5, 8*time.Second + 1},
		{time.Millisecond, 1, time.Millisecond},
	} {
		p := delivery.Policy{BaseDelay: time.Second, MaxDelay: test.cap}
		assert.Equal(t, test.want, p.Delay(test.attempt, 0, middle), "cap %s, attempt %d", test.cap, test.attempt)
	}
}

func TestDelayDoesNotOverflow(t *testing.T) {
	t.Parallel()
	for _, attempt := range []int{62, 63, 64, 65, 1000, 1024, 1025, 1026, math.MaxInt32, math.MaxInt - 1, math.MaxInt} {
		for _, jitter := range []float64{0, middle, almost1} {
			for _, limit := range []time.Duration{6 * time.Hour, longest} {
				p := delivery.Policy{BaseDelay: 30 * time.Second, MaxDelay: limit, Jitter: 0.2}
				assert.Equal(t, limit, p.Delay(attempt, 0, jitter), "attempt %d, jitter %v", attempt, jitter)
				assert.Equal(t, limit, p.Delay(attempt, longest, jitter), "attempt %d, jitter %v", attempt, jitter)
			}
		}
	}
}

// With the whole delay up to chance its least value is nothing, never less, however large the power of two is.
func TestDelayWithFullJitterIsNeverNegative(t *testing.T) {
	t.Parallel()
	p := delivery.Policy{BaseDelay: 30 * time.Second, MaxDelay: 6 * time.Hour, Jitter: 1}
	for _, attempt := range []int{1, 2, 63, 64, 990, 1000, 1024, 1025, 1026, math.MaxInt} {
		for _, jitter := range []float64{0, math.SmallestNonzeroFloat64, middle, almost1} {
			got := p.Delay(attempt, 0, jitter)
			assert.GreaterOrEqual(t, got, time.Duration(0), "attempt %d, jitter %v", attempt, jitter)
			assert.LessOrEqual(t, got, p.MaxDelay, "attempt %d, jitter %v", attempt, jitter)
			got = p.Delay(attempt, time.Minute, jitter)
			assert.GreaterOrEqual(t, got, time.Minute, "Retry-After holds: attempt %d, jitter %v", attempt, jitter)
			assert.LessOrEqual(t, got, p.MaxDelay, "attempt %d, jitter %v", attempt, jitter)
		}
	}
}

// No delay at all stays none.
func TestDelayWithoutBaseIsNeverNegative(t *testing.T) {
	t.Parallel()
	p := delivery.Policy{BaseDelay: 0, MaxDelay: time.Hour, Jitter: 0.2}
	for _, attempt := range []int{1, 2, 1024, 1025, 1026, math.MaxInt} {
		assert.Zero(t, p.Delay(attempt, 0, middle), "attempt %d", attempt)
		assert.Equal(t, time.Minute, p.Delay(attempt, time.Minute, middle), "attempt %d", attempt)
	}
}

func TestDelayJitter(t *testing.T) {
	t.Parallel()
	const base = 100 * time.Second
	for _, test := range []struct {
		jitter, argument float64
		least, most      time.Duration
	}{
		{0, 0, base, base},
		{0, middle, base, base},
		{0, almost1, base, base},
		{0.2, 0, 80 * time.Second, 80 * time.Second},
		{0.2, 0.25, 90 * time.Second, 90 * time.Second},
		{0.2, middle, base, base},
		{0.2, 0.75, 110 * time.Second, 110 * time.Second},
		{0.2, almost1, 120*time.Second - time.Microsecond, 120 * time.Second},
		{1, 0, 0, 0},
		{1, middle, base, base},
		{1, almost1, 200*time.Second - time.Microsecond, 200 * time.Second},
	} {
		p := delivery.Policy{BaseDelay: base, MaxDelay: time.Hour, Jitter: test.jitter}
		got := p.Delay(1, 0, test.argument)
		// A nanosecond for what floating point rounds.
		assert.GreaterOrEqual(t, got, test.least-1, "jitter %v at %v", test.jitter, test.argument)
		assert.LessOrEqual(t, got, test.most+1, "jitter %v at %v", test.jitter, test.argument)
		twice := p.Delay(2, 0, test.argument)
		assert.InDelta(t, float64(2*got), float64(twice), 2, "jitter is a share of the delay: %v at %v", test.jitter, test.argument)
	}
}

// Jitter comes before Retry-After and the cap: neither is gone below or over.
func TestDelayJitterKeepsRetryAfterAndCap(t *testing.T) {
	t.Parallel()
	p := delivery.Policy{BaseDelay: 100 * time.Second, MaxDelay: 110 * time.Second, Jitter: 0.2}
	for _, test := range []struct {
		retryAfter time.Duration
		jitter     float64
		want       time.Duration
	}{
		{0, 0, 80 * time.Second},
		{80*time.Second - 1, 0, 80 * time.Second},
		{80*time.Second + 1, 0, 80*time.Second + 1},
		{90 * time.Second, 0, 90 * time.Second},
		{90 * time.Second, middle, 100 * time.Second},
		{0, almost1, 110 * time.Second},
		{109 * time.Second, 0, 109 * time.Second},
		{110 * time.Second, 0, 110 * time.Second},
		{111 * time.Second, 0, 110 * time.Second},
		{longest, 0, 110 * time.Second},
		{-time.Hour, 0, 80 * time.Second},
	} {
		assert.Equal(t, test.want, p.Delay(1, test.retryAfter, test.jitter), "retry after %s at %v", test.retryAfter, test.jitter)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const (
		imf     = "Mon, 02 Jan 2006 15:04:05 GMT"
		rfc850  = "Monday, 02-Jan-06 15:04:05 MST"
		asctime = "Mon Jan _2 15:04:05 2006"
	)
	for _, test := range []struct {
		name, header string
		want         time.Duration
	}{
		{"empty", "", 0},
		{"spaces only", " \t ", 0},
		{"zero", "0", 0},
		{"one", "1", time.Second},
		{"two minutes", "120", 2 * time.Minute},
		{"leading zeros", "000120", 2 * time.Minute},
		{"spaces around", "  120\t", 2 * time.Minute},
		{"a space inside", "1 20", 0},
		{"negative", "-5", 0},
		{"signed", "+5", 0},
		{"a fraction", "1.5", 0},
		{"an exponent", "1e3", 0},
		{"hexadecimal", "0x10", 0},
		{"underscore", "1_000", 0},
		{"digits that are not ASCII", "१२०", 0},
		{"a unit", "5s", 0},
		{"a list", "5, 6", 0},
		{"the largest that fits", strconv.FormatInt(maxNum/int64(time.Second), 10), maxNum / time.Second * time.Second},
		{"one more", strconv.FormatInt(maxNum/int64(time.Second)+1, 10), longest},
		{"the largest int64", "9223372036854775807", longest},
		{"more than an int64", "9223372036854775808", longest},
		{"more than a uint64", "18446744073709551616", longest},
		{"hundred digits", strings.Repeat("9", 100), longest},
		{"hundred zeros", strings.Repeat("0", 100), 0},
		{"hundred zeros and a one", strings.Repeat("0", 100) + "1", time.Second},

		{"date, now", noon.Format(imf), 0},
		{"date, a second ahead", noon.Add(time.Second).Format(imf), time.Second},
		{"date, a second ago", noon.Add(-time.Second).Format(imf), 0},
		{"date, spaces around", " " + noon.Add(time.Hour).Format(imf) + " ", time.Hour},
		{"date, RFC 850, ahead", noon.Add(time.Hour).Format(rfc850), time.Hour},
		{"date, RFC 850, ago", noon.Add(-time.Hour).Format(rfc850), 0},
		{"date, asctime, ahead", noon.Add(time.Hour).Format(asctime), time.Hour},
		{"date, asctime, ago", noon.Add(-time.Hour).Format(asctime), 0},
		{"date, as the standard has it", "Sun, 06 Nov 1994 08:49:37 GMT", 0},
		{"date, centuries ahead", "Fri, 31 Dec 9999 23:59:59 GMT", longest},
		{"date, of another standard", noon.Add(time.Hour).Format(time.RFC3339), 0},
		{"date, impossible", "Mon, 32 Jan 2096 15:04:05 GMT", 0},
		{"garbage", "soon", 0},
		{"NUL", "\x00", 0},
		{"invalid UTF-8", "\xff\xfe", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, test.want, delivery.RetryAfter(test.header, noon))
			// Also when now stands in another zone, or holds a monotonic reading.
			assert.Equal(t, test.want, delivery.RetryAfter(test.header, noon.In(time.FixedZone("", 5*3600))))
		})
	}
}

// run takes d through p with attempts that all time out, and returns the delays between them.
func run(t *testing.T, p delivery.Policy) (delays []time.Duration, last delivery.Decision) {
	t.Helper()
	d := &delivery.Delivery{}
	for range 1000 {
		last = delivery.Decide(d, delivery.Observation{Failure: delivery.FailureTimeout, Error: "timeout"}, p, noon, middle)
		d.AttemptCount++
		if last.Status != delivery.StatusPending {
			assert.Zero(t, last.Delay)
			return delays, last
		}
		delays = append(delays, last.Delay)
	}
	require.Fail(t, "retried for ever")
	return nil, last
}

func TestOriginalProfile(t *testing.T) {
	t.Parallel()
	p := delivery.DefaultPolicy()
	p.MaxAttempts, p.BaseDelay, p.MaxDelay, p.Jitter = 5, 30*time.Second, 10*time.Minute, 0
	delays, last := run(t, p)
	assert.Equal(t, []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute}, delays)
	assert.Equal(t, delivery.Decision{
		Outcome: delivery.OutcomeTransient, Failure: delivery.FailureTimeout, Status: delivery.StatusDeadLetter, Error: "timeout",
	}, last)

	p.MaxAttempts = 8
	delays, _ = run(t, p)
	assert.Equal(t, []time.Duration{
		30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute,
	}, delays, "capped at ten minutes")
}

func TestDefaultPolicyLastsTwoAndAHalfDays(t *testing.T) {
	t.Parallel()
	p := delivery.DefaultPolicy()
	assert.Equal(t, 20, p.MaxAttempts)
	assert.Equal(t, 30*time.Second, p.BaseDelay)
	assert.Equal(t, 6*time.Hour, p.MaxDelay)
	assert.InDelta(t, 0.2, p.Jitter, 0)
	delays, last := run(t, p)
	require.Len(t, delays, 19)
	assert.Equal(t, delivery.StatusDeadLetter, last.Status)
	var sum time.Duration
	for _, delay := range delays {
		sum += delay
	}
	// 30 s * (2^10 - 1), then nine times 6 h.
	assert.Equal(t, 62*time.Hour+31*time.Minute+30*time.Second, sum)
	assert.InDelta(t, 2.5*24, sum.Hours(), 4)
}

func TestAttemptAndFence(t *testing.T) {
	t.Parallel()
	d := &delivery.Delivery{ID: 3, Claim: 5, ClaimedBy: "host-1", AttemptCount: 0}
	assert.Equal(t, 1, d.Attempt())
	d.AttemptCount = 4
	assert.Equal(t, 5, d.Attempt())
	assert.Equal(t, delivery.Fence{ID: 3, Claim: 5, Node: "host-1"}, d.Fence())
}
