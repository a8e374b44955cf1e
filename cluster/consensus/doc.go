// Package consensus keeps the replicas of the cluster's state equal, and determines which master leads.
//
// A Replica is one master's part in this: hashicorp/raft over a wire (raftfix.Wire), a log and snapshots on a disk (Disk), the
// state machine (package fsm), connections to the other masters (mtls.Line) for proposals and read indexes, and the duties of the
// leader. It does not listen, does not join clusters, and reads no files except those on its disk; package cluster adds these. The
// simulation in this package's tests runs whole replicas over in-memory wires, lines and disks, in virtual time.
//
// # A write
//
// Propose (propose.go) encodes a command and adds it to a queue that a few senders empty (batch.go): on a follower a batch becomes
// one call to the leader, on the leader one pass through raft's queue. So batches grow with load, and a lone write waits for no
// other. The response contains the command's raft index; Propose returns when the local state machine has applied it, so that
// callers read their own writes from View. The result of each attempt is committed, refused (certainly not committed) or unknown.
// The last two are retried under the same command id, for which the state machine returns its first result, until the context ends;
// only then does the caller get kv.ErrNoLeader or kv.ErrOutcomeUnknown. The state machine remembers a limited number of results; a
// command contains the index before which it was not proposed (kv.Command.Since), and is refused if its result may have been
// forgotten. An attempt ends as soon as raft reports a leadership change, so a dead leader costs an election and no timeouts.
// Commands in flight are limited in bytes. Raft's futures may never be resolved after a shutdown: all waits for them have a
// context, and a clean stop drains them first.
//
// A small write is sent to the followers while the leader still stores it, if no other entries are in flight (ahead.go).
//
// # A read
//
// Consistent (read.go) follows the ReadIndex protocol of Raft (Ongaro 2014, section 6.4): the leader, past the barrier of its term,
// takes the index of the last command that its state machine has applied, has a quorum confirm that it leads by responses to
// heartbeats sent after that (raftfix.Verifier), checks that the term is still the same, and returns the index. The reader waits
// for its own state machine and reads its own view. Rounds are shared: a caller that arrives during a round takes part in the next
// one, never in one that began before. Only commands count as indexes: no-ops, barriers and configurations never reach the state
// machine.
//
// A follower shows a commit only after it has learned of it. Raft tells followers with the next entries, or after a timeout;
// raftfix.Announcer tells them at once when no more entries follow, which takes 0.1 ms instead of the timeout's 45 ms.
//
// # Leadership
//
// Duties (duties.go) start after a barrier, and are cancelled and waited for when leadership is lost. A duty that fails transfers
// leadership, as does a planned stop, but only to a master that responds at that moment, because raft refuses writes during a
// transfer; a transfer that fails is ended by closing the connection that it waits for. The restore of a backup stops the duties
// that act on objects (quiesce.go).
//
// # Disks
//
// A leader whose disk is full transfers leadership to a master that has space, and refuses writes if there is none (disk.go). A
// master whose disk stalls takes no part until the disk responds again. If the disk fails, the process ends.
package consensus
