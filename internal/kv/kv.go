// Package kv defines the interface of a revisioned key-value store: commands, views, watchers and errors. It depends on neither
// consensus nor Kubernetes: fsm implements the store, cluster replicates it, and api reads and writes through it, each through an
// interface that it declares itself.
package kv

import (
	"context"
	"errors"
	"fmt"
)

// Errors are classes: test for them with errors.Is.
var (
	// ErrCompacted means that the events after the requested revision are no longer in the history (HTTP 410): read a view and
	// watch from its revision.
	ErrCompacted = errors.New("kv: revision has been compacted")
	// ErrFutureRevision means that the requested revision has not been written here yet.
	ErrFutureRevision = errors.New("kv: revision is in the future")
	// ErrOutcomeUnknown means that a command may or may not be committed, and that proposing it again under its id did not settle
	// it. It is not a refusal.
	ErrOutcomeUnknown = errors.New("kv: the outcome of the command is unknown")
	// ErrNoLeader means that no leader could be reached; the command was not committed.
	ErrNoLeader = errors.New("kv: no leader")
	// ErrDiskFull means that the masters' disks are full; nothing was changed. The text names the disk and the fix.
	ErrDiskFull = errors.New("kv: no room")
	// ErrTooLarge means that a command is over the size limit; nothing was proposed.
	ErrTooLarge = errors.New("kv: command too large")
	// ErrUnsupported means that not all masters support what the command does; nothing was proposed.
	ErrUnsupported = errors.New("kv: not supported by all masters")
)

// MaxCommandBytes limits one encoded command. Every replica keeps whole commands in memory while it applies them.
const MaxCommandBytes = 2 << 20

// CommandID makes a command idempotent: if a replica has already applied a command with this id, the command gets the first result.
// The id is chosen at random before the command is proposed.
type CommandID [16]byte

// Condition is what an operation requires of its key.
type Condition uint8

const (
	Always     Condition = iota // no requirement
	Absent                      // the key must not exist
	Exists                      // the key must exist
	AtRevision                  // the key must exist with ModRevision == Op.Revision
	AtMost                      // an increase must leave the counter at most at Op.Most; a decrease is always allowed
)

// AtOrAbsent returns the condition that a key is as it was read: at its revision, or absent where that is 0.
func AtOrAbsent(revision uint64) Condition {
	if revision == 0 {
		return Absent
	}
	return AtRevision
}

// Op is one put, delete, addition or rewrite. An Op with Check set only tests its condition and changes nothing (and takes no revision).
//
// An addition (Add is not 0) adds to a counter: a key whose value is an integer in decimal (Counter). An absent key, and a value
// that is not a counter, count as 0. Additions commute, so concurrent commands that change the same counter do not conflict; with
// the condition AtMost they never exceed a limit either, whatever the order. The condition is about increases alone: a counter that
// is above its limit, because the limit was lowered, can still be decreased.
//
// A counter may be negative: while it does not yet contain what was there when counting began, decreases may arrive before the
// addition that corrects it. A bound at 0 would lose these decreases, and the sum would depend on the order of the commands; refusing
// them would make it impossible to delete what was not counted. Readers show a negative counter as 0. Sums stop at the limits of
// int64.
//
// A rewrite (Rewrite is set, with the condition AtRevision) replaces a value by another encoding of the same content, such as the same
// plaintext encrypted with another key. The key keeps its revisions, the store's revision does not grow, and watchers get no event. The
// history has the new value in place of the old one.
type Op struct {
	Key      string
	Value    []byte // put, rewrite: the new value; must not be modified after Propose
	Rewrite  bool
	Delete   bool
	Check    bool
	Add      int64
	Cond     Condition
	Revision uint64 // for AtRevision
	Most     int64  // for AtMost
}

// Command is an atomic list of operations: all of it applies, or none. A key may appear in at most one operation.
type Command struct {
	ID  CommandID
	Ops []Op
	// Since, if not 0, is an index of the log before which this command was certainly not proposed: the index that its proposer had
	// applied when it first proposed it. A replica that has forgotten results of commands since that index does not apply the
	// command, because it may be one of them.
	Since uint64
	// Restore, if not nil, restores a backup in the same step, before the operations.
	Restore *Restore
}

