// Package deleted keeps deleted objects for a time, so that `kontiki undelete` can bring them back.
//
// The command that removes an object also puts a copy of it, as it was stored last, under a key of its own. So the copy is replicated,
// survives restarts and changes of leader, and exists exactly if the object was removed. Copies of encrypted objects are encrypted.
// A copy is dropped when it is older than Age. When all of them together are larger than Bytes, the oldest of the namespace that has most are
// dropped, so that no namespace pushes out what others deleted (Trim, a duty of the leader). A counter, changed by the same commands, has
// their bytes.
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

	// Prefix begins the keys of copies. The time of the deletion, the object's UID and its namespace follow.
	Prefix   = "/deleted/"
	bytesKey = "/deleted-bytes"
)

// Object is a copy of a deleted object.
type Object = storev1.DeletedObject

// Key returns the key of a copy. Keys are in the order of their deletions.
func Key(o *Object) string {
	return fmt.Sprintf("%s%016x-%s~%s", Prefix, max(o.Deleted, 0), o.Uid, o.Namespace)
}

// Time returns when the copy of a key was made.
func Time(key string) (time.Time, bool) {
	digits, _, ok := strings.Cut(strings.TrimPrefix(key, Prefix), "-")
	ns, err := strconv.ParseInt(digits, 16, 64)
	return time.Unix(0, ns), ok && err == nil
}

// UID returns the UID of the object of a key.
func UID(key string) string {
	_, rest, _ := strings.Cut(strings.TrimPrefix(key, Prefix), "-")
	uid, _, _ := strings.Cut(rest, "~")
	return uid
}

// namespaceOf returns the namespace of the object of a key.
func namespaceOf(key string) string {
	_, namespace, _ := strings.Cut(key, "~")
	return namespace
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
	var drop []*kv.Version
	due = Age
	view.Range(Prefix, kv.PrefixEnd(Prefix), func(v *kv.Version) bool {
		at, ok := Time(v.Key)
		if age := now.Sub(at); ok && age < Age {
			due = min(Age-age, Age) // a copy from the future was made by a clock that has been set back since
			return false
		}
		drop = append(drop, v)
		left -= cost(v.Key, v.Value)
		return len(drop) < atOnce
	})
	if len(drop) < atOnce && left > Bytes {
		drop = append(drop, excess(view, left-Bytes, len(drop))...)
	}
	var ops []kv.Op
	freed := int64(0)
	for _, v := range drop {
		ops = append(ops, kv.Op{Key: v.Key, Delete: true, Cond: kv.AtRevision, Revision: v.ModRevision})
		freed += cost(v.Key, v.Value)
	}
	switch {
	case len(ops) > 0:
		ops = append(ops, kv.Op{Key: bytesKey, Add: -freed})
		due = 0 // there may be more
	case kv.Counter(counter) != 0 && view.Count(Prefix, kv.PrefixEnd(Prefix)) == 0:
		// Re-encryption may have changed the length of a copy, which the counter does not follow.
		ops = append(ops, kv.Op{Key: bytesKey, Delete: true, Cond: kv.AtRevision, Revision: counter.ModRevision})
	default:
		return max(due, 0), nil
	}
	if _, err := store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops}); err != nil {
		return 0, err
	}
	return max(due, 0), nil
}

// excess returns the copies to drop of those after the first skip: at least over bytes, but not more than one command drops; always the
// oldest of the namespace that has most.
func excess(view kv.View, over int64, skip int) (drop []*kv.Version) {
	type namespace struct {
		bytes  int64
		copies []*kv.Version // the oldest first
	}
	all := map[string]*namespace{}
	n := 0
	view.Range(Prefix, kv.PrefixEnd(Prefix), func(v *kv.Version) bool {
		if n++; n <= skip {
			return true
		}
		name := namespaceOf(v.Key)
		if all[name] == nil {
			all[name] = &namespace{}
		}
		all[name].bytes += cost(v.Key, v.Value)
		all[name].copies = append(all[name].copies, v)
		return true
	})
	for over > 0 && len(drop)+skip < atOnce {
		var most *namespace
		for _, of := range all {
			if len(of.copies) > 0 && (most == nil || of.bytes > most.bytes || of.bytes == most.bytes && of.copies[0].Key < most.copies[0].Key) {
				most = of
			}
		}
		if most == nil {
			break
		}
		v := most.copies[0]
		drop, most.copies = append(drop, v), most.copies[1:]
		most.bytes -= cost(v.Key, v.Value)
		over -= cost(v.Key, v.Value)
	}
	return drop
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
