// Package migrations brings a database to riverhook's schema and River's, in one schema and with one command, says where
// a database stands, and goes back. It also grants the roles that work with the schema what each of them needs.
package migrations
