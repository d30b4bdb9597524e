package main

import (
	"math/rand/v2"
	"time"
)

// step is one fault of a schedule.
type step struct {
	At   time.Duration // after the beginning, or when the step before it has ended
	Kind *kind
	For  time.Duration
	// What it strikes, as numbers that whoever does it makes sense of.
	Node, Receiver, Size int
}

// kind is a sort of fault. Those of one lane come one after another; the lanes go side by side.
type kind struct {
	name             string
	lane             int
	least, most      time.Duration // of how long it lasts
	smallest, widest int           // of its size
	do               func(*torture, step) doing
}

// lanes of faults: processes; the database and the way to it; receivers and people.
const (
	laneProcesses = iota
	laneDatabase
	laneWorld
	lanes
)

// pauses between the faults of a lane. With shorter ones there is always a fault that explains anything.
var pauses = [lanes][2]time.Duration{
	laneProcesses: {time.Second, 6 * time.Second},
	laneDatabase:  {time.Second, 5 * time.Second},
	laneWorld:     {300 * time.Millisecond, 3 * time.Second},
}

// firstFault is how long all is well at the beginning.
const firstFault = 2 * time.Second

// plan is the schedule that a seed stands for: for each lane its faults, in order, that begin within duration. Kinds are dealt
// like cards, so that each comes before any comes twice.
func plan(seed uint64, duration time.Duration, kinds []*kind, nodes, receivers int) [lanes][]step {
	var schedule [lanes][]step
	for lane := range lanes {
		random := rand.New(rand.NewPCG(seed, uint64(lane))) //nolint:gosec // not a secret
		var deck, all []*kind
		for _, k := range kinds {
			if k.lane == lane {
				all = append(all, k)
			}
		}
		between := func(least, most time.Duration) time.Duration {
			return least + time.Duration(random.Int64N(int64(most-least)+1))
		}
		for at := firstFault + between(0, pauses[lane][1]); len(all) > 0; {
			if len(deck) == 0 {
				deck = append(deck, all...)
				random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
			}
			k := deck[0]
			deck = deck[1:]
			s := step{
				At: at, Kind: k, For: between(k.least, k.most),
				Node: random.IntN(nodes), Receiver: random.IntN(receivers), Size: k.smallest + random.IntN(k.widest-k.smallest+1),
			}
			if at+s.For >= duration {
				break
			}
			schedule[lane] = append(schedule[lane], s)
			at += s.For + between(pauses[lane][0], pauses[lane][1])
		}
	}
	return schedule
}
