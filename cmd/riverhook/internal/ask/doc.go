// Package ask reads what people ask for over HTTP, for the API and the dashboard alike: which deliveries, which page of them,
// and why something cannot be done to one.
package ask
