// Package worker is the half of joining and following a cluster that runs on a worker's host.
//
// A worker's key never leaves its host: a join token buys two certificates for it, a client's (system:node:NAME) and a serving one (Join).
// Run follows one of the masters (TrustService.Follow), which tells of new CAs, gossip keys and masters, and renews the certificates in time;
// RunGossip takes part in gossip where the masters want workers to. What the worker knows is a Document on its disk, so that it starts with
// every master gone.
package worker
