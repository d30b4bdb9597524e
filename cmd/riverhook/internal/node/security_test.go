package node_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/egress"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// keys is a keyring of one key that differs with each number.
func keys(t testing.TB, number byte) *credential.Keyring {
	t.Helper()
	ring, err := credential.ParseKeyring(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{number}, 32)))
	require.NoError(t, err)
	return ring
}

// setCredential stores a credential and returns its uuid.
func setCredential(t testing.TB, db *pgtest.DB, ring *credential.Keyring, organization, name string, kind credential.Type, header, secret string) string {
	t.Helper()
	parsed, err := credential.Parse(kind, header, []byte(secret))
	require.NoError(t, err)
	uuid, _, err := store.New(db.Pool, db.Schema).SetCredential(context.Background(), organization, name, string(kind), "", func(uuid, organization string) ([]byte, error) {
		return ring.Seal(parsed.Encode(), uuid, organization)
	})
	require.NoError(t, err)
	return uuid
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ring := keys(t, 1)
	c := config(t, db)
	c.Keys = ring
	start(t, c)
	for _, test := range []struct {
		kind                 credential.Type
		header, secret       string
		wantHeader, wantText string
	}{
		{credential.TypeBearerToken, "", "tok-1\n", "Authorization", "Bearer tok-1"},
		{credential.TypeBasicAuth, "", "me:pa:ss", "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("me:pa:ss"))},
		{credential.TypeAPIKey, "", "key-1", "X-Api-Key", "key-1"},
		{credential.TypeAPIKey, "X-Their-Key", "key-2", "X-Their-Key", "key-2"},
		{credential.TypeCustomHeader, "X-Custom-Auth", "value", "X-Custom-Auth", "value"},
		{credential.TypeNone, "", "", "Authorization", ""},
	} {
		r := newReceiver(t, nil)
		uuid := setCredential(t, db, ring, "acme", string(test.kind)+test.header, test.kind, test.header, test.secret)
		id := insert(t, db, r.URL, "organization_id", "acme", "credential_uuid", uuid,
			"custom_headers", `[{"key":"`+strings.ToUpper(test.wantHeader)+`","value":"forged"},{"key":"X-Other","value":"1"}]`)
		eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
		got := r.all()[0].header
		assert.Equal(t, test.wantText, got.Get(test.wantHeader), test.kind)
		assert.Equal(t, "1", got.Get("X-Other"))
		assert.NotContains(t, got.Values(test.wantHeader), "forged", "a custom header never replaces the credential's")
	}
}

// Each attempt looks the credential up anew, and repairing it heals the delivery.
func TestCredentialRotation(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ring := keys(t, 1)
	rotate := make(chan struct{})
	r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "Bearer new" {
			w.WriteHeader(http.StatusServiceUnavailable)
			close(rotate)
		}
	})
	c := config(t, db)
	c.Keys = ring
	c.Policy.BaseDelay, c.Policy.MaxDelay = time.Second, time.Second
	start(t, c)
	uuid := setCredential(t, db, ring, "default", "it", credential.TypeBearerToken, "", "old")
	id := insert(t, db, r.URL, "credential_uuid", uuid)
	<-rotate
	assert.Equal(t, uuid, setCredential(t, db, ring, "default", "it", credential.TypeBearerToken, "", "new"), "it keeps its uuid")
	eventually(t, db, "succeeded round 0 attempts 2 abandoned 0 200 -", rowSQL, id)

	// Sealed under a key that this node does not have: an outcome of its own, and no other delivery's concern.
	lost := setCredential(t, db, keys(t, 2), "default", "lost", credential.TypeBearerToken, "", "new")
	broken := insert(t, db, r.URL, "credential_uuid", lost)
	fine := insert(t, db, r.URL, "credential_uuid", uuid)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, fine)
	eventually(t, db, "0.1 transient credential", `SELECT coalesce((SELECT concat_ws(' ', round || '.' || attempt, outcome, failure_kind) FROM riverhook.attempts
		WHERE delivery_id = $1 AND attempt = 1), '')`, broken)
	assert.Equal(t, lost, setCredential(t, db, ring, "default", "lost", credential.TypeBearerToken, "", "new"))
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, broken)
}

