package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestTokensCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
	stdout, stderr, code := call(t, env, "tokens", "create", "--scope", "operate", "--organization", "acme", "--name", "shop", "--expires", "90d")
	require.Equal(t, 0, code, stderr)
	token := strings.TrimSpace(stdout)
	assert.Regexp(t, `^rvh_[0-9a-f]{12}_[a-z2-7]{52}$`, token, "the token alone, for a pipe")
	assert.Contains(t, stderr, "for organization acme")
	assert.NotContains(t, stderr, token)
	prefix := token[:16]

	stdout, _, code = call(t, env, "tokens", "create", "--scope", "admin", "--json")
	require.Equal(t, 0, code)
	var made map[string]any
	require.NoError(t, json.Unmarshal([]byte(stdout), &made))
	assert.Equal(t, "admin", made["scope"])
	assert.Nil(t, made["organization_id"])
	assert.Contains(t, made["created_by"], "command line")

	stdout, _, code = call(t, env, "tokens", "list")
	require.Equal(t, 0, code)
	for _, part := range []string{prefix, "shop", "operate", "acme", "until ", "(all)", "never"} {
		assert.Contains(t, stdout, part)
	}
	assert.NotContains(t, stdout, token)
	stdout, _, _ = call(t, env, "tokens", "list", "--organization", "acme", "--json")
	assert.Equal(t, 1, strings.Count(stdout, "\n"))

	_, stderr, code = call(t, env, "tokens", "revoke", token)
	assert.Equal(t, 2, code)
	assert.NotContains(t, stderr, token)
	stdout, _, code = call(t, env, "tokens", "revoke", prefix)
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, "revoked token "+prefix)
	stdout, _, _ = call(t, env, "tokens", "list")
	assert.Contains(t, stdout, "revoked")
	_, _, code = call(t, env, "tokens", "revoke", "rvh_000000000000")
	assert.Equal(t, 1, code)
	for _, bad := range [][]string{{"--scope", "king"}, {}, {"--scope", "read", "--expires", "0"}, {"--scope", "read", "--name", strings.Repeat("x", 201)}} {
		_, _, code = call(t, env, append([]string{"tokens", "create"}, bad...)...)
		assert.Equal(t, 2, code, bad)
	}
	_, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + asRole(t, db, "reader")}, "tokens", "create", "--scope", "read")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "--as service")
}
