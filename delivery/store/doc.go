// Package store holds every SQL statement of riverhook outside its migrations, each as a const beside the method that
// runs it. Claims, records and releases take many rows in one statement, which is one transaction and one round trip.
//
// All times that are stored are computed by Postgres.
package store
