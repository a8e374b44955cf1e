// Package consensus keeps the replicas of the cluster's state equal, and tells the rest of a master who leads.
//
// A Replica is one master's part in it: hashicorp/raft over a wire (raftfix.Wire), a log and snapshots on a disk (Disk), the state machine
// (package fsm), connections to the other masters (mtls.Line) for proposals and read indexes, and the duties of the leader. It listens
// nowhere, joins nobody and reads no file but its disk's; package cluster puts those around it. The simulation of this package's tests runs
// whole replicas over a wire, lines and disks in memory, in virtual time.
//
// # A write
//
// Propose (propose.go) encodes a command and puts it into a queue that a few senders empty (batch.go): on a follower a batch becomes one
// call to the leader, on the leader one walk through raft's queue. So batches grow with load, and a lone write waits for no other one. The
// response carries the command's raft index; Propose returns when the local state machine has applied it, so that callers read their own
// writes from View. Each attempt ends in one of three ways: committed, refused (certainly not committed), unknown. The last two are tried
// again under the same command id, for which the state machine returns its first result, until the context ends; only then does a caller
// see kv.ErrNoLeader or kv.ErrOutcomeUnknown. The state machine remembers a bounded number of results; a command carries the index before
// which it was not proposed (kv.Command.Since), and is refused where it may have been forgotten. An attempt ends as soon as raft sees
// leadership change, so a dead leader costs an election and no timeouts. Commands in flight are bounded by bytes. Raft's futures may never
// be answered after a shutdown: nothing waits for one without a context, and a clean stop drains them first.
//
// A small write on a log at rest goes to the followers while the leader still stores it (ahead.go).
//
// # A read
//
// Consistent (read.go) follows the ReadIndex protocol of Raft (Ongaro 2014, section 6.4): the leader, past the barrier of its term, takes
// the index of the last command that its state machine has applied, has a quorum confirm that it leads by responses to heartbeats sent after
// that (raftfix.Verifier), checks that the term is still the same, and returns the index. The reader waits for its own state machine and
// reads its own view. Rounds are shared: a caller that comes during one gets the next, never the one that began before it asked. Only
// commands count as indexes: no-ops, barriers and configurations never reach the state machine.
//
// A follower must learn of a commit to show it. Raft tells followers with the next entries, or after a timeout; raftfix.Announcer tells
// them at once when the leader's log comes to rest, which takes 0.1 ms where the timeout took 45.
//
// # Leadership
//
// Duties (duties.go) start after a barrier, and are cancelled and waited for when leadership is lost. One that fails hands leadership over,
// as does a planned stop, and only to a master that responds right now, because raft refuses writes while it transfers; a transfer that
// fails is ended by cutting the connection that it waits for. A restore of a backup stops the duties that act on objects (quiesce.go).
//
// # Disks
//
// A leader whose disk is full hands leadership to a master that has room, and refuses writes where there is none (disk.go). One whose disk
// stalls takes no part until it moves again. One whose disk fails ends the process.
package consensus
