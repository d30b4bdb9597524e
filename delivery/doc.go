// Package delivery says what a delivery is and holds the only rules by which it changes. It imports the standard library
// only and has no clock, no chance and no I/O: the time and the jitter are arguments.
//
// A delivery is one webhook to be delivered. It takes one or more attempts, each one HTTP try; an outcome is what the try
// showed; Decide says what becomes of the delivery then.
package delivery
