package auth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var here = netip.MustParseAddr("192.0.2.1")

// clock is a time that a test moves.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

type bundle struct {
	*pgtest.DB
	*Authenticator
	clock *clock
}

func setup(t *testing.T) *bundle {
	t.Helper()
	db := pgtest.New(t)
	b := &bundle{DB: db, Authenticator: New(store.New(db.Pool, db.Schema), credential.Secret{}), clock: &clock{time.Now()}}
	b.now = b.clock.now
	return b
}

func (b *bundle) add(t *testing.T, scope Scope, organization string, lifetime time.Duration) (token, prefix string) {
	t.Helper()
	secret, prefix, hash := NewToken()
	row := store.Token{Prefix: prefix, Name: "n", Scope: string(scope), CreatedBy: "test"}
	if organization != "" {
		row.OrganizationID = &organization
	}
	_, err := b.store.AddToken(context.Background(), row, hash, lifetime)
	require.NoError(t, err)
	return secret.Reveal(), prefix
}

func TestAllows(t *testing.T) {
	t.Parallel()
	want := map[Scope][]Scope{
		ScopeUnknown: nil,
		ScopeEnqueue: {ScopeEnqueue},
		ScopeRead:    {ScopeRead},
		ScopeOperate: {ScopeEnqueue, ScopeRead, ScopeOperate},
		ScopeAdmin:   {ScopeEnqueue, ScopeRead, ScopeOperate, ScopeAdmin},
		"king":       nil,
	}
	for have, may := range want {
		for _, needed := range append(Scopes(), ScopeUnknown, "king") {
			if have.Allows(needed) {
				assert.Contains(t, may, needed, have)
			} else {
				assert.NotContains(t, may, needed, have)
			}
		}
	}
}

func TestNewToken(t *testing.T) {
	t.Parallel()
	secret, prefix, hash := NewToken()
	token := secret.Reveal()
	assert.Regexp(t, tokenSyntax, token)
	assert.True(t, strings.HasPrefix(token, prefix+"_"))
	assert.True(t, ValidPrefix(prefix))
	assert.False(t, ValidPrefix(token))
	sum := sha256.Sum256([]byte(token))
	assert.Equal(t, sum[:], hash)
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", secret, secret, secret), token)
	other, _, _ := NewToken()
	assert.NotEqual(t, token, other.Reveal())
}

func TestCheckSetToken(t *testing.T) {
	t.Parallel()
	require.NoError(t, CheckSetToken(strings.Repeat("x", 24)))
	for _, bad := range []string{strings.Repeat("x", 23), strings.Repeat("x", 513), strings.Repeat("x", 24) + " y", strings.Repeat("é", 24)} {
		err := CheckSetToken(bad)
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "xxx")
	}
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	any, err := b.AnyToken(ctx)
	require.NoError(t, err)
	assert.False(t, any)
	token, prefix := b.add(t, ScopeOperate, "acme", 0)
	b.Forget()
	any, err = b.AnyToken(ctx)
	require.NoError(t, err)
	assert.True(t, any)

	identity, err := b.Authenticate(ctx, here, token)
	require.NoError(t, err)
	assert.Equal(t, &Identity{Name: "n", Prefix: prefix, Scope: ScopeOperate, Organization: "acme"}, identity)
	assert.True(t, identity.Sees("acme"))
	assert.False(t, identity.Sees("other"))
	assert.False(t, identity.Sees(""))
	_, err = b.Authenticate(ctx, here, "")
	require.ErrorIs(t, err, ErrNoToken)

	// Revoked elsewhere: it works until it is looked up again, and no longer.
	b.Exec(t, `UPDATE riverhook.tokens SET revoked_at = now()`)
	b.clock.Time = b.clock.Add(trust - time.Nanosecond)
	_, err = b.Authenticate(ctx, here, token)
	require.NoError(t, err)
	b.clock.Time = b.clock.Add(time.Nanosecond)
	_, err = b.Authenticate(ctx, here, token)
	require.ErrorIs(t, err, ErrBadToken)

	short, _ := b.add(t, ScopeRead, "", time.Hour)
	_, err = b.Authenticate(ctx, here, short)
	require.NoError(t, err)
	b.Exec(t, `UPDATE riverhook.tokens SET expires_at = now() WHERE expires_at IS NOT NULL`)
	b.Forget()
	_, err = b.Authenticate(ctx, here, short)
	require.ErrorIs(t, err, ErrBadToken)
	any, err = b.AnyToken(ctx)
	require.NoError(t, err)
	assert.False(t, any, "neither works any more")
}

