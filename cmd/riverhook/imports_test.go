package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/riverhook/riverhook/"

// imports says which packages of ours each package may import, in its code (tests may import more). A package that is not
// in it, and an import that is not in its list, fail the test: think before you add one.
var imports = map[string][]string{
	"delivery":                         {},
	"delivery/credential":              {},
	"delivery/egress":                  {},
	"delivery/failpoint":               {},
	"delivery/progress":                {},
	"delivery/signing":                 {},
	"delivery/store":                   {"delivery", "delivery/failpoint"},
	"worker":                           {"delivery", "delivery/credential", "delivery/egress", "delivery/failpoint", "delivery/progress", "delivery/signing", "delivery/store"},
	"sweeper":                          {"delivery", "delivery/failpoint", "delivery/progress", "delivery/store"},
	"migrations":                       {},
	"migrations/pgtemp":                {},
	"migrations/pgtest":                {"migrations", "migrations/pgtemp"},
	"cmd/riverhook":                    {"cmd/riverhook/internal/api", "cmd/riverhook/internal/auth", "cmd/riverhook/internal/bench", "cmd/riverhook/internal/counts", "cmd/riverhook/internal/dashboard", "cmd/riverhook/internal/events", "cmd/riverhook/internal/metrics", "cmd/riverhook/internal/node", "cmd/riverhook/internal/tracing", "delivery", "delivery/credential", "delivery/egress", "delivery/failpoint", "delivery/progress", "delivery/signing", "delivery/store", "migrations", "sweeper"},
	"cmd/riverhook/internal/api":       {"cmd/riverhook/internal/ask", "cmd/riverhook/internal/auth", "cmd/riverhook/internal/counts", "delivery", "delivery/credential", "delivery/signing", "delivery/store"},
	"cmd/riverhook/internal/auth":      {"delivery/credential", "delivery/store"},
	"cmd/riverhook/internal/bench":     {"delivery", "delivery/egress", "delivery/store", "migrations", "migrations/pgtemp"},
	"cmd/riverhook/internal/counts":    {},
	"cmd/riverhook/internal/node":      {"cmd/riverhook/internal/events", "cmd/riverhook/internal/replay", "delivery", "delivery/credential", "delivery/egress", "delivery/progress", "delivery/store", "migrations", "sweeper", "worker"},
	"cmd/riverhook/internal/replay":    {"delivery/store"},
	"cmd/riverhook/internal/metrics":   {"delivery", "delivery/store", "sweeper", "worker"},
	"cmd/riverhook/internal/events":    {"delivery", "delivery/progress", "delivery/store"},
	"cmd/riverhook/internal/tracing":   {"delivery"},
	"cmd/demo":                         {"migrations/pgtemp"},
	"cmd/devpg":                        {"migrations/pgtemp"},
	"cmd/torture":                      {"cmd/torture/internal/check", "migrations/pgtemp"},
	"cmd/torture/internal/check":       {}, // the judge shares nothing with whom it judges
	"cmd/riverhook/internal/ask":       {"cmd/riverhook/internal/auth", "delivery", "delivery/store"},
	"cmd/riverhook/internal/dashboard": {"cmd/riverhook/internal/ask", "cmd/riverhook/internal/auth", "cmd/riverhook/internal/counts", "delivery", "delivery/credential", "delivery/signing", "delivery/store"},
}

// standardOnly are packages that import nothing but ours and the standard library.
var standardOnly = []string{"delivery", "delivery/credential", "delivery/failpoint", "delivery/progress", "delivery/signing"}

func TestImports(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	command.Dir = "../.."
	out, err := command.Output()
	require.NoError(t, err)
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	found := 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, known := imports[name]
		if !assert.True(t, known, "%s: a new package: say in this table what it may import", name) {
			continue
		}
		found++
		for _, i := range p.Imports {
			ours, isOurs := strings.CutPrefix(i, module)
			if isOurs {
				assert.Contains(t, allowed, ours, "%s must not import %s", name, ours)
			} else if slices.Contains(standardOnly, name) {
				assert.NotContains(t, i, ".", "%s imports the standard library only", name)
			}
		}
	}
	assert.Equal(t, len(imports), found, "a package in the table is gone")
}
