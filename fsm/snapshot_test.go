package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/kv"
	storev1 "github.com/kontiki/kontiki/proto/kontiki/store/v1"
)

func snapshotBytes(t testing.TB, s *Store) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := s.Snapshot().WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

// TestReplicasAreIdentical applies one log to replicas with different timing (singly, in batches of any size, with snapshots and
// restores in between, with other limits) and compares their snapshots byte by byte, and every result.
func TestReplicasAreIdentical(t *testing.T) {
	for seed := range int64(4) {
		src, m := newSource(seed, 200), newModel(100)
		var log []Entry
		for i := range 3000 {
			data := mustEncode(t, src.command(m))
			if i%97 == 0 {
				data = data[:src.Intn(len(data))] // some entries are no commands
			}
			if c, err := DecodeCommand(data); err == nil {
				m.mustApply(t, c)
			} else if i%97 != 0 {
				t.Fatal(err)
			}
			log = append(log, Entry{uint64(3 * i), data})
		}
		want := New(Options{Remembered: 100})
		var results []Outcome
		for _, e := range log {
			r, err := want.Apply(e.Index, bytes.Clone(e.Data))
			results = append(results, Outcome{r, err})
		}
		checkView(t, want.View(), m.revision, m.objects)
		for replica := range int64(4) {
			r := rand.New(rand.NewSource(replica))
			s := New(Options{Remembered: 100, HistoryEvents: 1 + r.Intn(1000), FormBytes: 1})
			for at := 0; at < len(log); {
				n := min(1+r.Intn(1+r.Intn(600)), len(log)-at)
				for i, o := range replay(s, log[at:at+n], r.Intn(2) == 0) {
					w := results[at+i]
					if !reflect.DeepEqual(o.Result, w.Result) || fmt.Sprint(o.Err) != fmt.Sprint(w.Err) {
						t.Fatalf("seed %d, replica %d, entry %d: %+v, want %+v", seed, replica, at+i, o, w)
					}
				}
				at += n
				switch r.Intn(4) {
				case 0: // a restart, or a follower that gets the state
					b := snapshotBytes(t, s)
					s = New(Options{Remembered: 100})
					if err := s.Restore(iotest.HalfReader(bytes.NewReader(b))); err != nil {
						t.Fatal(err)
					}
				case 1: // a restore into a store that has something
					if err := s.Restore(bytes.NewReader(snapshotBytes(t, s))); err != nil {
						t.Fatal(err)
					}
				}
			}
			if a, b := snapshotBytes(t, want), snapshotBytes(t, s); !bytes.Equal(a, b) {
				t.Fatalf("seed %d, replica %d: snapshots of %d and %d bytes differ", seed, replica, len(a), len(b))
			}
			checkTree(t, s.current.Load().root)
		}
	}
}

func replay(s *Store, log []Entry, batch bool) (out []Outcome) {
	if batch {
		return s.ApplyBatch(log)
	}
	for _, e := range log {
		r, err := s.Apply(e.Index, e.Data)
		out = append(out, Outcome{r, err})
	}
	return out
}

// filled returns a store that contains objects and commands of every kind.
func filled(t testing.TB, seed int64, commands int) (*Store, *model) {
	t.Helper()
	s, m, src := New(Options{}), newModel(RememberedCommands), newSource(seed, 80)
	for i := range commands {
		c := src.command(m)
		m.mustApply(t, c)
		if _, err := s.Apply(uint64(i+10), mustEncode(t, c)); err != nil {
			t.Fatal(err)
		}
	}
	return s, m
}