func TestLastUsed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	token, _ := b.add(t, ScopeRead, "", 0)
	use := func() time.Time {
		t.Helper()
		_, err := b.Authenticate(context.Background(), here, token)
		require.NoError(t, err)
		return pgtest.Scalar[time.Time](t, b.DB, `SELECT last_used_at FROM riverhook.tokens`)
	}
	first := use()
	b.clock.Time = b.clock.Add(touchInterval - time.Second)
	assert.Equal(t, first, use(), "not every time")
	b.clock.Time = b.clock.Add(2 * trust)
	assert.Equal(t, first, use(), "nor by another node's clock")
	b.Exec(t, `UPDATE riverhook.tokens SET last_used_at = now() - interval '61 seconds'`)
	b.clock.Time = b.clock.Add(touchInterval)
	assert.WithinDuration(t, first, use(), 30*time.Second)
}

func TestSetToken(t *testing.T) {
	t.Parallel()
	a := New(store.New(nil, "riverhook"), credential.NewSecret("a-token-of-the-settings-x"))
	identity, err := a.Authenticate(context.Background(), here, "a-token-of-the-settings-x")
	require.NoError(t, err)
	assert.Equal(t, &Identity{Name: SetTokenName, Scope: ScopeAdmin}, identity)
	_, err = a.Authenticate(context.Background(), here, "a-token-of-the-settings-y")
	require.ErrorIs(t, err, ErrBadToken, "without a look into the database: it cannot be one")
	any, err := a.AnyToken(context.Background())
	require.NoError(t, err)
	assert.True(t, any)
}

func TestFailures(t *testing.T) {
	t.Parallel()
	a := New(store.New(nil, "riverhook"), credential.Secret{})
	now := clock{time.Now()}
	a.now = now.now
	try := func(from string) error {
		_, err := a.Authenticate(context.Background(), netip.MustParseAddr(from), "wrong")
		return err
	}
	var tooMany *TooManyError
	for range failureBurst {
		require.ErrorIs(t, try("192.0.2.1"), ErrBadToken)
	}
	require.ErrorAs(t, try("192.0.2.1"), &tooMany)
	assert.Positive(t, tooMany.RetryAfter)
	require.ErrorIs(t, try("192.0.2.2"), ErrBadToken, "another address")
	now.Time = now.Add(failureInterval)
	a.now = now.now
	require.ErrorIs(t, try("192.0.2.1"), ErrBadToken)
	require.ErrorAs(t, try("192.0.2.1"), &tooMany)
	for i := range failureBurst {
		require.ErrorIs(t, try(fmt.Sprintf("2001:db8::%x", i+1)), ErrBadToken)
	}
	require.ErrorAs(t, try("2001:db8::ffff"), &tooMany, "one network")
	require.ErrorIs(t, try("2001:db8:0:1::1"), ErrBadToken, "the next one")

	for i := range maxAddresses + 100 {
		a.failures.add(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now.Time)
	}
	assert.LessOrEqual(t, len(a.failures.limits), maxAddresses)
}

func TestFromRequest(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"": "", "Bearer abc": "abc", "bearer  abc ": "abc", "Basic dTphYmM=": "abc", "Basic Og==": "", "Basic ?": "", "Digest abc": "", "abc": "", "Bearer": "",
	} {
		assert.Equal(t, want, FromRequest(&http.Request{Header: http.Header{"Authorization": {header}}}), header)
	}
}

// What is remembered has a bound.
func TestKnownIsBounded(t *testing.T) {
	t.Parallel()
	a := New(store.New(nil, "riverhook"), credential.Secret{})
	for i := range maxCached + 10 {
		a.remember(key{hash: sha256.Sum256(fmt.Append(nil, i))}, &entry{}, 0)
	}
	assert.LessOrEqual(t, len(a.known), maxCached)
}
