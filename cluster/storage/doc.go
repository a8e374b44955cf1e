// Package storage is what a master keeps on its disk for consensus: raft's log, its votes, and snapshots of the state.
//
// # Layers
//
// Log and stable store are github.com/hashicorp/raft-boltdb/v2, which keeps them in a file of bbolt's. It checks nothing that it
// reads, and raft takes what it is told. What makes it trustworthy are layers over and under it, from raft's side down:
//
//   - Store (store.go, stable.go) is what raft sees. It knows what the log holds, and refuses gaps. It holds back the cutting of the
//     log's end until what replaces it is there.
//   - Commits (commit.go, room.go, health.go): stalls are noticed; a full disk is ErrFull, with a reserve to give up before, and is left
//     alone until there is a sign of room; any other error is final.
//   - Seals (entry.go, value.go): every entry and every stable value is stored with a checksum, and checked when it is read.
//   - The watermark (watermark.go) is a second file, which says what the log and the stable values must hold at least.
//   - raft-boltdb, and bbolt below it.
//   - The file (boltfile.go, bolt.go): before bbolt opens it, it is locked and all its pages are walked through.
//
// Open (open.go, contents.go) goes through them from below: the meta pages, all pages, all entries and values, the snapshots
// (snapshotcheck.go), and whether these reach what the watermark says and the log's first entry. What is wrong is a *Damage, which
// names file, offset and index. Open changes nothing that is damaged, but for one case that costs nothing: an older snapshot, or a
// newer one that the log makes up for, is set aside.
//
// # What is noticed
//
// A bit that changed, a page that was torn, or that lies in another's place: by checksums, which cover an entry's index and term or
// a value's key, and by the walk. A page that a disk lost, so that an older one is there: entries are a chain by their checksums,
// and the watermark is of its end. The watermark is written once the log is at rest, and every 10 ms while it is not, so that no write
// waits for it: what a disk loses of the last commits before a crash is not noticed. (What a disk has synced is never lost by a crash:
// this is about disks that say that they have, and have not.)
//
// A commit that power cut short is as if it had never been: bbolt writes new pages, syncs, writes one of two meta pages, syncs. Both
// meta pages are always valid; one that is not is damage, because bbolt would silently go back to the commit before.
//
// # When the disk does not do what it should
//
// Raft panics when it cannot save its term, and can hang for good when the end of its log was cut and storing what replaces
// it fails. So cutting the end waits for what replaces it. That is two commits where it is replaced by less; the watermark says
// beforehand where the log ends after the first one. A full disk fails StoreLogs; Set waits until there is room. After a commit that
// found no room bbolt goes on, once it is known whether the commit happened (Store.settle). An I/O error, and damage that is met while
// running, is told to the owner once (Options.Failed), and raft is left waiting instead of panicking: the owner is to stop.
//
// What cannot be seen from here: a whole directory that was replaced by an older copy of itself.
package storage
