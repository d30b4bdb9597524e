// Package check says whether riverhook kept its promises while somebody tried to break it: it compares what an application
// committed, what a receiver got and what the tables say.
//
// It shares no code with the program it judges: it has its own words for its tables, its own SQL, and its own idea of what
// may follow what.
package check
