package delivery

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// StatusSet is a set of HTTP statuses. Its zero value is empty.
type StatusSet struct{ ranges []statusRange }

type statusRange struct{ from, to int }

// defaultRetryable: the statuses that say "not now". 520 to 524 and 530 are those of content delivery networks whose
// origin is unreachable, 529 is an overloaded site.
const defaultRetryable = "408,425,429,500,502-504,520-524,529-530"

// DefaultRetryable are the statuses that are worth another attempt unless a setting replaces them.
func DefaultRetryable() StatusSet {
	set, err := ParseStatusSet(defaultRetryable)
	if err != nil {
		panic(err) // a constant of ours
	}
	return set
}

// ParseStatusSet reads a comma list of statuses and ranges, as in "408,429,500-599". Only 300 to 599 can be in it: 2xx is
// a success.
func ParseStatusSet(list string) (StatusSet, error) {
	var set StatusSet
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		low, high, isRange := strings.Cut(item, "-")
		if !isRange {
			high = low
		}
		from, errFrom := strconv.Atoi(strings.TrimSpace(low))
		to, errTo := strconv.Atoi(strings.TrimSpace(high))
		if errFrom != nil || errTo != nil || from < 300 || to > 599 || from > to {
			return StatusSet{}, fmt.Errorf("%q: a status between 300 and 599, or a range such as 500-599, is wanted", item)
		}
		set.ranges = append(set.ranges, statusRange{from, to})
	}
	return set, nil
}

// Contains says whether status is in the set.
func (s StatusSet) Contains(status int) bool {
	for _, r := range s.ranges {
		if status >= r.from && status <= r.to {
			return true
		}
	}
	return false
}

// String is the list that ParseStatusSet reads.
func (s StatusSet) String() string {
	items := make([]string, len(s.ranges))
	for i, r := range s.ranges {
		items[i] = strconv.Itoa(r.from)
		if r.to != r.from {
			items[i] += "-" + strconv.Itoa(r.to)
		}
	}
	return strings.Join(items, ",")
}

// All are the statuses of the set, in the order in which it was written.
func (s StatusSet) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, r := range s.ranges {
			for status := r.from; status <= r.to; status++ {
				if !yield(status) {
					return
				}
			}
		}
	}
}