// Restore restores a backup as one change of the state: keys that are not in the backup are deleted, keys that differ are put, and
// equal keys are left alone. So watchers get the changes in order and at one instant, and revisions grow as with any other command.
type Restore struct {
	// From is the prefix under which the backup was staged: the values of its keys, in order, are the bytes of a snapshot. The
	// command deletes these keys. If From is empty, nothing is restored.
	From string
	// Keep is a prefix whose keys the restore does not touch. It includes From and the keys of the command's operations.
	Keep string
	// Revision is the lowest revision from which to continue. A store that is behind it skips the revisions between, and its
	// history restarts: watchers get ErrCompacted. It is for states whose previous log may have assigned revisions that the state
	// does not contain.
	Revision uint64
}

// Result is the effect of applying a command. If the command was applied, operation i got revision Revisions[i] (0 for a Check or a rewrite, and
// for a delete of an absent key with condition Always, which changes nothing).
type Result struct {
	// Revision is the store's revision after the command.
	Revision  uint64
	Revisions []uint64
	// Failed is the first operation whose condition did not hold; nil if the command was applied.
	Failed *Failure
}

// Failure describes the operation because of which a command was not applied.
type Failure struct {
	Index   int
	Cond    Condition
	Current uint64 // the key's ModRevision, 0 if it is absent
	Count   int64  // for AtMost: the counter's value
}

func (f *Failure) Error() string {
	return fmt.Sprintf("kv: operation %d: condition %d does not hold, the key is at revision %d", f.Index, f.Cond, f.Current)
}

// View is the whole state at one revision. It is immutable, takes O(1) to create, is safe for concurrent use, and never blocks a
// writer; it pins the memory of the state while it is referenced.
type View interface {
	Revision() uint64
	Get(key string) (*Version, bool)
	// Range visits keys in [start, end) in order until visit returns false. An empty end means no upper bound.
	Range(start, end string, visit func(*Version) bool)
	// Count returns the number of keys in [start, end), in less than linear time if the implementation can.
	Count(start, end string) int
}

// EventType says what happened to a key.
type EventType uint8

const (
	Put EventType = iota + 1
	Deleted
)

// Event is one change of one key. All watchers share events, so they are read-only.
type Event struct {
	Type     EventType
	Revision uint64
	// Current is the version that a Put wrote. For Deleted it is a version created for the event, with the last value and with
	// ModRevision set to the delete's revision, so that its forms have the resourceVersion of the deletion.
	Current *Version
	// Previous is the version before the change, nil for a creation.
	Previous *Version
}

// Watcher is a cursor over the changes under one prefix. Only one goroutine may use it.
type Watcher interface {
	// Next blocks until there is progress. It returns the next events in order of revision (possibly none) and a revision up to
	// which every event of the prefix has now been returned. It never splits the events of one command over two calls. Errors:
	// ErrCompacted if the events after the cursor are no longer in the history, because of its limits or of a restore; ctx's error.
	//
	// Even without an event for its prefix, Next may return when the store advances, so that callers can send bookmarks; but writes
	// elsewhere do not wake it each time. When it returns because ctx ended, progress is also valid, and as new as the store: a
	// caller that wants bookmarks gives Next a deadline and calls it again.
	Next(ctx context.Context) (events []*Event, progress uint64, err error)
	// Progress returns a revision up to which Next has returned every event of the prefix. It grows with the store even while Next
	// has nothing to return, so that an idle watch can tell its client where to resume.
	Progress() uint64
	Close()
}

// Reader reads the local replica.
type Reader interface {
	View() View
	// Watch returns a cursor before the first event of a key with the prefix after the revision. Errors: ErrCompacted,
	// ErrFutureRevision.
	Watch(prefix string, after uint64) (Watcher, error)
}

// PrefixEnd returns the first key after every key with the prefix, or "" if there is none.
func PrefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}