func TestForeignCredential(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	ring := keys(t, 1)
	c := config(t, db)
	c.Keys = ring
	start(t, c)
	uuid := setCredential(t, db, ring, "theirs", "it", credential.TypeBearerToken, "", "token")
	id := insert(t, db, r.URL, "credential_uuid", uuid, "organization_id", "ours", "max_attempts", 1)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Equal(t, []string{"0.1 transient credential"}, ledger(t, db, id))
	assert.Zero(t, r.count())
	assert.Empty(t, pgtest.Scalar[string](t, db, `SELECT coalesce(string_agg(x, ''), '') FROM (SELECT d::text AS x FROM riverhook.deliveries d
		UNION ALL SELECT a::text FROM riverhook.attempts a) y WHERE x LIKE '%token%'`))
}

func TestMissingCredentialIsSentWhereItMay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	c := config(t, db)
	c.SendWithoutCredential = true
	start(t, c)
	id := insert(t, db, r.URL, "credential_uuid", "4a4c1d5e-0000-4000-8000-000000000000")
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Empty(t, r.all()[0].header.Get("Authorization"))
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	ring := keys(t, 1)
	c := config(t, db)
	c.Keys = ring
	start(t, c)
	own, other := newReceiver(t, nil), newReceiver(t, nil)
	add := func(origin string, rotate bool, overlap time.Duration, key signing.Key) signing.Key {
		_, err := st.AddSecret(context.Background(), store.Scope{Organization: "default", Origin: origin}, rotate, overlap, func(uuid, organization string) ([]byte, error) {
			return ring.Seal([]byte(key.Reveal()), uuid, organization)
		})
		require.NoError(t, err)
		return key
	}
	// deliver sends one delivery and checks that it carries the signatures of these keys, and no others.
	deliver := func(r *receiver, organization string, want ...signing.Key) {
		t.Helper()
		before := r.count()
		id := insert(t, db, r.URL, "payload", ` {"b":1, "a":"ü"}`, "organization_id", organization)
		eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
		got := r.all()[before]
		signature := ""
		if len(want) > 0 {
			seconds, err := strconv.ParseInt(got.header.Get("Webhook-Timestamp"), 10, 64)
			require.NoError(t, err)
			at := time.Unix(seconds, 0)
			assert.WithinDuration(t, time.Now(), at, time.Minute)
			signature = signing.Sign(got.header.Get("Webhook-Id"), at, []byte(got.body), want...)
		}
		assert.Equal(t, signature, got.header.Get("Webhook-Signature"))
	}
	deliver(own, "default")
	all := add("", false, 0, signing.Generate())
	deliver(own, "default", all)
	deliver(own, "another organization")
	first := add(own.URL, false, 0, signing.Generate())
	deliver(own, "default", first)
	deliver(other, "default", all)
	second := add(own.URL, true, time.Hour, signing.GenerateEd25519())
	deliver(own, "default", second, first)
	_, err := st.ExpireSecrets(context.Background(), store.Scope{Organization: "default", Origin: own.URL}, false)
	require.NoError(t, err)
	deliver(own, "default", second)
}

// A receiver that echoes what it was sent does not plant our secrets anywhere, nor does the log have them.
func TestEchoedSecrets(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ring := keys(t, 1)
	r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		for _, name := range []string{"Authorization", "Webhook-Signature"} {
			value := q.Header.Get(name)
			_, _ = w.Write([]byte(value + " " + base64.StdEncoding.EncodeToString([]byte(value)) + " " + url.QueryEscape(value) + "\n"))
		}
	})
	var log lockedBuffer
	c := config(t, db)
	c.Keys, c.LogRequests, c.Log = ring, true, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	start(t, c)
	uuid := setCredential(t, db, ring, "default", "it", credential.TypeBearerToken, "", "hunter2hunter2")
	key := signing.Generate()
	_, err := store.New(db.Pool, db.Schema).AddSecret(context.Background(), store.Scope{Organization: "default"}, false, 0, func(uuid, organization string) ([]byte, error) {
		return ring.Seal([]byte(key.Reveal()), uuid, organization)
	})
	require.NoError(t, err)
	id := insert(t, db, r.URL+"/path?token=querysecret", "credential_uuid", uuid, "payload", `{"email":"someone@example.com","n":7}`)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	sent := r.all()[0].header
	stored := pgtest.Scalar[string](t, db, `SELECT d.last_error || convert_from(a.response_body, 'UTF8') || a.error FROM riverhook.deliveries d JOIN riverhook.attempts a ON a.delivery_id = d.id`)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "delivery dead-lettered") }, 10*time.Second, time.Millisecond)
	_, bare, _ := strings.Cut(sent.Get("Webhook-Signature"), ",")
	for _, secret := range []string{"hunter2hunter2", bare, url.QueryEscape(bare), base64.StdEncoding.EncodeToString([]byte(sent.Get("Authorization"))), strings.TrimPrefix(key.Reveal(), "whsec_")} {
		assert.NotContains(t, stored, secret)
		assert.NotContains(t, log.String(), secret)
	}
	assert.Contains(t, stored, "[REDACTED]")
	assert.Contains(t, log.String(), `"request"`)
	for _, secret := range []string{"querysecret", "/path", "someone@example.com"} {
		assert.NotContains(t, log.String(), secret)
	}
}

