package bench

import (
	"fmt"
	"io"
	"time"
)

// progress says how far the bench is: one line that is rewritten in a terminal, a line per finished mode elsewhere.
type progress struct {
	out      io.Writer
	terminal bool

	what    string
	started time.Time
}

func (p *progress) begin(what string) {
	p.what, p.started = what, time.Now()
	p.step("")
}

// step says what is being done.
func (p *progress) step(what string) {
	if p.out == nil || !p.terminal {
		return
	}
	line := p.what
	if line != "" && what != "" {
		line += ": "
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s%s", line, what)
}

// end says what came out of it.
func (p *progress) end(result string) {
	if p.out == nil {
		return
	}
	p.clear()
	if result != "" {
		result = ": " + result
	}
	fmt.Fprintf(p.out, "%s%s (%.1f s)\n", p.what, result, time.Since(p.started).Seconds())
	p.what = ""
}

func (p *progress) clear() {
	if p.out != nil && p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
