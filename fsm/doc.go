// Package fsm is the replicated state machine: a key-value store with revisions that every master keeps whole in memory
// and that changes only by the commands of the raft log. The words for it (Command, View, Watcher, ...) are package kv's.
//
// # Purpose
//
// Applying is a pure function of the log: no clock, no randomness, no network, and nothing that differs between replicas
// (the bounds in Options do not touch the state). So equal logs give equal states, to the byte of their snapshots. The package
// knows nothing of raft, which gives it entries, nor of Kubernetes, whose objects are bytes to it.
//
// # Write path
//
// Apply and ApplyBatch are one path; a single entry is a batch of one. Entries are decoded and checked (DecodeCommand); a bad
// entry gets the same error on every replica and changes nothing. A command whose id is among the last RememberedCommands
// ones gets its first result. Otherwise all conditions are tested, then all operations done; no key appears twice in a
// command, so nothing ever has to be undone. Each change takes the next revision. At the end of the batch the new state
// and its events become visible in one step, and those who wait are woken.
//
// The state is a persistent B+ tree of versions (tree.go). A batch copies each node that it touches once; a published root never
// changes. Hence the rest: a View is one atomic load, a Snapshot the same and a few pointers more, and neither blocks
// a writer or sees half a command.
//
// # Read path
//
// Readers go from a view to versions, and ask versions for forms (decoded object, JSON, ...) that are built once, shared, and
// dropped when cold (kv.FormCache). Forms of versions that leave state and history are dropped at once.
//
// WaitIndex blocks until the local state has come far enough. AppliedIndex counts only entries that were
// applied here: raft's own indexes include entries that never come here, and waiting for those would never end.
//
// # Watches
//
// The history is a window over the last events, bounded by count and bytes. Its bytes are those that only the history keeps
// alive: the replaced versions. A watcher is a cursor that reads the window at its own pace, so publishing never waits for one; who
// falls behind the window gets kv.ErrCompacted. The window is indexed by /group/resource/ and /group/resource/namespace/: a
// watcher reads only its part, and a write wakes only the watchers whose prefix it has. For bookmarks, see Store.Watch.
//
// The promises, which the tests name: Ordered, Unique, Atomic (one command's events come in one Next), Reliable, Resumable
// (from any progress or revision within the window), Bookmarkable (all events up to the progress have been returned).
//
// # Snapshots
//
// Records with a length and a CRC32C each, streamed, a checksum of the whole at the end (store.proto describes the bytes). Restore reads
// all of it before it changes anything, and names the offset of what is damaged. It swaps the state and wakes all who wait:
// watchers at exactly the restored revision go on, others get kv.ErrCompacted.
//
// A backup comes back through the log (restored.go): it is staged as values, and one command makes the state equal to it. So
// every replica follows, a leader that dies in the middle leaves the old state, and watchers see a change like any other.
//
// # Trade-offs
//
// The whole state is in memory: an object costs its bytes and 180 to 310 more (a version, its place in the tree, a remembered
// command, slack of the allocator). Values share the memory of their raft log entry when they are most of it, which
// raft's log cache keeps anyway; so entries must not change after Apply. (hashicorp/raft gives each entry in a Log of its own, and
// neither its stores nor its transport reuse the bytes.)
//
// Readers see a batch only when all of it is applied: up to a millisecond later for a full one, for half the cost of a command.
//
// A tree of our own was chosen for its ordered leaves and counts. With 100,000 keys on two cores, nanoseconds, for this tree,
// tidwall/btree (generic, Copy for each batch) and hashicorp/go-immutable-radix v2 (a transaction for each batch):
//
//	put, batch of 1      3,900   4,100   4,300
//	put, batch of 512      820     840   1,800
//	get                    320     380     180
//	range of 1,000       1,700   5,300   4,200
//	count of a range       120   as its range
//
// Point reads are not the store's bottleneck; lists are, and counting what is left of a list is asked with every page.
//
// # Measured
//
// `go test -bench . ./fsm`, two cores of an AMD EPYC, 100,000 objects of 1 KiB:
//
//	apply an update, batch of 1 / 64 / 512     3.8 / 2.3 / 2.0 µs
//	view / get / count                         0.5 / 200 / 120 ns
//	range                                      2 to 3 ns an object
//	a form that is there                       2.4 ns
//	write, 100 / 1,000 watchers that all get it     11 / 131 µs, 8 million events/s
//	write, 10,000 watchers, one of which gets it    4.5 µs
//	snapshot: take / write / restore           0.2 µs / 83 ms / 63 ms
package fsm
