// Package join is what a host says to a cluster that does not know it yet, and what both sides know of that: join tokens, the connection to a
// master whose CA the token pins, and the classes of errors that a master answers with.
//
// A token names the CA's hash, a role, an id and a secret. The host checks the CA before it sends the token (Dial); the cluster stores only
// the secret's hash. Whoever holds a worker's token can become any worker that is not there; whoever holds a master's becomes the cluster.
package join
