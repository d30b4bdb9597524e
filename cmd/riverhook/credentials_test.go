package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// testKey is a RIVERHOOK_SECRET_KEY.
func testKey(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32)))
}

// feed runs the program with something on standard input.
func feed(t testing.TB, input string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	command := program(t, env, args...)
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &out, &errs
	_ = command.Run()
	return out.String(), errs.String(), command.ProcessState.ExitCode()
}

func TestCredentialsCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var authorizations []string
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		authorizations = append(authorizations, r.Header.Get("Authorization"))
	}))
	defer receiver.Close()
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_SECRET_KEY=" + testKey("a")}

	stdout, stderr, code := feed(t, "hunter2\n", env, "credentials", "set", "--name", "crm", "--type", "bearer_token", "--json")
	require.Equal(t, 0, code, stderr)
	var set struct {
		UUID    string `json:"credential_uuid"`
		Rotated bool   `json:"rotated"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &set))
	assert.False(t, set.Rotated)
	serve(t, db.URL, true, "RIVERHOOK_SECRET_KEY="+testKey("b")+","+testKey("a"))
	deliver := func() {
		t.Helper()
		id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, credential_uuid) VALUES ($1, $2) RETURNING id`, receiver.URL, set.UUID)
		eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	}
	deliver()

	// The key is changed: the new one first, then everything is sealed anew, then the old one goes.
	stdout, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_SECRET_KEY=" + testKey("c")}, "credentials", "reseal")
	assert.Equal(t, 1, code, "it cannot be opened under another key, and stays as it is")
	assert.Contains(t, stdout, "failed 1")
	assert.Contains(t, stderr, set.UUID)
	stdout, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_SECRET_KEY=" + testKey("b") + "," + testKey("a")}, "credentials", "reseal")
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "resealed 1, already under the first key 0, failed 0")
	env[1] = "RIVERHOOK_SECRET_KEY=" + testKey("b")

	file := t.TempDir() + "/secret"
	require.NoError(t, os.WriteFile(file, []byte("hunter3"), 0o600))
	stdout, stderr, code = call(t, env, "credentials", "set", "--name", "crm", "--type", "bearer_token", "--file", file)
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "rotated credential "+set.UUID)
	deliver()
	assert.Equal(t, []string{"Bearer hunter2", "Bearer hunter3"}, authorizations)

	stdout, _, code = call(t, env, "credentials", "list")
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, set.UUID)
	assert.Contains(t, stdout, "bearer_token")
	assert.NotContains(t, stdout, "hunter")
	stdout, _, _ = call(t, env, "credentials", "list", "--json", "--organization", "default")
	assert.Contains(t, stdout, `"name":"crm"`)
	stdout, _, _ = call(t, env, "credentials", "list", "--json", "--organization", "other")
	assert.Empty(t, stdout)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.credentials c WHERE encode(sealed, 'escape') LIKE '%hunter%' OR c::text LIKE '%hunter%'`))

	stdout, _, code = call(t, env, "credentials", "reseal", "--json")
	assert.Equal(t, 0, code)
	assert.JSONEq(t, `{"resealed":0,"current":1,"failed":0}`, stdout)
	stdout, _, code = call(t, env, "credentials", "rm", "--name", "crm", "--json")
	assert.Equal(t, 0, code)
	assert.JSONEq(t, `{"removed":"crm"}`, stdout)
	_, stderr, code = call(t, env, "credentials", "rm", "--name", "crm")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "there is no credential")

	// Under its old uuid it heals the deliveries that name it.
	stdout, stderr, code = feed(t, "hunter4", env, "credentials", "set", "--name", "crm2", "--type", "bearer_token", "--uuid", strings.ToUpper(set.UUID))
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "stored credential "+set.UUID)
	deliver()
	_, stderr, code = feed(t, "hunter4", env, "credentials", "set", "--name", "crm2", "--type", "bearer_token", "--uuid", "018f0000-0000-7000-8000-000000000001")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "has the uuid")
}

func TestCredentialsCommandRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
	_, stderr, code := feed(t, "hunter2", env, "credentials", "set", "--name", "crm", "--type", "bearer_token")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "RIVERHOOK_SECRET_KEY")
	assert.Contains(t, stderr, "base64", "it says how to make one")
	_, stderr, code = feed(t, "hunter2", append(env, "RIVERHOOK_SECRET_KEY=hunter2key"), "credentials", "set", "--name", "crm", "--type", "bearer_token")
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "RIVERHOOK_SECRET_KEY")
	assert.NotContains(t, stderr, "hunter2key")
	env = append(env, "RIVERHOOK_SECRET_KEY="+testKey("a"))
	for _, bad := range [][]string{
		{"--name", "x", "--type", "basic_auth"}, {"--name", "x", "--type", "custom_header"}, {"--name", "x", "--type", "api_key", "--header", "Content-Length"},
	} {
		_, stderr, code = feed(t, "hunter2", env, append([]string{"credentials", "set"}, bad...)...)
		assert.Equal(t, 1, code, bad)
		assert.NotContains(t, stderr, "hunter2")
	}
	_, _, code = feed(t, "hunter2", env, "credentials", "set", "--name", "x", "--type", "nonsense")
	assert.Equal(t, 2, code)
	_, _, code = feed(t, "hunter2", env, "credentials", "set", "--name", "x", "--type", "bearer_token", "hunter2")
	assert.Equal(t, 2, code, "never from an argument")
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.credentials`))
}

func TestSecretsCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_SECRET_KEY=" + testKey("a")}
	_, stderr, code := call(t, env, "secrets", "show")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "riverhook secrets create")
	stdout, stderr, code := call(t, env, "secrets", "create", "--organization", "acme", "--origin", "HTTPS://Receiver.example:443/")
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "riverhook secrets show --organization acme --origin")
	assert.NotContains(t, stdout, "whsec_")
	_, stderr, code = call(t, env, "secrets", "create", "--organization", "acme", "--origin", "https://receiver.example")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "there is a signing secret already")

	show := func() []string {
		t.Helper()
		stdout, stderr, code := call(t, env, "secrets", "show", "--organization", "acme", "--origin", "https://receiver.example")
		assert.Equal(t, 0, code, stderr)
		return strings.Split(strings.TrimSpace(stdout), "\n")
	}
	first := show()
	require.Len(t, first, 1)
	assert.Regexp(t, `^whsec_\S{44}$`, first[0])
	_, stderr, code = call(t, env, "secrets", "rotate", "--organization", "acme", "--origin", "https://receiver.example", "--overlap", "1h", "--ed25519")
	assert.Equal(t, 0, code, stderr)
	both := show()
	require.Len(t, both, 2)
	assert.Regexp(t, `^whsk_\S+  public: whpk_\S+$`, both[0])
	assert.Regexp(t, `^whsec_\S+  until 20`, both[1])
	stdout, _, _ = call(t, env, "secrets", "list")
	assert.Contains(t, stdout, "https://receiver.example")
	assert.NotContains(t, stdout, "whsec_")
	stdout, _, code = call(t, env, "secrets", "expire", "--organization", "acme", "--origin", "https://receiver.example")
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, "expired 1 signing secret")
	assert.Len(t, show(), 1)
	_, _, code = call(t, env, "secrets", "expire", "--organization", "acme", "--origin", "https://receiver.example", "--all")
	assert.Equal(t, 0, code)

	_, stderr, code = feed(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", env, "secrets", "create", "--from", "-")
	assert.Equal(t, 0, code, stderr)
	stdout, _, _ = call(t, env, "secrets", "show")
	assert.Equal(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", stdout)
	_, _, code = call(t, env, "secrets", "create", "--origin", "https://receiver.example/path")
	assert.Equal(t, 2, code)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.signing_secrets WHERE encode(sealed, 'escape') LIKE '%whsec%'`))
}

// What is sealed under another key than serve has, serve cannot open: whoever seals with a new one is told.
func TestCredentialsUnderAnotherKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := func(key string) []string {
		return []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_SECRET_KEY=" + key}
	}
	set := []string{"credentials", "set", "--type", "bearer_token", "--name"}
	_, stderr, code := feed(t, "hunter2", env(testKey("a")), append(set, "first")...)
	require.Equal(t, 0, code, stderr)
	assert.Empty(t, stderr)
	_, stderr, code = feed(t, "hunter2", env(testKey("b")), append(set, "second")...)
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stderr, "does not open 1 of 1 that are sealed already")
	_, stderr, code = call(t, env(testKey("b")), "secrets", "create")
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stderr, "does not open 1 of 2 that are sealed already")
	_, stderr, code = feed(t, "hunter2", env(testKey("b")+","+testKey("a")), append(set, "third")...)
	assert.Equal(t, 0, code, stderr)
	assert.Empty(t, stderr)

	// A new credential can be tried from the terminal.
	uuid := pgtest.Scalar[string](t, db, `SELECT credential_uuid::text FROM riverhook.credentials WHERE name = 'first'`)
	_, stderr, code = call(t, env(testKey("a")), "send", "http://127.0.0.1:1/", "--credential", uuid)
	require.Equal(t, 0, code, stderr)
	assert.Equal(t, uuid, pgtest.Scalar[string](t, db, `SELECT credential_uuid::text FROM riverhook.deliveries`))
	_, stderr, code = call(t, env(testKey("a")), "send", "http://127.0.0.1:1/", "--credential", "first")
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "riverhook credentials list")
	_, stderr, code = call(t, env(testKey("a")), "send", "127.0.0.1:1/path")
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "must begin with http:// or https://")
}
