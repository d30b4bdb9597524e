// Package egress says where and how a request may go out. It imports no package of riverhook.
//
// Where: a [Guard] judges the address that is about to be dialled, on every dial, after name resolution. Nothing earlier
// can be trusted: names resolve anew each time, and hosts such as ①②⑦.⓪.⓪.① turn into addresses on the way. How:
// [NewTransport] and [Prepare].
package egress
