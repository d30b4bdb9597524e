package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of /proc/PID/stat: USER_HZ, which is 100 wherever Go runs.
const clockTick = time.Second / 100

// processStat is what /proc says about a process.
type processStat struct {
	parent      int
	own, waited time.Duration // CPU time: its own, and that of its children that have ended
}

// readProcess reads /proc/PID/stat; not ok where there is none.
func readProcess(pid int) (p processStat, ok bool) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return p, false
	}
	// The name, in parentheses, may hold anything.
	_, rest, ok := cutLast(string(text), ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return p, false
	}
	ticks := func(i int) time.Duration {
		n, _ := strconv.ParseInt(fields[i-3], 10, 64) // i as proc(5) counts
		return time.Duration(n) * clockTick
	}
	p.parent, err = strconv.Atoi(fields[4-3])
	p.own, p.waited = ticks(14)+ticks(15), ticks(16)+ticks(17)
	return p, err == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// familyCPU is the CPU time of a process and its children, the ended ones included. A child that ends while they are read
// would be counted twice or not at all, so they are read again then.
func familyCPU(pid int) (time.Duration, bool) {
	for range 5 {
		before, ok := readProcess(pid)
		if !ok {
			return 0, false
		}
		total := before.own + before.waited
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return 0, false
		}
		for _, entry := range entries {
			child, err := strconv.Atoi(entry.Name())
			if err != nil {
				continue
			}
			if p, ok := readProcess(child); ok && p.parent == pid {
				total += p.own + p.waited
			}
		}
		if after, ok := readProcess(pid); ok && after.waited == before.waited {
			return total, true
		}
	}
	return 0, false
}

// busyCPU is the CPU time that the whole machine has used so far.
func busyCPU() (busy time.Duration, ok bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal ...
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, false
	}
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		busy += time.Duration(n) * clockTick
	}
	return busy, true
}

// ownCPU is the CPU time that this process and its ended children have used so far.
func ownCPU() (used time.Duration) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			used += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return used
}

// peakMemory is the most memory that a process has had, in bytes; 0 where the system does not say.
func peakMemory(pid int) int64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}
