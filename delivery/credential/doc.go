// Package credential holds the secrets that requests are authenticated with: it reads them, says which header they make,
// keeps them from being printed, seals them for the database, and finds them in texts that they must not be in. It imports
// no package of riverhook.
package credential
