// Package identity is what makes masters one cluster: its CA, and the keys that encrypt gossip, seal Secrets and sign service account tokens.
//
// An Identity has a generation, and changes by a new one. The steps of each rotation (rotation.go) are pure functions from one Identity to
// the next. The leader proposes the next one as a key of the store, sealed under the current secret key of the one before (seal.go), which
// every master has; every master that applies it opens it, saves it, and then uses it. Live is what the rest of a master reads: nobody keeps
// an Identity, a pool or a certificate beyond one use. Certificates issues a certificate from it, and again when it is due.
//
// An Identity is read-only once made. Live and Certificates are safe for concurrent use.
package identity
