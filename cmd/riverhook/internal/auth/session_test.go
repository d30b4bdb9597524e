package auth

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

const setToken = "a-token-of-the-settings-x"

// A session opens what its token does, and nothing once either of them has ended.
func TestSession(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	token, prefix := b.add(t, ScopeOperate, "acme", 0)
	identity, session, err := b.Login(ctx, here, token, ScopeRead)
	require.NoError(t, err)
	assert.Equal(t, &Identity{Name: "n", Prefix: prefix, Scope: ScopeOperate, Organization: "acme"}, identity)
	same, err := b.Session(ctx, here, session)
	require.NoError(t, err)
	assert.Equal(t, identity, same)

	other := New(b.store, credential.Secret{}) // another node
	for _, a := range []*Authenticator{b.Authenticator, other} {
		_, err = a.Authenticate(ctx, here, session)
		require.ErrorIs(t, err, ErrBadToken, "it is no token, also while it is remembered")
		_, err = a.Session(ctx, here, token)
		require.ErrorIs(t, err, ErrBadToken, "and a token no session")
		_, err = a.Session(ctx, here, strings.Repeat("A", 43))
		require.ErrorIs(t, err, ErrBadToken)
		_, err = a.Session(ctx, here, "")
		require.ErrorIs(t, err, ErrNoToken)
		same, err = a.Session(ctx, here, session)
		require.NoError(t, err)
		assert.Equal(t, identity, same)
	}
	stored := pgtest.Scalar[string](t, b.DB, `SELECT s::text FROM riverhook.sessions s`)
	assert.NotContains(t, stored, session)
	assert.NotContains(t, stored, pgtest.Scalar[string](t, b.DB, `SELECT encode(hash, 'hex') FROM riverhook.tokens`))

	_, err = b.store.RevokeToken(ctx, prefix, "")
	require.NoError(t, err)
	b.clock.Time = b.clock.Add(trust)
	_, err = b.Session(ctx, here, session)
	require.ErrorIs(t, err, ErrBadToken, "its token was revoked")
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	token, _ := b.add(t, ScopeRead, "", 0)
	_, session, err := b.Login(ctx, here, token, ScopeRead)
	require.NoError(t, err)
	require.NoError(t, b.Logout(ctx, session))
	require.NoError(t, b.Logout(ctx, session), "twice is the same")
	require.NoError(t, b.Logout(ctx, "no session"))
	_, err = b.Session(ctx, here, session)
	require.ErrorIs(t, err, ErrBadToken, "logged out")

	_, session, err = b.Login(ctx, here, token, ScopeRead)
	require.NoError(t, err)
	b.Exec(t, `UPDATE riverhook.sessions SET expires_at = now()`)
	b.clock.Time = b.clock.Add(trust)
	_, err = b.Session(ctx, here, session)
	require.ErrorIs(t, err, ErrBadToken, "expired")
	assert.InDelta(t, SessionLength.Seconds(), func() float64 {
		_, _, err := b.Login(ctx, here, token, ScopeRead)
		require.NoError(t, err)
		return pgtest.Scalar[float64](t, b.DB, `SELECT extract(epoch FROM max(expires_at) - now())::float8 FROM riverhook.sessions`)
	}(), 60)
	assert.Equal(t, 1, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.sessions`), "what has expired goes with the next log-in")

	enqueue, _ := b.add(t, ScopeEnqueue, "", 0)
	identity, session, err := b.Login(ctx, here, enqueue, ScopeRead)
	require.NoError(t, err)
	assert.Equal(t, ScopeEnqueue, identity.Scope)
	assert.Empty(t, session, "its scope does not allow it")
	_, _, err = b.Login(ctx, here, "wrong", ScopeRead)
	require.ErrorIs(t, err, ErrBadToken)
}

// A session of the settings' token ends when the setting changes.
func TestSessionOfTheSettings(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	a := New(b.store, credential.NewSecret(setToken))
	_, session, err := a.Login(ctx, here, setToken, ScopeRead)
	require.NoError(t, err)
	for _, node := range []*Authenticator{a, New(b.store, credential.NewSecret(setToken))} {
		identity, err := node.Session(ctx, here, session)
		require.NoError(t, err)
		assert.Equal(t, &Identity{Name: SetTokenName, Scope: ScopeAdmin}, identity)
	}
	for _, changed := range []credential.Secret{{}, credential.NewSecret("a-token-of-the-settings-y")} {
		_, err = New(b.store, changed).Session(ctx, here, session)
		require.ErrorIs(t, err, ErrBadToken)
	}
}

// Sessions that have ended, of pages that ask again and again, do not keep anybody from logging in; and the database is not
// asked about more of them than there can be of such pages.
func TestOldSessionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	for range sessionFailureBurst {
		_, err := b.Session(ctx, here, strings.Repeat("A", 43))
		require.ErrorIs(t, err, ErrBadToken)
	}
	var tooMany *TooManyError
	_, err := b.Session(ctx, here, strings.Repeat("A", 43))
	require.ErrorAs(t, err, &tooMany)
	_, err = b.Session(ctx, here, "no session")
	require.ErrorIs(t, err, ErrBadToken, "that asks nobody")
	token, _ := b.add(t, ScopeRead, "", 0)
	_, session, err := b.Login(ctx, here, token, ScopeRead)
	require.NoError(t, err)
	for range failureBurst {
		_, err := b.Authenticate(ctx, here, "wrong")
		require.ErrorIs(t, err, ErrBadToken)
	}
	_, err = b.Session(ctx, here, session)
	require.NoError(t, err, "nor do wrong tokens keep out who is logged in")
}

// A request that was on its way does not keep a session alive that was ended meanwhile.
func TestLogoutBesideRequests(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := context.Background()
	token, _ := b.add(t, ScopeRead, "", 0)
	for range 30 {
		_, session, err := b.Login(ctx, here, token, ScopeRead)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = b.Session(ctx, here, session) })
		}
		require.NoError(t, b.Logout(ctx, session))
		_, err = b.Session(ctx, here, session)
		require.ErrorIs(t, err, ErrBadToken)
		wg.Wait()
		_, err = b.Session(ctx, here, session)
		require.ErrorIs(t, err, ErrBadToken)
	}
}
