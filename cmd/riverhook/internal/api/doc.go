// Package api is the HTTP API under /v1, its OpenAPI document and a page to read it. It speaks JSON with the names of the
// columns, answers what is wrong as application/problem+json, and never shows a secret but the one that it just made.
package api
