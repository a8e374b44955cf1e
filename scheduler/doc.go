// Package scheduler assigns pods to nodes. It runs on the leader, as a duty.
//
// A pod's way: queue -> filters -> scores -> assumed on the node -> bound (an API write) -> confirmed by its event.
//
//	active -> scheduling -> assumed -> binding -> bound (its event replaces the assumption)
//	  ^          | no node fits          |
//	  |          v                       |
//	  |      unschedulable               | bind failed: the assumption is forgotten
//	  |          | something changes     |
//	  |          v that could help       |
//	  +------ backoff <------------------+
//
// Filters say why a node is refused, for people: the reasons and their wording are upstream's
// (k8s.io/kubernetes/pkg/scheduler), since users know and search them. The scheduler decides on its own cache, which
// follows the events of the store; an assumption bridges the time until a binding comes back as an event. Bindings are
// written concurrently, so that they fill raft batches.
package scheduler
