// Package usage has what the workers report of what their nodes, pods and containers use, and serves it as metrics.k8s.io.
//
// A worker reports over its session, every 15 seconds, to the one master that it has a session with (api/nodes). That master keeps the newest
// report of each worker in memory (Local), encoded, and forgets it when it is a minute old. Nothing goes through Raft: what is lost with a
// master is back with the next report, and a report carries rates that the worker has computed, so that the first one to another master is
// complete.
//
// Every master answers for all nodes (Directory). When it is asked, it reads from each other master the reports that arrived there since it
// read last, and keeps them. So it is as with a push to all masters that each report crosses the network at most once for each master, but
// nothing crosses it while nobody asks, and a master that nobody asks keeps nothing of others: most clusters are asked by one autoscaler, on
// the leader, and now and then by a person. Requests that come within the same moment share a read, and a master that does not answer
// within a second is left out: its workers are missing from the answer, as they are from metrics-server's when it cannot reach a kubelet, and are
// back when they have reported to another master. Masters of versions before this one do not serve the read, and ask for no reports.
//
// A report is hostile until it is checked: its size and the numbers in it are bounded, and pods that are not bound to the worker are dropped.
// It can only lie about the worker's own node and pods.
package usage
