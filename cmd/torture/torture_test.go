package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtemp"
)

// shortDuration is how long faults strike in the tests; what comes before and after takes about as long again.
// fixedSeed is one whose schedule has most kinds of faults in that time.
const (
	shortDuration = 30 * time.Second
	fixedSeed     = 5141
)

// TestTorture is the short form of `make torture`: two schedules that are always the same, and one that never is.
func TestTorture(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes two minutes")
	}
	if _, err := pgtemp.Find(); errors.Is(err, pgtemp.ErrNotFound) {
		t.Skip("there is no PostgreSQL here that could be stopped and started: ", err)
	}
	program := filepath.Join(t.TempDir(), "riverhook")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/riverhook")
	build.Dir = "../.."
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))

	// One after the other: each has a Postgres and three nodes, and what is late for want of a processor proves nothing.
	for name, seed := range map[string]uint64{"fixed": fixedSeed, "fixed, another": 7, "random": uint64(rand.Uint32())} { //nolint:gosec // not a secret
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			dir, err := os.MkdirTemp("", "riverhook-torture-test-") //nolint:usetesting // stays where there is something to look into
			require.NoError(t, err)
			result, err := run(t.Context(), options{
				program: program, duration: shortDuration, seed: seed, nodes: 3, rate: 40,
				dir: filepath.Join(dir, "run"), out: &said, verbose: true,
			})
			require.NoError(t, err, "seed %d: what there is of the run is in %s\n%s", seed, dir, said.String())
			result.print(&said)
			t.Logf("seed %d, %s\n%s", seed, shortDuration, said.String())
			if assert.True(t, result.report.OK(), "seed %d: the evidence is in %s", seed, dir) {
				require.NoError(t, os.RemoveAll(dir))
			}
			assert.NotEmpty(t, result.counts, "no fault struck")
			assert.Positive(t, result.report.Delivered)
			assert.Positive(t, result.report.RolledBack)
			assert.True(t, result.rested)
		})
	}
}

// Each mutant is a change to the code as it is now, and compiles.
func TestMutantsBuild(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		files, err := m.apply("../..")
		require.NoError(t, err)
		for name, text := range files {
			content, err := os.ReadFile(filepath.Join("../..", name))
			require.NoError(t, err)
			assert.NotEqual(t, string(content), text, "%s: %s", m.name, name)
		}
		_, err = m.build(t.Context(), "../..", t.TempDir())
		assert.NoError(t, err, m.name)
	}
}

// TestMutantThatIsOutOfDate: one that silently replaced nothing would be caught by nobody.
func TestMutantThatIsOutOfDate(t *testing.T) {
	t.Parallel()
	_, err := mutant{"old", []edit{{"go.mod", "this is not in it", ""}}}.apply("../..")
	require.ErrorContains(t, err, "bring the mutant up to date")
	_, err = mutant{"ambiguous", []edit{{"go.mod", "github.com", ""}}}.apply("../..")
	require.ErrorContains(t, err, "bring the mutant up to date")
}

func TestPlanIsTheSeeds(t *testing.T) {
	t.Parallel()
	all := kinds()
	const duration = 20 * time.Minute
	schedule := plan(42, duration, all, 3, receiverCount)
	assert.Equal(t, schedule, plan(42, duration, all, 3, receiverCount))
	assert.NotEqual(t, schedule, plan(43, duration, all, 3, receiverCount))

	struck := make(map[string]bool)
	for lane, steps := range schedule {
		end := firstFault
		for _, s := range steps {
			struck[s.Kind.name] = true
			assert.Equal(t, lane, s.Kind.lane)
			assert.GreaterOrEqual(t, s.At, end, "faults of a lane follow each other")
			assert.True(t, s.For >= s.Kind.least && s.For <= s.Kind.most, "every fault is bounded")
			assert.True(t, s.Node >= 0 && s.Node < 3 && s.Receiver >= 0 && s.Receiver < receiverCount)
			end = s.At + s.For
		}
		assert.Less(t, end, duration)
	}
	assert.Len(t, struck, len(all), "every kind comes in twenty minutes")

	struck = make(map[string]bool)
	for _, steps := range plan(fixedSeed, shortDuration, all, 3, receiverCount) {
		for _, s := range steps {
			struck[s.Kind.name] = true
		}
	}
	assert.GreaterOrEqual(t, len(struck), 20, "choose another seed for the short form: %v", struck)
}

// TestJobsGoneNeverGoesBack: a TRUNCATE soon after the clock was ahead must not forget the rows of then.
func TestJobsGoneNeverGoesBack(t *testing.T) {
	t.Parallel()
	var gone jobsGone
	now := time.Now()
	assert.True(t, gone.mark().IsZero())
	gone.begin()
	assert.Equal(t, never, gone.mark())
	gone.end(now.Add(time.Minute))
	gone.begin()
	assert.Equal(t, never, gone.mark())
	gone.end(now)
	assert.Equal(t, now.Add(time.Minute), gone.mark())
}

func TestJournalIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "requests.jsonl")
	log, err := openJournal(path)
	require.NoError(t, err)
	var first, second, third event
	first.Number, first.UUID = 1, "a"
	second.Number, second.UUID = 2, "b"
	third = first
	third.Ended, third.Status, third.End = true, 200, time.Now().UTC().Round(0)
	for _, e := range []event{first, second, third} {
		log.add(e)
	}
	require.NoError(t, log.close())
	requests, err := readRequests(path)
	require.NoError(t, err)
	require.Len(t, requests, 2)
	assert.Equal(t, third.Request, requests[0])
	assert.Equal(t, "b", requests[1].UUID, "one that never ended is there all the same")

	log, err = openJournal(filepath.Join(t.TempDir(), "x"))
	require.NoError(t, err)
	require.NoError(t, log.close())
	log.add(first)
	require.Error(t, log.close(), "what could not be written is not lost in silence")
}
