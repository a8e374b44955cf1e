// Package fsm is the replicated state machine: a key-value store with revisions that every master keeps completely in memory and
// that changes only by the commands of the raft log. Its types (Command, View, Watcher, ...) are defined in package kv.
//
// # Purpose
//
// Apply is a pure function of the log: it uses no clock, no randomness, no network, and nothing else that differs between replicas
// (the bounds in Options do not affect the state). So equal logs give equal states, and byte-identical snapshots. The package knows
// nothing of raft, which passes entries to it, nor of Kubernetes, whose objects are bytes to it.
//
// # Write path
//
// Apply is ApplyBatch with a single entry. Entries are decoded and checked (DecodeCommand); an invalid entry gets the same error on
// every replica and changes nothing. A command whose id is among those of the last RememberedCommands commands gets its first
// result. Otherwise all conditions are tested, and then all operations are applied; no key appears twice in a command, so nothing
// ever has to be undone. Each change takes the next revision. At the end of the batch the new state and its events become visible
// in one step, and waiters are woken.
//
// The state is a persistent B+ tree of versions (tree.go). A batch copies each node that it changes once; a published root never
// changes. Therefore a View is one atomic load, a Snapshot is a few pointers more, and neither blocks a writer or sees half of a
// command.
//
// # Read path
//
// Readers get versions from a view, and from a version its forms (decoded object, JSON, ...), which are built once, shared, and
// evicted when they are not used (kv.FormCache). The forms of versions that leave both the state and the history are dropped at
// once.
//
// WaitIndex blocks until the local state has reached an index. AppliedIndex counts only entries that were applied here: raft's own
// indexes include entries that never reach the state machine, and waiting for those would never end.
//
// # Watches
//
// The history is a window over the latest events, bounded in number and bytes. Its bytes are those that only the history keeps in
// memory: the replaced versions. A watcher is a cursor that reads the window at its own pace, so publishing never waits for a
// watcher; a watcher that falls behind the window gets kv.ErrCompacted. The window is indexed by /group/resource/ and
// /group/resource/namespace/: a watcher reads only its part, and a write wakes only the watchers of its key. For bookmarks, see
// Store.Watch.
//
// The tests name what watchers are promised: Ordered, Unique, Atomic (one command's events come in one Next), Reliable, Resumable
// (from any progress or revision within the window), Bookmarkable (all events up to the progress have been returned).
//
// # Snapshots
//
// A snapshot is a stream of records, each with a length and a CRC-32C, with a checksum of the whole at the end (store.proto
// describes the format). Restore reads and checks all of it before it changes anything; an error names the offset of the damage.
// Then it swaps the state and wakes all waiters: watchers that were exactly at the restored revision continue, others get
// kv.ErrCompacted.
//
// A backup is restored through the log (restored.go): it is staged as values, and one command makes the state equal to it. So every
// replica follows, a leader that dies in the middle leaves the old state, and watchers see a change like any other.
//
// # Trade-offs
//
// The whole state is in memory: an object takes its bytes and 180 to 310 more (a version, its place in the tree, a remembered
// command, the allocator's slack). A value that is most of its raft log entry shares the entry's memory, which raft's log cache
// keeps anyway; so entries must not be changed after Apply. (hashicorp/raft puts each entry in its own Log, and neither its stores
// nor its transport reuse the bytes.)
//
// Readers see a batch only when all of it is applied: for a full batch up to a millisecond later, at half the cost per command.
//
// We implemented the tree because it keeps versions in order and counts ranges. With 100,000 keys on two cores, in nanoseconds, for
// this tree, tidwall/btree (generic, Copy for each batch) and hashicorp/go-immutable-radix v2 (a transaction for each batch):
//
//	put, batch of 1      3,900   4,100   4,300
//	put, batch of 512      820     840   1,800
//	get                    320     380     180
//	range of 1,000       1,700   5,300   4,200
//	count of a range       120   as its range
//
// Point reads do not limit the store, lists do, and every page of a list needs the number of remaining keys.
//
// # Measured
//
// `go test -bench . ./fsm`, two cores of an AMD EPYC, 100,000 objects of 1 KiB:
//
//	apply an update, batch of 1 / 64 / 512     3.8 / 2.3 / 2.0 µs
//	view / get / count                         0.5 / 200 / 120 ns
//	range                                      2 to 3 ns per object
//	a form that has been built                 2.4 ns
//	write, 100 / 1,000 watchers that all get it     11 / 131 µs, 8 million events/s
//	write, 10,000 watchers, one of which gets it    4.5 µs
//	snapshot: take / write / restore           0.2 µs / 83 ms / 63 ms
package fsm
