// Package egress says where and how a request may go out. It imports no package of riverhook.
package egress
