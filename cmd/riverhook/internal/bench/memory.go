package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// memoryOrigins is how many receivers hold requests open: no origin has more than a default share of the attempts.
const memoryOrigins = 20

// gate holds requests until it opens, and counts them.
type gate struct {
	ledger *ledger
	open   chan struct{}
	once   sync.Once

	mu         sync.Mutex
	held, peak int
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

func (g *gate) count(by int) (held, peak int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held += by
	g.peak = max(g.peak, g.held)
	return g.held, g.peak
}

func (g *gate) answer(_ http.ResponseWriter, r *http.Request) {
	g.ledger.enter(r)
	_, _ = io.Copy(io.Discard, r.Body)
	g.count(1)
	defer g.count(-1)
	select {
	case <-g.open:
	case <-r.Context().Done():
	}
}

// memory measures the peak memory of riverhook while receivers hold as many requests as it has attempts in flight.
func (b *bench) memory(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	n := b.sizes.inFlight
	g := &gate{ledger: newLedger(n), open: make(chan struct{})}
	defer g.release()
	rows := make([]row, n)
	var receivers []*receiver
	for range memoryOrigins {
		r, err := receive(ctx, g.answer)
		if err != nil {
			return err
		}
		defer r.close()
		receivers = append(receivers, r)
	}
	for i := range rows {
		rows[i] = row{g.ledger.ids[i], receivers[i%memoryOrigins].url}
	}
	if err := b.insert(ctx, schema, rows); err != nil {
		return err
	}
	c, err := b.work(ctx, schema, nil, []string{"serve"}, func(c *child) error {
		b.progress.step("filling up")
		if err := g.fill(ctx, n); err != nil {
			return err
		}
		b.progress.step("holding")
		if err := sleep(ctx, b.sizes.held); err != nil {
			return err
		}
		g.release()
		_, err := b.recorded(ctx, schema, c, g.ledger)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.verify(ctx, schema, g.ledger); err != nil {
		return err
	}
	_, peak := g.count(0)
	b.note("memory.in_flight", float64(peak))
	if c.memory > 0 {
		b.note("memory.peak", megabytes(c.memory))
	}
	return b.database.dropSchemas(ctx, b.keptSchema())
}

// fillTimeout is how long it may take until all are in flight. With fewer, the figure says how many there were.
const fillTimeout = 15 * time.Second

func (g *gate) fill(ctx context.Context, n int) error {
	for deadline := time.Now().Add(fillTimeout); time.Now().Before(deadline); {
		if held, _ := g.count(0); held >= n {
			return nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	if held, _ := g.count(0); held == 0 {
		return fmt.Errorf("no request came within %s", fillTimeout)
	}
	return nil
}
