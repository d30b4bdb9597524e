// Package events tells people about receivers: when their deliveries begin to fail, when one is dead-lettered, when they
// recover. It watches the attempts of this node in memory and, every few seconds, tells the database what it saw: there all
// nodes together decide, so that an event of a kind about a receiver is told once in five minutes, whoever saw it.
//
// What a node that is killed saw since it last told (a flush, see Interval) is lost, and so is what the database could not
// be told while there was too much of it: events are no ledger. What was decided is not lost: an event is stored in the
// transaction that decides it, as a delivery like any other.
package events
