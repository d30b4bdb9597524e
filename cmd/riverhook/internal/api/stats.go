package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// statsAge is how old counts are at least before they are counted again.
	statsAge = 10 * time.Second
	// statsShare bounds what counting costs: after it took a second, it is not done again for 20.
	statsShare = 20
	// statsWait is how long a first caller waits for the counts; the next ones get old counts while new ones are made.
	statsWait = 25 * time.Second
	// maxStats bounds the organizations whose counts are kept.
	maxStats = 1000
)

func (a *API) registerStats() {
	get(a, huma.Operation{
		OperationID: "get-stats", Method: http.MethodGet, Path: "/v1/stats", Tags: []string{"Stats"},
		Summary:     "Count deliveries by status",
		Description: "Of the token's organization, or of all. The counts are kept, and made again when somebody asks for them after a while (10 s, or longer where counting takes long): as_of says when.",
	}, auth.ScopeRead, a.getStats)
}

type stats struct {
	Counts    map[delivery.Status]int64 `json:"counts" doc:"Of each status."`
	Due       int64                     `json:"due" doc:"Pending, not being sent, and their time has come: the backlog."`
	Sending   int64                     `json:"sending" doc:"Being sent."`
	OldestDue *time.Time                `json:"oldest_due" doc:"Since when the oldest of the due ones is due; null when there is none."`
	AsOf      time.Time                 `json:"as_of"`
}

type statsOutput struct{ Body stats }

func (a *API) getStats(ctx context.Context, c call, _ *none) (*statsOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, statsWait)
	defer cancel()
	s, err := a.stats.get(ctx, c.Organization)
	if err != nil {
		return nil, err
	}
	return &statsOutput{stats{s.Statuses, s.Due, s.Sending, s.OldestDue, s.At}}, nil
}

// count counts, whoever asked: the next ones want to know it, too.
func (a *API) count(organization string) (store.Stats, error) {
	return a.store.Stats(a.life, organization)
}

// statsCache keeps counts, and has them counted again by one caller at a time. Nobody who asks counts for himself.
type statsCache struct {
	count func(organization string) (store.Stats, error)

	mu       sync.Mutex
	kept     map[string]*keptStats
	counting sync.Mutex // one at a time, whatever the organization
}

type keptStats struct {
	stats store.Stats
	err   error
	due   time.Time     // when to count again; zero: never counted
	done  chan struct{} // closed when the counting that is under way has ended; nil: none is
}

// get is what was counted last, and if there is nothing yet, what is counted now.
func (c *statsCache) get(ctx context.Context, organization string) (store.Stats, error) {
	c.mu.Lock()
	if c.kept == nil || len(c.kept) > maxStats {
		c.kept = make(map[string]*keptStats)
	}
	k := c.kept[organization]
	if k == nil {
		k = &keptStats{}
		c.kept[organization] = k
	}
	if k.done == nil && !time.Now().Before(k.due) {
		k.done = make(chan struct{})
		go c.refresh(organization, k)
	}
	done, stats := k.done, k.stats
	c.mu.Unlock()
	if !stats.At.IsZero() {
		return stats, nil
	}
	if done != nil { // or it failed a moment ago
		select {
		case <-done:
		case <-ctx.Done():
			return store.Stats{}, unavailable("counting takes long: try again")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return k.stats, k.err
}

func (c *statsCache) refresh(organization string, k *keptStats) {
	c.counting.Lock()
	started := time.Now()
	stats, err := c.count(organization)
	took := time.Since(started)
	c.counting.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if k.err = err; err == nil {
		k.stats = stats
	}
	k.due = time.Now().Add(max(statsAge, statsShare*took))
	close(k.done)
	k.done = nil
}
