//go:build unix

package pgtemp

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNotFound is what [Find] returns when this machine has no PostgreSQL
// server binaries. Its text is one line that says what to do.
var ErrNotFound = errors.New("pgtemp: no PostgreSQL server binaries found: " +
	"install them (Debian: apt-get install postgresql; macOS: brew install postgresql@17) " +
	"or set TEST_DATABASE_URL to a role that may create databases")

// serverPrograms are the binaries a directory must hold to be of use here.
var serverPrograms = []string{"initdb", "postgres", "pg_ctl"}

// packagedDirs are the places packagers put server binaries without linking
// them into PATH. In each, the highest version wins; an earlier line wins over
// a later one.
var packagedDirs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/opt/local/lib/postgresql*/bin",
}

// Find returns the directory of the PostgreSQL server binaries initdb,
// postgres and pg_ctl. It looks at PATH, then at what pg_config --bindir says,
// then where Debian, Red Hat, Homebrew, Postgres.app and MacPorts put them,
// the highest version first. Its only error is [ErrNotFound].
func Find() (binDir string, err error) {
	return find(exec.LookPath, pgConfigBinDir, packagedDirs)
}

func find(
	lookPath func(string) (string, error), pgConfig func() string, globs []string,
) (string, error) {
	if initdb, err := lookPath("initdb"); err == nil {
		// PATH often holds only links, and not of every program.
		if target, err := filepath.EvalSymlinks(initdb); err == nil {
			initdb = target
		}
		if dir := filepath.Dir(initdb); isBinDir(dir) {
			return dir, nil
		}
	}
	// pg_config comes with the client library's headers too, so its word alone
	// does not mean that there is a server.
	if dir := pgConfig(); dir != "" && isBinDir(dir) {
		return dir, nil
	}
	for _, glob := range globs {
		dirs, err := filepath.Glob(glob)
		if err != nil {
			continue
		}
		dirs = slices.DeleteFunc(dirs, func(dir string) bool { return !isBinDir(dir) })
		if len(dirs) > 0 {
			return slices.MaxFunc(dirs, func(a, b string) int {
				return slices.Compare(versionIn(a), versionIn(b))
			}), nil
		}
	}
	return "", ErrNotFound
}

func pgConfigBinDir() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func isBinDir(dir string) bool {
	for _, name := range serverPrograms {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return filepath.IsAbs(dir)
}

// versionIn returns the numbers in the name of a bin directory's parent, so
// that 16 is above both 9.6 and 15.
func versionIn(binDir string) []int {
	name := filepath.Base(filepath.Dir(binDir))
	var version []int
	for field := range strings.FieldsFuncSeq(name, func(r rune) bool { return r < '0' || r > '9' }) {
		if n, err := strconv.Atoi(field); err == nil {
			version = append(version, n)
		}
	}
	return version
}