// TestSnapshotIsFrozen writes a snapshot after the store has applied many further commands.
func TestSnapshotIsFrozen(t *testing.T) {
	s, m := filled(t, 1, 500)
	snap, want := s.Snapshot(), snapshotBytes(t, s)
	src := newSource(99, 80)
	for i := range 3000 {
		c := src.command(m)
		c.ID[0] = 9
		m.mustApply(t, c)
		if _, err := s.Apply(uint64(1000+i), mustEncode(t, c)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Fatalf("the snapshot changed: %v", err)
	}
}

func TestIdempotencyAcrossSnapshot(t *testing.T) {
	s := New(Options{})
	var first []kv.Result
	var log [][]byte
	for i := range 300 {
		c := &kv.Command{ID: kv.CommandID{1, byte(i), byte(i >> 8)}}
		for k := range 1 + i {
			c.Ops = append(c.Ops, kv.Op{Key: fmt.Sprintf("/k%d", k), Delete: (i+k)%3 == 0, Check: (i+k)%3 == 1})
		}
		if i%7 == 3 {
			c.Ops[i/2].Cond, c.Ops[i/2].Revision = kv.AtRevision, uint64(i)
		}
		log = append(log, mustEncode(t, c))
		r, err := s.Apply(uint64(i+1), log[i])
		if err != nil {
			t.Fatal(err)
		}
		first = append(first, r)
	}
	restored := New(Options{})
	if err := restored.Restore(bytes.NewReader(snapshotBytes(t, s))); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for i, data := range log {
		r, err := restored.Apply(uint64(1000+i), data)
		if err != nil || !reflect.DeepEqual(r, first[i]) {
			t.Fatalf("command %d: %+v, %v; the first time %+v", i, r, err, first[i])
		}
		if r.Failed != nil {
			failed++
		}
	}
	if failed == 0 || failed == 300 {
		t.Fatalf("%d failed: the test tests nothing", failed)
	}
	if restored.View().Revision() != s.View().Revision() {
		t.Fatal("a repeated command took a revision")
	}
}

// offsets returns the offsets of the records, by type.
func offsets(t testing.TB, b []byte) map[byte][]int {
	t.Helper()
	at := map[byte][]int{}
	for i := len(snapshotMagic); i < len(b); {
		at[b[i+4]] = append(at[b[i+4]], i)
		i += 8 + int(binary.LittleEndian.Uint32(b[i:]))
	}
	return at
}

// TestDamagedSnapshot flips a bit in, truncates, drops, duplicates and swaps records of each region. Each such snapshot is rejected
// with the offset of the bad record, and the state does not change.
func TestDamagedSnapshot(t *testing.T) {
	source, _ := filled(t, 3, 400)
	good := snapshotBytes(t, source)
	at := offsets(t, good)
	s, m := filled(t, 4, 50)
	before := snapshotBytes(t, s)
	refuse := func(name string, b []byte, offset int) {
		t.Helper()
		err := s.Restore(bytes.NewReader(b))
		var where *SnapshotError
		if !errors.Is(err, ErrBadSnapshot) || !errors.As(err, &where) {
			t.Fatalf("%s: %v", name, err)
		}
		if where.Offset != int64(offset) || !strings.Contains(err.Error(), fmt.Sprintf("at byte %d", offset)) {
			t.Fatalf("%s: %v; the damage is in the record at %d", name, err, offset)
		}
		if !bytes.Equal(snapshotBytes(t, s), before) {
			t.Fatalf("%s: the state changed", name)
		}
	}
	record := func(i int) []byte { return good[i : i+8+int(binary.LittleEndian.Uint32(good[i:]))] }
	refuse("empty", nil, 0)
	refuse("other file", []byte("SQLite format 3\x00 and so on and on"), 0)
	for i := range snapshotMagic {
		b := bytes.Clone(good)
		b[i] ^= 1
		refuse("magic", b, 0)
	}
	for region, name := range map[byte]string{recordHeader: "header", recordObject: "object", recordCommand: "command", recordFooter: "footer"} {
		list := at[region]
		start := list[len(list)/2]
		for i := range record(start) {
			b := bytes.Clone(good)
			b[start+i] ^= 0x10
			refuse(fmt.Sprintf("%s: bit flipped in byte %d", name, i), b, start)
			refuse(fmt.Sprintf("%s: cut after %d bytes", name, i), good[:start+i], start)
		}
		end := start + len(record(start))
		dropped := append(bytes.Clone(good[:start]), good[end:]...)
		err := s.Restore(bytes.NewReader(dropped))
		if !errors.Is(err, ErrBadSnapshot) {
			t.Fatalf("%s dropped: %v", name, err)
		}
		doubled := append(bytes.Clone(good[:end]), good[start:]...)
		refuse(name+" doubled", doubled, end)
	}
	a, b := record(at[recordCommand][0]), record(at[recordCommand][1])
	swapped := bytes.Clone(good[:at[recordCommand][0]])
	swapped = append(append(append(swapped, b...), a...), good[at[recordCommand][2]:]...)
	refuse("remembered commands swapped", swapped, at[recordFooter][0])
	refuse("data after the end", append(bytes.Clone(good), 0), len(good))
	broken := errors.New("disk on fire")
	err := s.Restore(io.MultiReader(bytes.NewReader(good[:at[recordObject][3]+5]), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || !errors.Is(err, ErrBadSnapshot) {
		t.Fatalf("a reader's error: %v", err)
	}
	checkView(t, s.View(), m.revision, m.objects)
	if err := s.Restore(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
}

// craft returns a record with a correct checksum.
func craft(typ byte, m proto.Message) []byte {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)+1))
	b = append(append(b, typ), body...)
	return binary.LittleEndian.AppendUint32(b, crc32c.Sum(b))
}

func craftSnapshot(h *storev1.SnapshotHeader, records ...[]byte) []byte {
	b := append([]byte(snapshotMagic), craft(recordHeader, h)...)
	for _, r := range records {
		b = append(b, r...)
	}
	return append(b, craft(recordFooter, &storev1.SnapshotFooter{Checksum: uint64(crc32c.Sum(b))})...)
}

// TestSnapshotSchema: the hand-written records equal the messages of the .proto file, and records with impossible values are
// rejected.
func TestSnapshotSchema(t *testing.T) {
	id := func(i byte) []byte { return append(make([]byte, 15), i) }
	header := &storev1.SnapshotHeader{Format: 1, Revision: 90, AppliedIndex: 7, Objects: 2, Commands: 4}
	o1 := craft(recordObject, &storev1.SnapshotObject{Key: "/a", CreateRevision: 3, ModRevision: 5, Value: []byte("x")})
	o2 := craft(recordObject, &storev1.SnapshotObject{Key: "/b", CreateRevision: 90, ModRevision: 90})
	c1 := craft(recordCommand, &storev1.SnapshotCommand{Id: id(1), Revision: 5, Operations: 2, Changed: 2})
	c2 := craft(recordCommand, &storev1.SnapshotCommand{Id: id(2), Revision: 80, Operations: 66, Changed: 1, ChangedMore: []byte{2, 0, 0, 0, 0, 0, 0, 0}})
	c3 := craft(recordCommand, &storev1.SnapshotCommand{Id: id(3), Revision: 90, Failure: &storev1.SnapshotFailure{Operation: 4, Condition: 3, Current: 60}})
	c4 := craft(recordCommand, &storev1.SnapshotCommand{Id: id(4), Revision: 90, Failure: &storev1.SnapshotFailure{Operation: 1, Condition: 4, Count: -7}})
	good := craftSnapshot(header, o1, o2, c1, c2, c3, c4)
	s := New(Options{})
	if err := s.Restore(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshotBytes(t, s), good) {
		t.Fatal("written again it differs")
	}
	checkView(t, s.View(), 90, map[string]modelObject{"/a": {"x", 3, 5}, "/b": {"", 90, 90}})
	r, err := s.Apply(8, mustEncode(t, &kv.Command{ID: kv.CommandID(id(2)), Ops: []kv.Op{{Key: "/other"}}}))
	if err != nil || len(r.Revisions) != 66 || r.Revisions[0] != 79 || r.Revisions[65] != 80 {
		t.Fatalf("a remembered result: %+v, %v", r, err)
	}
	r, err = s.Apply(9, mustEncode(t, &kv.Command{ID: kv.CommandID(id(4)), Ops: []kv.Op{{Key: "/other"}}}))
	if err != nil || r.Failed == nil || *r.Failed != (kv.Failure{Index: 1, Cond: kv.AtMost, Count: -7}) {
		t.Fatalf("a remembered failure: %+v, %v", r, err)
	}
	one := func(m proto.Message) []byte {
		typ, h := byte(recordObject), &storev1.SnapshotHeader{Format: 1, Revision: 90, Objects: 1}
		if _, ok := m.(*storev1.SnapshotCommand); ok {
			typ, h = recordCommand, &storev1.SnapshotHeader{Format: 1, Revision: 90, Commands: 1}
		}
		return craftSnapshot(h, craft(typ, m))
	}
	for name, b := range map[string][]byte{
		"format of the future":    craftSnapshot(&storev1.SnapshotHeader{Format: 2}),
		"fewer than promised":     craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 90, Objects: 2}, o1),
		"more than promised":      craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 90, Objects: 1}, o1, o2),
		"keys out of order":       craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 90, Objects: 2}, o2, o1),
		"key twice":               craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 90, Objects: 2}, o1, o1),
		"command twice":           craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 90, Commands: 2}, c1, c1),
		"no key":                  one(&storev1.SnapshotObject{CreateRevision: 1, ModRevision: 1}),
		"bad key":                 one(&storev1.SnapshotObject{Key: "a", CreateRevision: 1, ModRevision: 1}),
		"never created":           one(&storev1.SnapshotObject{Key: "/a", ModRevision: 1}),
		"created after it was":    one(&storev1.SnapshotObject{Key: "/a", CreateRevision: 2, ModRevision: 1}),
		"object from the future":  one(&storev1.SnapshotObject{Key: "/a", CreateRevision: 1, ModRevision: 91}),
		"short id":                one(&storev1.SnapshotCommand{Id: []byte{1}}),
		"command from the future": one(&storev1.SnapshotCommand{Id: id(1), Revision: 91}),
		"changed the impossible":  one(&storev1.SnapshotCommand{Id: id(1), Revision: 90, Operations: 1, Changed: 2}),
		"changed before revision": one(&storev1.SnapshotCommand{Id: id(1), Revision: 1, Operations: 2, Changed: 3}),
		"bits missing":            one(&storev1.SnapshotCommand{Id: id(1), Revision: 90, Operations: 65, Changed: 1}),
		"failed and applied":      one(&storev1.SnapshotCommand{Id: id(1), Revision: 9, Operations: 1, Failure: &storev1.SnapshotFailure{}}),
		"condition not known":     one(&storev1.SnapshotCommand{Id: id(1), Revision: 9, Failure: &storev1.SnapshotFailure{Condition: 5}}),
		"huge counts":             craftSnapshot(&storev1.SnapshotHeader{Format: 1, Objects: 1 << 62}),
	} {
		if err := s.Restore(bytes.NewReader(b)); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !bytes.Equal(snapshotBytes(t, New(Options{})), craftSnapshot(&storev1.SnapshotHeader{Format: 1})) {
		t.Error("the empty snapshot differs")
	}
}

// failingWriter accepts n bytes, then fails.
type failingWriter struct{ n int }

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

func TestSnapshotToFullDisk(t *testing.T) {
	l, do := local(t, Options{})
	for i := range 20 {
		do(put(fmt.Sprint("/k", i), 100_000))
	}
	for _, n := range []int{0, 300_000, 1_900_000} {
		if _, err := l.Snapshot().WriteTo(&failingWriter{n}); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}
