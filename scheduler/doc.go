// Package scheduler assigns pods to nodes. It runs on the leader, as a duty.
//
// A pod goes through: queue -> filters -> scores -> assumed on the node -> bound (an API write) -> confirmed by its event.
//
//	active -> scheduling -> assumed -> binding -> bound (its event replaces the assumption)
//	  ^          | no node fits          |
//	  |          v                       |
//	  |      unschedulable               | bind failed: the assumption is forgotten
//	  |          | something changes     |
//	  |          v that could help       |
//	  +------ backoff <------------------+
//
// Filters give reasons for people why a node is refused, with upstream's messages (k8s.io/kubernetes/pkg/scheduler), since users
// know them and search for them. The scheduler decides with its own cache, which follows the events of the store; a pod is assumed
// to be on its node until the binding arrives as an event. Bindings are written concurrently, so that they fill raft batches.
package scheduler
