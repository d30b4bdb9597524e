package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) {
	code := pgtest.Run(m)
	if builtIn != "" {
		_ = os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// builtIn is where built has built.
var builtIn string

// built is the program, built with the failpoints, which do nothing unless they are asked for: for what the test binary
// cannot be told to do. It is the same for all tests.
var built = sync.OnceValues(func() (string, error) {
	var err error
	if builtIn, err = os.MkdirTemp(os.Getenv("TEST_BUILD_DIR"), "riverhook-built-"); err != nil {
		return "", err
	}
	path := filepath.Join(builtIn, "riverhook")
	command := exec.Command("go", "build", "-buildvcs=false", "-tags", "failpoints", "-ldflags", "-X main.version=built", "-o", path, ".") //nolint:gosec,noctx // ours
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})
