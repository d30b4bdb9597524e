//go:build unix

package pgtemp_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/riverhook/riverhook/migrations/pgtemp"
)

// orphanEnv makes this test binary start a server and do nothing more, for
// TestOwnerKilled.
const orphanEnv = "RIVERHOOK_PGTEMP_TEST_ORPHAN"

func TestMain(m *testing.M) {
	if os.Getenv(orphanEnv) != "" {
		s, err := pgtemp.Start(context.Background(), pgtemp.Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.Pid(), s.Dir())
		select {}
	}
	goleak.VerifyTestMain(m)
}

func TestServer(t *testing.T) {
	t.Parallel()
	s := start(t, pgtemp.Options{Settings: map[string]string{
		"max_prepared_transactions": "5",
		"Application_Name":          `it's a \ test`,
	}})

	assert.Equal(t, "1", query(t, s, "select 1"))
	assert.Equal(t, "5", query(t, s, "show max_prepared_transactions"))
	assert.Equal(t, `it's a \ test`, query(t, s, "select reset_val from pg_settings where name = 'application_name'"))
	assert.Equal(t, "off", query(t, s, "show fsync"))
	assert.Equal(t, "off", query(t, s, "show synchronous_commit"))
	assert.Equal(t, "400", query(t, s, "show max_connections"))
	assert.Equal(t, "127.0.0.1", query(t, s, "show listen_addresses"))
	assert.Equal(t, "UTF8", query(t, s, "show server_encoding"))
	assert.Positive(t, s.Pid())

	query(t, s, "create table kept as select 7 as n")
	query(t, s, "checkpoint")
	port, url := s.Port(), s.URL("postgres")

	require.NoError(t, s.StopImmediate())
	assert.Zero(t, s.Pid())
	assert.DirExists(t, s.Dir())
	_, err := pgx.Connect(t.Context(), s.URL("postgres"))
	require.Error(t, err)

	require.NoError(t, s.Restart(t.Context()))
	assert.Equal(t, port, s.Port())
	assert.Equal(t, url, s.URL("postgres"))
	assert.Equal(t, "7", query(t, s, "select n from kept"))

	require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGKILL))
	require.NoError(t, s.Restart(t.Context()))
	assert.Equal(t, "7", query(t, s, "select n from kept"))

	require.NoError(t, s.Stop())
	assert.NoDirExists(t, s.Dir())
	require.NoError(t, s.Stop(), "Stop again")
	require.Error(t, s.Restart(t.Context()), "Restart after Stop")
}

func TestDurable(t *testing.T) {
	t.Parallel()
	s := start(t, pgtemp.Options{Durable: true, Settings: map[string]string{"max_connections": "20"}})
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		assert.Equal(t, "on", query(t, s, "show "+name), name)
	}
	assert.Equal(t, "20", query(t, s, "show max_connections"))
}

func TestEnv(t *testing.T) {
	t.Parallel()
	s := start(t, pgtemp.Options{Env: []string{"PGTEMP_TEST=reached the server"}})
	said := func() string {
		query(t, s, "drop table if exists heard; create table heard (line text)")
		query(t, s, `copy heard from program 'echo "$PGTEMP_TEST"'`)
		return query(t, s, "select line from heard")
	}
	assert.Equal(t, "reached the server", said())
	require.NoError(t, s.Restart(t.Context()))
	assert.Equal(t, "reached the server", said(), "after a restart")
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ setting, value, want string }{
		"unknown":   {"no_such_setting", "1", "no_such_setting"},
		"malformed": {"fsync = off\nport", "1", "malformed"},
		"reserved":  {"Port", "1", "leave it out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := pgtemp.Start(t.Context(), pgtemp.Options{Settings: map[string]string{tc.setting: tc.value}})
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// TestOwnerKilled: what a killed process had started goes away without it.
func TestOwnerKilled(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), orphanEnv+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	var pid int
	var dir string
	_, err = fmt.Sscan(line, &pid, &dir)
	require.NoError(t, err, line)
	require.DirExists(t, dir)

	require.NoError(t, cmd.Process.Kill())
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	}, 30*time.Second, 20*time.Millisecond, "%s is still there", dir)
	assert.False(t, alive(pid), "process %d still runs", pid)
}

// alive is false for a zombie too, as there may be nobody to reap an orphan.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil {
		return !strings.Contains(string(stat), ") Z ")
	}
	return syscall.Kill(pid, 0) == nil
}

func start(t *testing.T, o pgtemp.Options) *pgtemp.Server {
	t.Helper()
	s, err := pgtemp.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop()) })
	return s
}

// query returns the one value of a query, as text; "" for a command's none.
func query(t *testing.T, s *pgtemp.Server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	require.NoError(t, err, sql)
	if len(results) == 0 || len(results[0].Rows) == 0 {
		return ""
	}
	return string(results[0].Rows[0][0])
}
