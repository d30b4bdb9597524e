// Package signing signs requests as Standard Webhooks (standardwebhooks.com) has it, so that a receiver can tell that a
// request came from who holds the key, unchanged and recently. It imports no package of riverhook.
//
// A symmetric key is whsec_ and base64 of 24 to 64 bytes: sender and receiver both hold it. Of an asymmetric pair the
// sender holds whsk_ (private) and the receiver whpk_ (public).
package signing
