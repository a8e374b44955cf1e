// Package storage stores on a master's disk what consensus needs: raft's log, its votes, and snapshots of the state.
//
// # Layers
//
// The log and the stable store are github.com/hashicorp/raft-boltdb/v2, which keeps them in a bbolt file. raft-boltdb does not
// check what it reads, and raft trusts it. Layers above and below it add the checks. From raft's side down:
//
//   - Store (store.go, stable.go) is what raft uses. It knows which entries the log contains, and refuses gaps. It delays the
//     truncation of the log's end until the entries that replace it are stored.
//   - Commits (commit.go, room.go, health.go): stalls are detected; a full disk returns ErrFull, after a reserve was given up, and
//     is not written to until there may be space again; any other error is final.
//   - Seals (entry.go, value.go): every entry and every stable value is stored with a checksum, which is checked when it is read.
//   - The watermark (watermark.go) is a second file, which says what the log and the stable values must contain at least.
//   - raft-boltdb, and bbolt below it.
//   - The file (boltfile.go, bolt.go): before bbolt opens it, it is locked and all its pages are checked.
//
// Open (open.go, contents.go) goes through the layers from below: the meta pages, all pages, all entries and values, the snapshots
// (snapshotcheck.go), and whether these agree with the watermark and the log's first entry. Damage is returned as a *Damage, which
// has the file, offset and index. Open does not change damaged data, except that it sets aside a damaged snapshot if nothing is
// lost with it, because an older snapshot and the log contain the same state.
//
// # What is detected
//
// Changed bits, torn pages, and pages at the wrong offset: by checksums, which cover an entry's index and term or a value's key,
// and by the walk. Pages whose write the disk lost, so that an older version is there: entries are chained by their checksums, and
// the watermark contains that of the last one. The watermark is written when no more entries follow, and every 10 ms while they do,
// so that no write waits for it: so if a disk loses the last commits before a crash, that is not detected. (A crash does not lose
// what the disk has synced: this is about disks that report a sync as done when it is not.)
//
// A commit that was interrupted by a power loss has no effect: bbolt writes new pages, syncs, writes one of two meta pages, and
// syncs. Both meta pages are always valid; an invalid one is reported as damage, because bbolt would silently go back to the commit
// before.
//
// # When the disk fails
//
// Raft panics when it cannot save its term, and can hang forever when the end of its log was truncated and storing the entries that
// replace it fails. So the end is truncated only together with storing these entries. That takes two commits if they are fewer than
// those that they replace; before the first one, the watermark records where the log will end. On a full disk StoreLogs fails, and
// Set waits until there is space. After a commit that found no space bbolt can continue, once it is known whether the commit
// happened (Store.settle). An I/O error, and damage found while running, is reported to the owner once (Options.Failed), and raft's
// call blocks instead of panicking: the owner should stop.
//
// Not detected: a whole directory that was replaced by an older copy of itself.
package storage
