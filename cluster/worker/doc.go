// Package worker is the part of joining and following a cluster that runs on a worker's host.
//
// A worker's key never leaves its host: with a join token the worker gets two certificates for it, a client certificate
// (system:node:NAME) and a serving certificate (Join). Run follows one of the masters (TrustService.Follow), which sends new CAs,
// gossip keys and addresses of masters, and renews the certificates in time; RunGossip takes part in gossip if the masters want
// workers to. The worker stores what it knows as a Document on its disk, so that it can start while all masters are down.
package worker
