// Package scheduler assigns pods to nodes. It runs on the leader, as a duty.
//
// A pod goes through: queue -> filters -> scores -> assumed on the node -> bound (an API write) -> confirmed by its event.
//
//	active -> deciding -> assumed -> (volumes, devices) -> binding -> bound (its event replaces the assumption)
//	  ^          | no node fits          |
//	  |          v                       |
//	  |   preemption, waiting            | failed: the assumption is forgotten
//	  |          | an event that         |
//	  |          v plugins hint at       |
//	  +------ back-off <-----------------+
//
// One goroutine, the loop, owns the cluster, the queue and all evaluations (packages framework and queue), and makes one decision
// after the other. Everything else sends it work through the inbox: the events of the store, and the outcomes of writes. Between two
// decisions the loop applies what has come. So nothing is locked or copied for a decision, and a decision is made on one state.
//
// Pods of one template share an evaluation: what the plugins found out about all nodes is kept and brought up to date with what has
// changed since. Bindings are written in batches, many with one command.
//
// What pods take beside room on nodes, volumes and devices (packages plugins and devices), is taken in memory with the decision, written
// before the pod is bound, and given back if it is not.
//
// The plugins (package plugins) have upstream's names, rules and messages, since users know them and search for them.
package scheduler
