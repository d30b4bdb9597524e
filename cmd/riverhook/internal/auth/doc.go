// Package auth says who asks over HTTP, and what they may do: tokens, their scopes and their organization. What is served
// over HTTP shares it.
package auth
