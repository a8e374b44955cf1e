// Package join contains what hosts and masters need when a host joins a cluster: join tokens, the connection to a master whose CA
// the token pins, and the classes of errors with which a master responds.
//
// A token contains the CA's hash, a role, an id and a secret. The host checks the CA before it sends the token (Dial); the cluster
// stores only the secret's hash. A worker's token lets its holder become any worker whose name no living worker has; a master's
// token gives its holder control of the cluster.
package join
