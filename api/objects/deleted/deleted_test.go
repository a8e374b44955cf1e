package deleted_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/kontiki/kontiki/api/objects/deleted"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

type lab struct {
	*harness.Harness
	t    *testing.T
	from time.Time
}

// add makes a copy that was made some time ago.
func (l *lab) add(name string, ago time.Duration, bytes int) {
	l.t.Helper()
	l.addTo("default", name, ago, bytes)
}

func (l *lab) addTo(namespace, name string, ago time.Duration, bytes int) {
	l.t.Helper()
	o := &deleted.Object{Resource: "configmaps", Namespace: namespace, Name: name, Uid: name, Deleted: l.from.Add(-ago).UnixNano(), Value: make([]byte, bytes)}
	value, err := deleted.Encode(o)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.Store.Propose(l.t.Context(), &kv.Command{ID: random.CommandID(), Ops: deleted.Keep(deleted.Key(o), value)}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) kept() (uids []string) {
	l.Store.View().Range(deleted.Prefix, kv.PrefixEnd(deleted.Prefix), func(v *kv.Version) bool {
		uids = append(uids, deleted.UID(v.Key))
		return true
	})
	return uids
}

func (l *lab) await(what string, done func() bool) {
	l.t.Helper()
	await.That(l.t, what, func() error {
		if !done() {
			return fmt.Errorf("kept: %v, %d bytes", l.kept(), l.bytes())
		}
		return nil
	})
}

func (l *lab) bytes() int64 {
	v, _ := l.Store.View().Get("/deleted-bytes")
	return kv.Counter(v)
}

func newLab(t *testing.T) *lab { return &lab{harness.New(t), t, time.Now()} }

func (l *lab) trim() {
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- deleted.Trim(ctx, l.Store, func() time.Time { return l.from }, slog.New(slog.DiscardHandler))
	}()
	l.t.Cleanup(func() { cancel(); <-done })
}

func TestOldCopiesAreDropped(t *testing.T) {
	l := newLab(t)
	for i := range 600 { // more than one command drops
		l.add(fmt.Sprintf("old-%d", i), 2*time.Hour-time.Duration(i)*time.Second, 10)
	}
	l.add("young", 59*time.Minute, 10)
	l.add("future", -time.Minute, 10)
	l.trim()
	l.await("old copies are dropped", func() bool { return fmt.Sprint(l.kept()) == "[young future]" })
	v, _ := l.Store.View().Get("/deleted-bytes")
	if n := kv.Counter(v); n <= 0 || n > 1000 {
		t.Errorf("the counter is %d", n)
	}
}

func TestTheOldestAreDroppedIfThereAreTooMany(t *testing.T) {
	l := newLab(t)
	const each = deleted.MaxBytes
	n := deleted.Bytes/each + 10
	for i := range n {
		l.add(fmt.Sprint(i), time.Duration(n-i)*time.Second, each)
	}
	l.trim()
	l.await("the oldest are dropped", func() bool { return l.bytes() <= deleted.Bytes })
	kept := l.kept()
	if len(kept) < n-15 || kept[len(kept)-1] != fmt.Sprint(n-1) {
		t.Errorf("kept %d of %d: %v", len(kept), n, kept)
	}
	// The next one is dropped when it comes.
	l.add("further", 0, each)
	l.await("the next oldest is dropped", func() bool { return l.bytes() <= deleted.Bytes && l.kept()[len(l.kept())-1] == "further" })
}

// TestANamespacePushesOutOnlyItsOwn, however much is deleted in it.
func TestANamespacePushesOutOnlyItsOwn(t *testing.T) {
	l := newLab(t)
	const each = deleted.MaxBytes
	for i := range 3 {
		l.addTo("quiet", fmt.Sprint("quiet-", i), 30*time.Minute, each)
	}
	for i := range deleted.Bytes / each {
		l.addTo("busy", fmt.Sprint("busy-", i), 10*time.Minute-time.Duration(i)*time.Second, each)
	}
	l.trim()
	l.await("copies are dropped", func() bool { return l.bytes() <= deleted.Bytes })
	if kept := l.kept(); len(kept) < 4 || kept[0] != "quiet-0" || kept[2] != "quiet-2" || kept[3] == "busy-0" {
		t.Errorf("kept %v", kept)
	}
}

func TestThereIsRoomForTwiceTheBytes(t *testing.T) {
	l := newLab(t)
	const each = deleted.MaxBytes
	if deleted.Room(l.Store.View(), make([]byte, each+1)) || !deleted.Room(l.Store.View(), make([]byte, each)) {
		t.Error("one object is not bounded")
	}
	n := 0
	for ; deleted.Room(l.Store.View(), make([]byte, each)); n++ {
		if n > 2*deleted.Bytes/each {
			t.Fatal("there is always room")
		}
		l.add(fmt.Sprint(n), 0, each)
	}
	if n < 2*deleted.Bytes/each-2 {
		t.Errorf("there is no room after %d", n)
	}
}

// TestACounterThatDriftedIsCorrected: a copy may become longer or shorter when it is encrypted anew.
func TestACounterThatDriftedIsCorrected(t *testing.T) {
	l := newLab(t)
	l.add("a", 2*time.Hour, 10)
	if _, err := l.Store.Propose(t.Context(), &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: "/deleted-bytes", Add: 1 << 20}}}); err != nil {
		t.Fatal(err)
	}
	l.trim()
	l.await("the counter is right", func() bool { return len(l.kept()) == 0 && l.bytes() == 0 })
}

func TestKeysHaveTheTimeAndTheUID(t *testing.T) {
	at := time.Unix(0, 1796000000123456789)
	key := deleted.Key(&deleted.Object{Uid: "a-b", Namespace: "default", Deleted: at.UnixNano()})
	if got, ok := deleted.Time(key); !ok || !got.Equal(at) || deleted.UID(key) != "a-b" {
		t.Errorf("%s: %v %v %s", key, got, ok, deleted.UID(key))
	}
	if _, ok := deleted.Time(deleted.Prefix + "x"); ok {
		t.Error("there is a time")
	}
	ops, of := deleted.Forget(append([]kv.Op{{Key: "/x"}}, deleted.Keep(key, []byte("v"))...), []int{1, 2, 3})
	if len(ops) != 1 || ops[0].Key != "/x" || len(of) != 1 || of[0] != 1 {
		t.Errorf("%v %v", ops, of)
	}
}
