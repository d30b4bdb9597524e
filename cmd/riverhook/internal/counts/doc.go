// Package counts keeps counts of deliveries for all that shows them, so that nobody who asks has millions of rows counted.
package counts
