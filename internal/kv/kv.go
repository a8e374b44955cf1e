// Package kv is the vocabulary of a revisioned key-value store: what a command asks, what a view shows, what a watcher
// is told. It is a leaf that knows nothing of consensus or of Kubernetes; fsm implements it, cluster replicates it, and
// api reads and writes through it, each through an interface of its own.
package kv

import (
	"context"
	"errors"
	"fmt"
)

// Errors are classes: test with errors.Is.
var (
	// ErrCompacted says that events after the asked revision are gone from history (HTTP 410): read a view and watch
	// from its revision.
	ErrCompacted = errors.New("kv: revision has been compacted")
	// ErrFutureRevision says that the asked revision has not been written here yet.
	ErrFutureRevision = errors.New("kv: revision is in the future")
	// ErrOutcomeUnknown says that a command may or may not be committed, and that asking again under its id did not
	// settle it. It is not a refusal.
	ErrOutcomeUnknown = errors.New("kv: the outcome of the command is unknown")
	// ErrNoLeader says that no leader could be reached; the command was not committed.
	ErrNoLeader = errors.New("kv: no leader")
	// ErrDiskFull says that the masters' disks have no room for more; nothing was changed. The text names the disk and the fix.
	ErrDiskFull = errors.New("kv: no room")
	// ErrTooLarge says that a command is over the size limit; nothing was proposed.
	ErrTooLarge = errors.New("kv: command too large")
)

// MaxCommandBytes bounds one encoded command. Every replica keeps whole commands in memory while it applies them.
const MaxCommandBytes = 2 << 20

// CommandID makes a command idempotent: a replica answers a command it has already applied with its first result.
// It is chosen at random before the command is proposed.
type CommandID [16]byte

// Condition is what an operation requires of its key.
type Condition uint8

const (
	Always     Condition = iota // no requirement
	Absent                      // the key must not exist
	Exists                      // the key must exist
	AtRevision                  // the key must exist with ModRevision == Op.Revision
)

// Op is one put or delete. An Op with Check set only tests its condition and changes nothing (and takes no revision).
type Op struct {
	Key      string
	Value    []byte // put: the new value; must not be modified after Propose
	Delete   bool
	Check    bool
	Cond     Condition
	Revision uint64 // for AtRevision
}

// Command is an atomic list of operations: all of it applies, or none. A key may appear in at most one operation.
type Command struct {
	ID  CommandID
	Ops []Op
	// Since, if not 0, is an index of the log before which this command was certainly not proposed: what its proposer had
	// applied when it first proposed it. A replica that has forgotten results of commands since then does not apply the
	// command, because it may be one of these.
	Since uint64
	// Restore, if not nil, brings a backup back in the same step, before the operations.
	Restore *Restore
}

// Restore brings a backup back as one change of the state: keys that are not in the backup are deleted, keys that differ are
// put, keys that are the same stay as they are. So watchers see what changes, in order and at one instant, and revisions
// grow as with any other command.
type Restore struct {
	// From is the prefix that the backup was staged under: the values of its keys, in order, are a snapshot's bytes. The keys are
	// deleted with the restore. An empty From brings nothing back.
	From string
	// Keep is a prefix whose keys the backup does not touch. It holds From and the keys of the command's operations.
	Keep string
	// Revision is the least revision to go on from. A store that is behind it skips the revisions between, and its history
	// begins anew: who watches gets ErrCompacted. It is for states that follow a past which they do not know to the end.
	Revision uint64
}

// Result is what applying a command did. Operation i of a command that applied got revision Revisions[i]
// (0 for a Check, and for a delete with condition Always of an absent key, which is no change).
type Result struct {
	// Revision is the store's revision after the command.
	Revision  uint64
	Revisions []uint64
	// Failed is the first operation whose condition did not hold; nil when the command applied.
	Failed *Failure
}

// Failure names the operation that kept a command from applying.
type Failure struct {
	Index   int
	Cond    Condition
	Current uint64 // the key's ModRevision, 0 if it is absent
}

func (f *Failure) Error() string {
	return fmt.Sprintf("kv: operation %d: condition %d does not hold, the key is at revision %d", f.Index, f.Cond, f.Current)
}

// View is the whole state at one revision. It is immutable, O(1) to take, safe for concurrent use, and never blocks a
// writer; it pins the memory it shows for as long as it is held.
type View interface {
	Revision() uint64
	Get(key string) (*Version, bool)
	// Range visits keys in [start, end) in order until visit returns false. An empty end means no upper bound.
	Range(start, end string, visit func(*Version) bool)
	// Count counts keys in [start, end), in less than linear time where the implementation can.
	Count(start, end string) int
}

// EventType says what happened to a key.
type EventType uint8

const (
	Put EventType = iota + 1
	Deleted
)

// Event is one change of one key. Events are shared by every watcher: read-only.
type Event struct {
	Type     EventType
	Revision uint64
	// Current is the version written by a Put. For Deleted it is a version made for the event, with the last value and
	// with ModRevision set to the delete's revision, so that its forms carry the resourceVersion of the deletion.
	Current *Version
	// Previous is the version before the change, nil for a creation.
	Previous *Version
}

// Watcher is a cursor over the changes under one prefix. It is for one goroutine.
type Watcher interface {
	// Next blocks until there is progress. It returns the next events in revision order (perhaps none) and a revision
	// up to which every event of the prefix has now been returned. It never splits the events of one command over two
	// calls. Errors: ErrCompacted when the cursor fell out of the window or the store was replaced by a restore whose
	// history does not hold it; ctx's error.
	//
	// With no event for its prefix Next may still return as the store moves on, so that callers can send bookmarks; it
	// is not woken for each foreign write. When it returns because ctx ended, progress is valid too, and as new as the
	// store: a caller that wants bookmarks gives Next a deadline and calls it again.
	Next(ctx context.Context) (events []*Event, progress uint64, err error)
	// Progress is a revision such that Next has returned every event of the prefix up to it; it grows with the store even
	// while Next has nothing to return, so that an idle watch can tell its client where to resume.
	Progress() uint64
	Close()
}

// Reader reads the local replica.
type Reader interface {
	View() View
	// Watch returns a cursor at the first event of a key with the prefix after the revision. Errors: ErrCompacted,
	// ErrFutureRevision.
	Watch(prefix string, after uint64) (Watcher, error)
}

// PrefixEnd is the first key after every key with the prefix; "" when there is none.
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
