//go:build unix

package pgtemp

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFind(t *testing.T) {
	t.Parallel()
	none := func(string) (string, error) { return "", exec.ErrNotFound }
	nowhere := func() string { return "" }

	t.Run("nothing says what to do in one line", func(t *testing.T) {
		t.Parallel()
		_, err := find(none, nowhere, nil)
		require.ErrorIs(t, err, ErrNotFound)
		assert.NotContains(t, err.Error(), "\n")
		assert.Contains(t, err.Error(), "apt-get install postgresql")
		assert.Contains(t, err.Error(), "TEST_DATABASE_URL")
	})
	t.Run("the highest version wins", func(t *testing.T) {
		t.Parallel()
		root := realTempDir(t)
		for _, version := range []string{"9.6", "15", "16", "8.4"} {
			programs(t, filepath.Join(root, version, "bin"), serverPrograms...)
		}
		programs(t, filepath.Join(root, "17", "bin"), "initdb") // a client's leftovers
		dir, err := find(none, nowhere, []string{filepath.Join(root, "*", "bin")})
		require.NoError(t, err)
		assert.Equal(t, filepath.Join(root, "16", "bin"), dir)
	})
	t.Run("a link in PATH leads to the directory", func(t *testing.T) {
		t.Parallel()
		root := realTempDir(t)
		bin := filepath.Join(root, "lib", "bin")
		programs(t, bin, serverPrograms...)
		link := filepath.Join(root, "initdb")
		require.NoError(t, os.Symlink(filepath.Join(bin, "initdb"), link))
		dir, err := find(func(string) (string, error) { return link, nil }, nowhere, nil)
		require.NoError(t, err)
		assert.Equal(t, bin, dir)
	})
	t.Run("pg_config without a server is passed over", func(t *testing.T) {
		t.Parallel()
		root := realTempDir(t)
		client := filepath.Join(root, "client", "bin")
		programs(t, client, "pg_config", "psql")
		_, err := find(none, func() string { return client }, nil)
		require.ErrorIs(t, err, ErrNotFound)

		programs(t, client, serverPrograms...)
		dir, err := find(none, func() string { return client }, nil)
		require.NoError(t, err)
		assert.Equal(t, client, dir)
	})
}

func TestForbidMainCluster(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"commented":  "# text\n#create_main_cluster = true\n#other = 1\n",
		"set":        "create_main_cluster=true\n",
		"elsewhere":  "other = 1",
		"empty":      "",
		"set for us": "create_main_cluster = false\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "createcluster.conf")
			require.NoError(t, os.WriteFile(path, []byte(before), 0o600))
			require.NoError(t, forbidMainCluster(path))
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Contains(t, strings.Split(string(after), "\n"), "create_main_cluster = false")
			assert.NotContains(t, string(after), "true")
			assert.Equal(t, strings.Contains(before, "other = 1"), strings.Contains(string(after), "other = 1"))
		})
	}
}

func realTempDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	return dir
}

func programs(t *testing.T, dir string, names ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o750))
	for _, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o700))
	}
}
