// Package deleted keeps deleted objects for a time, so that `kontiki undelete` can bring them back.
//
// The command that removes an object also puts a copy of it, as it was stored last, under a key of its own. So the copy is replicated,
// survives restarts and changes of leader, and exists exactly if the object was removed. Copies of encrypted objects are encrypted.
// The copies are dropped, the oldest first, when they are older than Age or when all of them together are larger than Bytes (Trim, a
// duty of the leader). A counter, changed by the same commands, has their bytes.
package deleted

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
	storev1 "github.com/kontiki/kontiki/proto/kontiki/store/v1"
)

const (
	// Age is how long a copy is kept.
	Age = time.Hour
	// Bytes limits all copies together. Until the oldest ones are dropped there can be twice as many; deletions keep no further copies then.
	Bytes = 64 << 20
	// MaxBytes limits one object. The copy is a part of the command that removes the object, and must never make it too large.
	MaxBytes = 512 << 10

	// Prefix begins the keys of copies. The time of the deletion and the object's UID follow.
	Prefix   = "/deleted/"
	bytesKey = "/deleted-bytes"
)

// Object is a copy of a deleted object.
type Object = storev1.DeletedObject

// Key returns the key of a copy. Keys are in the order of their deletions.
func Key(o *Object) string { return fmt.Sprintf("%s%016x-%s", Prefix, max(o.Deleted, 0), o.Uid) }

// Time returns when the copy of a key was made.
func Time(key string) (time.Time, bool) {
	digits, _, ok := strings.Cut(strings.TrimPrefix(key, Prefix), "-")
	ns, err := strconv.ParseInt(digits, 16, 64)
	return time.Unix(0, ns), ok && err == nil
}

// UID returns the UID of the object of a key.
func UID(key string) string {
	_, uid, _ := strings.Cut(strings.TrimPrefix(key, Prefix), "-")
	return uid
}

// Room says whether a view has room for a copy of a value.
func Room(view kv.View, value []byte) bool {
	present, _ := view.Get(bytesKey)
	return len(value) <= MaxBytes && kv.Counter(present)+int64(len(value)) <= 2*Bytes
}

// Keep returns the operations that keep a copy. value is the copy in the form in which it is stored.
func Keep(key string, value []byte) []kv.Op {
	return []kv.Op{{Key: key, Value: value}, {Key: bytesKey, Add: cost(key, value)}}
}

// Drop returns the operations that drop a copy.
func Drop(v *kv.Version) []kv.Op {
	return []kv.Op{{Key: v.Key, Delete: true, Cond: kv.AtRevision, Revision: v.ModRevision}, {Key: bytesKey, Add: -cost(v.Key, v.Value)}}
}

// Forget returns the operations of a command without those of Keep, for commands that are too large with them, and what belongs to
// each operation.
func Forget[T any](ops []kv.Op, of []T) ([]kv.Op, []T) {
	rest, restOf := make([]kv.Op, 0, len(ops)), make([]T, 0, len(of))
	for i, op := range ops {
		if !strings.HasPrefix(op.Key, Prefix) && op.Key != bytesKey {
			rest, restOf = append(rest, op), append(restOf, of[i])
		}
	}
	return rest, restOf
}

// cost is what a copy counts as.
func cost(key string, value []byte) int64 { return int64(len(key) + len(value)) }

// Encode returns the bytes of a copy, and Decode the copy of such bytes.
func Encode(o *Object) ([]byte, error) { return proto.Marshal(o) }

// Decode is the inverse of Encode.
func Decode(value []byte) (*Object, error) {
	o := &Object{}
	if err := proto.Unmarshal(value, o); err != nil {
		return nil, fmt.Errorf("decode a deleted object: %w", err)
	}
	return o, nil
}

// Store is what Trim needs of the store.
type Store interface {
	kv.Reader
	Propose(ctx context.Context, command *kv.Command) (kv.Result, error)
}

const (
	// atOnce is how many copies one command drops.
	atOnce = 256
	// between is the least time between two looks, so that many deletions are one look.
	between = time.Second
	// again is the pause after an error.
	again = 5 * time.Second
)

// Trim drops the copies that are too old or too many, until the context ends. It is a duty of the leader.
func Trim(ctx context.Context, store Store, now func() time.Time, log *slog.Logger) error {
	for ctx.Err() == nil {
		view := store.View()
		due, err := trim(ctx, store, view, now())
		if err != nil && ctx.Err() == nil {
			log.Warn("copies of deleted objects could not be dropped", "error", err)
			due = again
		}
		await(ctx, store, view.Revision(), due)
	}
	return ctx.Err()
}

// trim drops what a view has too much, and returns when the next copy is due.
func trim(ctx context.Context, store Store, view kv.View, now time.Time) (due time.Duration, err error) {
	counter, _ := view.Get(bytesKey)
	left := kv.Counter(counter)
	var ops []kv.Op
	freed := int64(0)
	due = Age
	view.Range(Prefix, kv.PrefixEnd(Prefix), func(v *kv.Version) bool {
		at, ok := Time(v.Key)
		age := now.Sub(at)
		if ok && age < Age && left-freed <= Bytes {
			due = min(Age-age, Age) // a copy from the future was made by a clock that has been set back since
			return false
		}
		ops = append(ops, kv.Op{Key: v.Key, Delete: true, Cond: kv.AtRevision, Revision: v.ModRevision})
		freed += cost(v.Key, v.Value)
		if len(ops) == atOnce {
			due = 0
			return false
		}
		return true
	})
	if len(ops) == 0 && left != 0 && view.Count(Prefix, kv.PrefixEnd(Prefix)) == 0 {
		// Re-encryption may have changed the length of a copy, which the counter does not follow.
		ops = append(ops, kv.Op{Key: bytesKey, Delete: true, Cond: kv.AtRevision, Revision: counter.ModRevision})
	} else if len(ops) > 0 {
		ops = append(ops, kv.Op{Key: bytesKey, Add: -freed})
	}
	if len(ops) > 0 {
		if _, err := store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops}); err != nil {
			return 0, err
		}
	}
	return max(due, 0), nil
}

// await returns after a time, or when copies were made since a revision, but not at once.
func await(ctx context.Context, store Store, after uint64, due time.Duration) {
	watcher, err := store.Watch(Prefix, after)
	if err != nil { // the view has become too old
		pause.For(ctx, between)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, max(due, between))
	defer cancel()
	defer watcher.Close()
	soon := time.NewTimer(between)
	defer soon.Stop()
	for {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return
		}
		if len(events) > 0 {
			select {
			case <-soon.C:
			case <-ctx.Done():
			}
			return
		}
	}
}
