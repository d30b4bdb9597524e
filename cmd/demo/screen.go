package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// screen is where the demo writes: a terminal, or anything that takes lines.
type screen struct {
	out   *os.File
	live  bool // what was written can be written over
	color bool
	block int // lines of the last block
}

func newScreen(out *os.File) *screen {
	s := &screen{out: out}
	width, height, err := term.GetSize(int(out.Fd()))
	terminal := err == nil && os.Getenv("TERM") != "dumb"
	s.live = terminal && (width == 0 || width >= 90) && (height == 0 || height >= 12)
	s.color = terminal && os.Getenv("NO_COLOR") == ""
	return s
}

func (s *screen) onTerminal() bool { return term.IsTerminal(int(s.out.Fd())) }

func (s *screen) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// redraw writes lines over those of the last redraw, which must have been the last thing written.
func (s *screen) redraw(lines []string) {
	var b strings.Builder
	if s.block > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.block)
	}
	for _, line := range lines {
		b.WriteString("\r\x1b[2K" + line + "\n")
	}
	s.block = len(lines)
	s.printf("%s", b.String())
}

// clearLine removes the ^C that a terminal shows.
func (s *screen) clearLine() {
	if s.live {
		s.printf("\r\x1b[2K")
	}
}

func (s *screen) bold(text string) string  { return s.paint("1", text) }
func (s *screen) dim(text string) string   { return s.paint("2", text) }
func (s *screen) green(text string) string { return s.paint("32", text) }
func (s *screen) red(text string) string   { return s.paint("31", text) }

func (s *screen) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
