package dashboard

import (
	"context"
	"errors"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/counts"
	"github.com/riverhook/riverhook/delivery/store"
)

// heldShown is how many pairs of receiver and organization a page shows of what is held back.
const heldShown = 50

// heldBack is what is held back, as it was when it was counted.
type heldBack struct {
	Groups []store.HeldGroup
	More   bool
}

func (d *Dashboard) heldBack(ctx context.Context, organization string) (h heldBack, err error) {
	h.Groups, h.More, err = d.reads.HeldOf(ctx, organization, heldShown)
	return h, err
}

func (d *Dashboard) registerOverview() {
	d.page("GET /{$}", auth.ScopeRead, nil, d.showOverview)
	d.page("GET /dead-letters", auth.ScopeRead, nil, d.showDeadLetters)
}

// kept is what was counted last, or nil while the first counting goes on for long.
func kept[T any](ctx context.Context, cache *counts.Cache[T], organization string) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, countsWait)
	defer cancel()
	value, err := cache.Get(ctx, organization)
	if errors.Is(err, counts.ErrSlow) || err != nil && store.IsTooSlow(err) {
		return nil, nil //nolint:nilnil // the page says that it is not there yet
	}
	if err != nil {
		return nil, err
	}
	return &value, nil
}

type overviewData struct {
	Stats    *store.Stats
	Overview *store.Overview
	Chart    *chartData
	Held     *heldBack
	Nodes    []store.NodeRow
	All      bool // organizations
	Operate  bool
}

func (d *Dashboard) showOverview(ctx context.Context, v *visit) (answer, error) {
	data := overviewData{All: v.Organization == "", Operate: v.may(auth.ScopeOperate)}
	var err error
	if data.Stats, err = kept(ctx, d.Counts, v.Organization); err != nil {
		return answer{}, err
	}
	if data.Overview, err = kept(ctx, d.overview, v.Organization); err != nil {
		return answer{}, err
	}
	if data.Overview != nil {
		data.Chart = newChartData(data.Overview.Minutes)
	}
	if data.Held, err = kept(ctx, d.held, v.Organization); err != nil {
		return answer{}, err
	}
	if data.All { // a node belongs to no organization
		if data.Nodes, err = d.reads.Nodes(ctx); err != nil {
			return answer{}, err
		}
	}
	return answer{template: "overview", title: "Overview", data: data}, nil
}

type deadLettersData struct {
	*store.DeadLetters
	Operate bool
}

func (d *Dashboard) showDeadLetters(ctx context.Context, v *visit) (answer, error) {
	letters, err := kept(ctx, d.deadLetters, v.Organization)
	if err != nil {
		return answer{}, err
	}
	return answer{template: "dead_letters", title: "Dead letters", data: deadLettersData{letters, v.may(auth.ScopeOperate)}}, nil
}
