// Package failpoint names the moments at which a node may die, and kills it there in a binary that is built with the tag
// failpoints. In every other binary it does nothing, in no time: the calls are inlined away.
package failpoint
