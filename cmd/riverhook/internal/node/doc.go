// Package node is one running riverhook: connection pools, River's client, the worker and the sweeper, put together.
package node
