package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mutantDuration is how long a broken build is tortured: long enough for a fault of nearly every kind.
// Where that did not do, the next seed has its try.
const (
	mutantDuration = 40 * time.Second
	mutantTries    = 3
)

// mutant is a riverhook that is broken on purpose. The code it is made of has no switch for that: texts are replaced while it
// is compiled.
type mutant struct {
	name  string
	edits []edit
}

// edit replaces a text that must be there once.
type edit struct{ file, find, replace string }

var mutants = []mutant{
	// The ledger's primary key alone would keep most of what a fence keeps out: it goes as well.
	{"fencing off: a claim, a record and a release look at neither generation nor owner", []edit{
		{
			"delivery/store/claim.go",
			"     WHERE d.claim = w.claim AND d.status = 'pending' AND d.claimed_by IS NULL AND (d.scheduled_for IS NULL OR d.scheduled_for <= now())\n       AND (d.abandoned_count",
			"     WHERE d.status = 'pending'\n       AND (d.abandoned_count",
		},
		{
			"delivery/store/record.go",
			"     WHERE d.claim = o.claim AND d.claimed_by = o.node\n), updated AS (",
			"), updated AS (",
		},
		{
			"delivery/store/record.go",
			"      FROM updated u\n), ended AS (",
			"      FROM updated u\n        ON CONFLICT (delivery_id, round, attempt) DO UPDATE SET outcome = excluded.outcome, failure_kind = excluded.failure_kind,\n" +
				"           status_code = excluded.status_code, error = excluded.error, node = excluded.node\n), ended AS (",
		},
		{
			"delivery/store/release.go",
			"     WHERE d.claim = r.claim AND d.claimed_by = r.node\n), released AS (",
			"), released AS (",
		},
	}},
	{"the job of a retry is inserted after the transaction that records the attempt", []edit{
		{
			"delivery/store/record.go",
			"     WHERE u.next_status = 'pending'\n        ON CONFLICT",
			"     WHERE false\n        ON CONFLICT",
		},
		{
			"delivery/store/record.go",
			"\tif missing == 0 {\n\t\treturn verdicts, nil\n\t}\n\tif err := s.explainUnrecorded",
			`	_, _ = db.Exec(ctx, s.sql(` + "`" + `
		INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
		SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{schema}.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
		  FROM {schema}.deliveries d, {schema}.delivery_job(d.id, d.claim, d.scheduled_for) j
		 WHERE d.id = ANY ($1::bigint[]) AND d.status = 'pending' AND d.claimed_by IS NULL
		    ON CONFLICT (unique_key)
		 WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(unique_states, state)
		    DO NOTHING` + "`" + `), c.id)
	if missing == 0 {
		return verdicts, nil
	}
	if err := s.explainUnrecorded`,
		},
	}},
	{"the sweep is not wired: its job does nothing", []edit{
		{
			"sweeper/watch.go",
			"\tcounts, err := s.Sweep(ctx)\n",
			"\tcounts, err := Counts{}, error(nil)\n",
		},
	}},
	{"the outcome is recorded before the request is sent", []edit{
		{
			"worker/worker.go",
			"\ts := w.send(ctx, c.delivery)\n",
			`	w.record(ctx, c, &made{Attempt: store.Attempt{
		Fence: c.delivery.Fence(), Job: job, Round: c.delivery.Round, Number: c.delivery.Attempt(), Started: started, StatusCode: 200,
		Decision: delivery.Decision{Outcome: delivery.OutcomeSucceeded, Status: delivery.StatusSucceeded},
	}})
	s := w.send(ctx, c.delivery)
`,
		},
	}},
}

// apply returns the files of a mutant, by name. It fails where what is to be replaced is not there any more.
func (m mutant) apply(root string) (map[string]string, error) {
	files := make(map[string]string)
	for _, e := range m.edits {
		text, begun := files[e.file]
		if !begun {
			content, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, fmt.Errorf("torture: mutant %q: %w", m.name, err)
			}
			text = string(content)
		}
		if n := strings.Count(text, e.find); n != 1 {
			return nil, fmt.Errorf("torture: mutant %q: %s has the text to replace %d times instead of once: bring the mutant up to date\n%s",
				m.name, e.file, n, e.find)
		}
		files[e.file] = strings.Replace(text, e.find, e.replace, 1)
	}
	return files, nil
}

// build compiles a mutant into dir.
func (m mutant) build(ctx context.Context, root, dir string) (program string, err error) {
	files, err := m.apply(root)
	if err != nil {
		return "", err
	}
	root, err = filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("torture: %w", err)
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for i, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(name)))
		if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
			return "", fmt.Errorf("torture: %w", err)
		}
		overlay.Replace[filepath.Join(root, name)] = path
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", fmt.Errorf("torture: %w", err)
	}
	overlaid := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlaid, text, 0o644); err != nil {
		return "", fmt.Errorf("torture: %w", err)
	}
	program = filepath.Join(dir, "riverhook")
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlaid, "-o", program, "./cmd/riverhook")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("torture: mutant %q does not compile: %w\n%s", m.name, err, out)
	}
	return program, nil
}

// runMutants tortures every mutant. It is an error when one of them comes through.
func runMutants(ctx context.Context, o options, root string) error {
	parent, err := os.MkdirTemp("", "riverhook-mutants-")
	if err != nil {
		return fmt.Errorf("torture: %w", err)
	}
	defer func() { _ = os.RemoveAll(parent) }()
	var survivors []string
	for i, m := range mutants {
		fmt.Fprintf(o.out, "mutant %d of %d: %s\n", i+1, len(mutants), m.name)
		dir := filepath.Join(parent, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("torture: %w", err)
		}
		mutated := o
		if mutated.program, err = m.build(ctx, root, dir); err != nil {
			return err
		}
		caught := false
		for try := range mutantTries {
			mutated.seed, mutated.duration = o.seed+uint64(try), mutantDuration
			mutated.dir = filepath.Join(dir, fmt.Sprintf("seed-%d", mutated.seed))
			result, err := run(ctx, mutated)
			if err != nil {
				return err
			}
			if caught = !result.report.OK(); caught {
				fmt.Fprintf(o.out, "  caught with seed %d: %d violations\n", mutated.seed, len(result.report.Violations))
				result.printViolations(o.out, 1)
				break
			}
			fmt.Fprintf(o.out, "  not caught with seed %d\n", mutated.seed)
		}
		if !caught {
			survivors = append(survivors, m.name)
		}
	}
	if len(survivors) > 0 {
		return fmt.Errorf("%w: not caught: %s", errViolated, strings.Join(survivors, "; "))
	}
	fmt.Fprintf(o.out, "all %d mutants were caught\n", len(mutants))
	return nil
}
