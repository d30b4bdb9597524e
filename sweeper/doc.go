// Package sweeper finds what a crash or an outage left behind: due deliveries without a live job, and claims whose node
// is gone. It is a River periodic job, and can be run at once by hand. Another such job, retention, removes deliveries that
// ended long ago.
package sweeper
