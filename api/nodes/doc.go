// Package nodes is the masters' side of the workers' streams (proto/kontiki/node/v1): it sends every worker its assignment, stores
// what the worker reports, and issues its pods' tokens.
//
// A worker is sent exactly what it needs: its pods, the Secrets and ConfigMaps that they refer to, and the cluster's services,
// endpoint slices and nodes (of these, only what routing needs). First comes a full set, then deltas that each name the one before:
// a worker that detects a gap ends the session and gets a full set again. What a session sends is computed from the same views and
// history as every watch; nothing is stored for a worker between sessions. One dispatcher reads the changes for all sessions of a master
// and passes each to the sessions that it concerns (dispatch.go).
//
// Masters and workers also detect each other's failures by the session. The master sends heartbeats, the worker answers them
// (session.go). Every master reports to the others which workers have a session with it and answer (attendance.go); together that
// is a Census, from which the leader learns of lost workers, and a master with many workers finds one that it can send some to
// (balance.go). Both are hints, and cost nothing in Raft.
//
// A worker may write only what concerns itself (access.go): the status of its node and pods, events about them, and labels that do
// not influence where Secrets go. What it sends is limited in size, number and rate, and validated before it is stored (check.go);
// a panic that it causes nevertheless ends only its session. So a stolen certificate can be used to lie about that host, and about
// nothing else.
package nodes