// A credential in a header that is otherwise logged is not; and none goes out in a header of ours.
func TestCredentialInAnOddHeader(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ring := keys(t, 1)
	r := newReceiver(t, nil)
	var log lockedBuffer
	c := config(t, db)
	c.Keys, c.LogRequests, c.Log = ring, true, slog.New(slog.NewJSONHandler(&log, nil))
	c.Headers.Prefix = "X-Dograh-"
	start(t, c)
	agent := setCredential(t, db, ring, "default", "agent", credential.TypeCustomHeader, "User-Agent", "hunter2agent")
	id := insert(t, db, r.URL, "credential_uuid", agent)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Equal(t, "hunter2agent", r.all()[0].header.Get("User-Agent"))
	own := setCredential(t, db, ring, "default", "own", credential.TypeCustomHeader, "X-Dograh-Workflow-Run-Id", "hunter2own")
	id = insert(t, db, r.URL, "credential_uuid", own, "max_attempts", 1)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Equal(t, []string{"0.1 transient credential"}, ledger(t, db, id))
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "delivery dead-lettered") }, 10*time.Second, time.Millisecond)
	assert.NotContains(t, log.String(), "hunter2")
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A private network is refused unless it is allowed: no connection is made, and the first error names the setting.
func TestBlocked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var connections atomic.Int64
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = trap.Close() })
	go func() {
		for {
			conn, err := trap.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(trap.Addr().String())
	require.NoError(t, err)
	c := config(t, db)
	c.Egress = egress.Config{}
	start(t, c)
	hosts := []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433", "①②⑦.⓪.⓪.①", "10.0.0.1", "169.254.169.254", "[fd00::1]"}
	ids := make(map[string]int64)
	for _, host := range hosts {
		ids[host] = insert(t, db, "http://"+host+":"+port+"/", "max_attempts", 1)
	}
	for _, host := range hosts {
		eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, ids[host])
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"} {
		assert.Equal(t, []string{"0.1 permanent blocked"}, ledger(t, db, ids[host]), host)
		assert.Contains(t, pgtest.Scalar[string](t, db, `SELECT last_error FROM riverhook.deliveries WHERE id = $1`, ids[host]), "RIVERHOOK_EGRESS_ALLOW", host)
	}
	assert.Zero(t, connections.Load())
}

// The service's own listener and its database stay out of reach even where their network is allowed.
func TestOwnAddressesAreNeverReached(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	database, err := url.Parse(db.URL)
	require.NoError(t, err)
	r := newReceiver(t, nil)
	own, err := url.Parse(r.URL)
	require.NoError(t, err)
	c := config(t, db)
	c.Egress = egress.Config{Allow: allowLoopback(), Never: addrPorts(t, own.Host)}
	start(t, c)
	id := insert(t, db, r.URL)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Equal(t, []string{"0.1 permanent blocked"}, ledger(t, db, id))
	assert.Zero(t, r.count())
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "localhost"} {
		id = insert(t, db, "http://"+host+":"+database.Port()+"/")
		eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
		assert.Equal(t, []string{"0.1 permanent blocked"}, ledger(t, db, id), host)
	}
}

func addrPorts(t testing.TB, hostPort string) []netip.AddrPort {
	t.Helper()
	address, err := netip.ParseAddrPort(hostPort)
	require.NoError(t, err)
	return []netip.AddrPort{address}
}

func allowLoopback() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }
