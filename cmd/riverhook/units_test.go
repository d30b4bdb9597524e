package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// unitSetting is the only value of a setting of the unit.
func unitSetting(t *testing.T, name string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(assetSystemd, -1)
	require.Len(t, found, 1, name)
	return found[0][1]
}

func TestUnit(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: it is in Debian's package systemd")
	}
	stdout, stderr, code := call(t, nil, "assets", "systemd")
	require.Equal(t, 0, code, stderr)
	unit := filepath.Join(t.TempDir(), "riverhook.service")
	require.NoError(t, os.WriteFile(unit, []byte(strings.Replace(stdout, "/usr/local/bin/riverhook", os.Args[0], 1)), 0o600))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput() //nolint:gosec // of Debian
	require.NoError(t, err, "%s", out)
	assert.Empty(t, string(out), "nothing to complain of")

	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", "--threshold=13", unit).CombinedOutput() //nolint:gosec // of Debian
	require.NoError(t, err, "%s", out)
	level := regexp.MustCompile(`Overall exposure level for riverhook.service: ([0-9.]+)`).FindSubmatch(out)
	require.NotNil(t, level, "%s", out)
	exposure, err := strconv.ParseFloat(string(level[1]), 64)
	require.NoError(t, err)
	assert.LessOrEqual(t, exposure, 1.3, "%s", out)
}

// What the unit says about time is what the program does.
func TestUnitTimes(t *testing.T) {
	t.Parallel()
	const timeout = 30 * time.Second // serve's default
	stop, err := strconv.Atoi(unitSetting(t, "TimeoutStopSec"))
	require.NoError(t, err)
	assert.Greater(t, time.Duration(stop)*time.Second, timeout+stopMargin)
	watchdog, err := strconv.Atoi(unitSetting(t, "WatchdogSec"))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Duration(watchdog)*time.Second, 4*lookEvery, "one ping that comes late is no reason for a restart")
	assert.Greater(t, time.Duration(watchdog)*time.Second, progress.Grace)
	assert.Equal(t, strconv.Itoa(exitUsage), unitSetting(t, "RestartPreventExitStatus"))
}

// A crash, and the watchdog's SIGABRT, is no wrong setting: systemd starts the service again.
func TestCrashUnderTheUnit(t *testing.T) {
	t.Parallel()
	var core syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_CORE, &core))
	core.Cur = 0 // as LimitCORE
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_CORE, &core))
	s := serve(t, pgtest.New(t).URL, true, unitSetting(t, "Environment"))
	require.NoError(t, s.Process.Signal(syscall.SIGABRT))
	assert.Equal(t, -1, s.ended(t, time.Minute), "by a signal, not by an exit status")
	assert.Equal(t, "always", unitSetting(t, "Restart"))
}

// The credentials that the unit loads, as systemd hands them on, are all that the program needs.
func TestLoadedCredentials(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	directory := t.TempDir()
	values := map[string]string{"database_url": db.URL, "secret_key": testKey("a"), "api_token": strings.Repeat("f00d", 16)}
	names := regexp.MustCompile(`(?m)^#?LoadCredential=([a-z_]+):/etc/riverhook/([a-z_]+)$`).FindAllStringSubmatch(assetSystemd, -1)
	require.Len(t, names, len(values))
	for _, name := range names {
		require.Contains(t, values, name[1])
		assert.Equal(t, name[1], name[2])
		require.NoError(t, os.WriteFile(filepath.Join(directory, name[1]), []byte(values[name[1]]+"\n"), 0o400))
	}
	env := "CREDENTIALS_DIRECTORY=" + directory
	s := serve(t, "", true, env)
	assert.Equal(t, 200, s.ask(t, "GET", "/v1/stats", "", "Authorization", "Bearer "+values["api_token"]).StatusCode)
	_, stderr, code := call(t, []string{env}, "secrets", "create")
	assert.Equal(t, 0, code, stderr)

	migrated := fmt.Sprintf("version %d of %d", migrations.Latest, migrations.Latest)
	file := filepath.Join(t.TempDir(), "url")
	require.NoError(t, os.WriteFile(file, []byte(db.URL), 0o600))
	broken := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(broken, "database_url"), []byte("garbage"), 0o600))
	for name, c := range map[string]struct {
		env  []string
		want string // of stdout, or of stderr when it fails
		code int
	}{
		"before DATABASE_URL":    {[]string{env, "DATABASE_URL=garbage"}, migrated, 0},
		"after the variable":     {[]string{"CREDENTIALS_DIRECTORY=" + broken, "RIVERHOOK_DATABASE_URL=" + db.URL}, migrated, 0},
		"after the file":         {[]string{"CREDENTIALS_DIRECTORY=" + broken, "RIVERHOOK_DATABASE_URL_FILE=" + file}, migrated, 0},
		"none of that name":      {[]string{"CREDENTIALS_DIRECTORY=" + t.TempDir(), "DATABASE_URL=" + db.URL}, migrated, 0},
		"not a URL":              {[]string{"CREDENTIALS_DIRECTORY=" + broken}, "is not a Postgres URL", 1},
		"nothing from anywhere":  {nil, "no database", 1},
		"a directory for a file": {[]string{"CREDENTIALS_DIRECTORY=" + filepath.Dir(mkdir(t, "database_url"))}, "credential database_url of $CREDENTIALS_DIRECTORY", 1},
		"an empty file":          {[]string{"CREDENTIALS_DIRECTORY=" + filepath.Dir(touch(t, "database_url"))}, "credential database_url of $CREDENTIALS_DIRECTORY is empty", 1},
	} {
		stdout, stderr, code := call(t, c.env, "migrate", "status")
		assert.Equal(t, c.code, code, "%s: %s", name, stderr)
		assert.Contains(t, stdout+stderr, c.want, name)
		assert.NotContains(t, stderr, "garbage", name)
	}
}

func mkdir(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.Mkdir(path, 0o700))
	return path
}

func touch(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return path
}

// The image's health check is run as the image would run it.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := call(t, nil, "assets", "dockerfile")
	require.Equal(t, 0, code, stderr)
	stages := regexp.MustCompile(`(?m)^FROM (.*)$`).FindAllStringSubmatch(stdout, -1)
	require.NotEmpty(t, stages)
	assert.Equal(t, "scratch", stages[len(stages)-1][1], "nothing but the program")
	assert.Regexp(t, `(?m)^USER [1-9]\d*:[1-9]\d*$`, stdout, "not root, by number: there is no /etc/passwd")

	words := func(instruction string) (words []string) {
		found := regexp.MustCompile(`(?m)^` + instruction + ` (\[.*\])$`).FindStringSubmatch(stdout)
		require.NotNil(t, found, instruction)
		require.NoError(t, json.Unmarshal([]byte(found[1]), &words))
		return words
	}
	assert.Equal(t, []string{"/riverhook"}, words("ENTRYPOINT"))
	assert.Equal(t, []string{"serve"}, words("CMD"))
	check := words(`HEALTHCHECK (?:--\S+ )*CMD`)
	require.Equal(t, "/riverhook", check[0])

	db := pgtest.New(t)
	s := serve(t, db.URL, true)
	listen := "RIVERHOOK_LISTEN=" + strings.TrimPrefix(s.url, "http://")
	stdout, stderr, code = call(t, []string{listen}, check[1:]...)
	assert.Equal(t, 0, code, stderr)
	assert.Equal(t, "ok\n", stdout)
	stdout, stderr, code = call(t, []string{listen}, "health", "--ready")
	assert.Equal(t, 0, code, stderr)
	assert.Equal(t, "ready\n", stdout)
	require.NoError(t, s.Process.Kill())
	<-s.done
	_, stderr, code = call(t, []string{listen}, check[1:]...)
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "no answer from 127.0.0.1:")
}

func TestHealthOfOneThatWaits(t *testing.T) {
	t.Parallel()
	s := serve(t, "postgres://someone@127.0.0.1:1/app", false)
	listen := "RIVERHOOK_LISTEN=" + strings.TrimPrefix(s.url, "http://")
	_, stderr, code := call(t, []string{listen}, "health")
	assert.Equal(t, 0, code, stderr)
	_, stderr, code = call(t, []string{listen}, "health", "--ready")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "not ready")
}

func TestReachable(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1:8090": "127.0.0.1:8090", "0.0.0.0:8090": "127.0.0.1:8090", ":8090": "127.0.0.1:8090", "[::]:8090": "[::1]:8090",
		"localhost:1": "localhost:1", "10.1.2.3:80": "10.1.2.3:80", "[::1]:80": "[::1]:80",
	} {
		got, err := reachable(listen)
		require.NoError(t, err, listen)
		assert.Equal(t, want, got)
	}
	_, err := reachable("8090")
	assert.Error(t, err)
}
