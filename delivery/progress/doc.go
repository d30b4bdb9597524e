// Package progress is where the loops of a process say that they get on, for whoever is to notice that one of them does not.
package progress
