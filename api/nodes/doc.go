// Package nodes is the masters' side of the workers' streams (proto/kontiki/node/v1): it sends every worker its
// assignment, takes in what it reports, and issues its pods' tokens.
//
// A worker is told exactly what it needs: its pods, the Secrets and ConfigMaps that they name, and the cluster's
// services, endpoint slices and nodes (of these, only what routing needs). First a full set, then deltas that chain: a
// worker that sees a gap ends the session and gets a full set again. What a session sends is computed from the same
// views and history as every watch; nothing is kept for a worker between sessions.
//
// A session is also how masters and workers know of each other's lives. The master sends beats, the worker answers them
// (session.go). Every master tells the others which workers have a session with it and answer (attendance.go); together that is
// a Census, from which the leader learns of lost workers, and a master with many workers whom it can send some to
// (balance.go). Both are hints, and cost nothing in Raft.
//
// What a worker may write is its own (access.go): the status of its node and pods, events about them, labels that do not
// steer where Secrets go. What it sends is bounded in size, number and rate, and checked before it is stored (check.go); a
// panic that it causes all the same ends its session. Whoever has stolen its certificate can lie about that host, and about
// nothing else.
package nodes
