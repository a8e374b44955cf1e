// Package identity manages what the masters of a cluster share: the CA, and the keys that encrypt gossip, encrypt Secrets and sign
// service account tokens.
//
// An Identity has a generation; every change creates the next generation. The steps of each rotation (rotation.go) are pure
// functions from one Identity to the next. The leader proposes the next one as a key of the store, encrypted with the current
// secret key of the previous generation (seal.go), which every master has; every master that applies it decrypts it, saves it, and
// then uses it. The rest of a master reads the identity through Live: nothing keeps an Identity, a certificate pool or a
// certificate beyond one use. Certificates issues a master's own certificate, and renews it when it is due.
//
// An Identity must not be changed after its creation. Live and Certificates are safe for concurrent use.
package identity
