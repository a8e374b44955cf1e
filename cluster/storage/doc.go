// Package storage is what a master keeps on its disk for consensus: raft's log, its votes, and snapshots of the state.
//
// # What it promises
//
// Nothing is trusted because it is there. Every log entry and every stable value carries a CRC32C that covers its index or
// key too, so that a value which moved is noticed as well as one which changed. Open reads all of it, walks the pages of the
// file by itself before bbolt maps them (bbolt takes damaged pages for a bug and panics), and looks for what is missing: an
// entry between two others, the log's end, the entries between the newest good snapshot and the log's beginning. What is wrong
// is a *Damage, which names file, offset and index. Open changes nothing that is damaged, but for one case that costs
// nothing: an older snapshot, or a newer one that the log makes up for, is set aside.
//
// # Why bbolt
//
// A commit writes new pages, syncs, writes one of two meta pages, syncs. So a commit that power cut short leaves the old
// meta page valid and is as if it had never been, while a bit that rots in a page that a meta page reaches is damage. A log of
// one file that is appended to cannot tell the two apart at its end: it has to take a damaged last batch for a torn one, and
// forgets entries that this master has acknowledged. Both meta pages are always valid; one that is not is damage too, because
// bbolt would silently go back to the commit before.
//
// # When the disk does not do what it should
//
// Raft panics when it cannot save its term, and can hang for good when the end of its log was cut and storing what replaces
// it fails. So cutting the end waits for what replaces it, and is one commit with it. A full disk fails StoreLogs; Set waits
// until there is room, for which a reserve file makes some. After any failed commit the file is closed and opened again,
// because bbolt's view of its free pages may be wrong. An I/O error, and damage that is met while running, is told to the
// owner once (Options.Failed), and raft is left waiting instead of panicking: the owner is to stop.
//
// What cannot be seen from here: a whole directory that was replaced by an older copy of itself.
package storage
