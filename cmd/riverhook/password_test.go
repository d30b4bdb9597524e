package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// The password is changed while the service runs: each new connection of each of its pools reads the file again. So does a
// command.
func TestPasswordIsChanged(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, nil)
	db := pgtest.NewOn(t, server.URL("postgres"))
	receiver := httptest.NewServer(http.NotFoundHandler())
	defer receiver.Close()
	db.Exec(t, `CREATE ROLE svc LOGIN PASSWORD 'old-word'`)
	_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL}, "migrate", "grant", "svc", "--as", "service")
	require.Equal(t, 0, code, stderr)
	require.NoError(t, os.WriteFile(filepath.Join(server.Dir(), "data", "pg_hba.conf"),
		[]byte("host all svc all scram-sha-256\nhost all all all trust\nlocal all all trust\n"), 0o600))
	db.Exec(t, `SELECT pg_reload_conf()`)

	file := filepath.Join(t.TempDir(), "url")
	write := func(password string) {
		u, err := url.Parse(db.URL)
		require.NoError(t, err)
		u.User = url.UserPassword("svc", password)
		require.NoError(t, os.WriteFile(file, []byte(u.String()+"\n"), 0o600))
	}
	env := []string{"RIVERHOOK_DATABASE_URL=", "RIVERHOOK_DATABASE_URL_FILE=" + file}
	write("wrong-word")
	s := serve(t, "", false, append(env, "RIVERHOOK_API_TOKEN=rvh_0123456789ab_"+strings.Repeat("a", 52))...)
	require.Eventually(t, func() bool { return len(s.logged("waiting for Postgres")) > 0 }, 20*time.Second, 10*time.Millisecond)
	assert.Contains(t, fmt.Sprint(s.logged("waiting for Postgres")), "28P01")
	write("old-word")
	deliver := func() {
		t.Helper()
		id := pgtest.Scalar[int64](t, db, insertSQL, receiver.URL)
		eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
		require.Eventually(t, func() bool { return s.status("/readyz") == 200 }, 20*time.Second, 10*time.Millisecond)
		require.Eventually(t, func() bool { // the first one finds the connection that was ended
			return s.ask(t, "GET", "/v1/deliveries", "", "Authorization", "Bearer rvh_0123456789ab_"+strings.Repeat("a", 52)).StatusCode == 200
		}, 20*time.Second, 10*time.Millisecond)
	}
	deliver()
	const names = `SELECT string_agg(DISTINCT application_name, ', ' ORDER BY application_name) FROM pg_stat_activity WHERE usename = 'svc'`
	all := pgtest.Scalar[string](t, db, names)
	assert.Equal(t, "riverhook batches, riverhook other, riverhook presence, riverhook requests, riverhook river", all)

	db.Exec(t, `ALTER ROLE svc PASSWORD 'new-word'`)
	write("new-word")
	began := pgtest.Scalar[time.Time](t, db, `SELECT clock_timestamp()`)
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'svc'`)
	deliver()
	eventually(t, db, all, strings.Replace(names, "WHERE", "WHERE backend_start > $1 AND", 1), began)
	eventually(t, db, true, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'svc' AND backend_start > $1 AND query ILIKE 'LISTEN%')`, began)
	_, stderr, code = call(t, env, "migrate", "status")
	assert.Equal(t, 0, code, stderr)

	// What cannot be read does not do away with what is known.
	require.NoError(t, os.Remove(file))
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'svc'`)
	deliver()
	assert.NotContains(t, fmt.Sprint(s.log()), "-word")
	require.NoError(t, server.StopImmediate())
	require.NoError(t, server.Restart(context.Background()))
	db.Pool.Reset()
	deliver()
}
