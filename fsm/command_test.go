package fsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/internal/kv"
	storev1 "github.com/kontiki/kontiki/proto/kontiki/store/v1"
)

// seedCommands are commands of every kind; the fuzzers start with them.
func seedCommands() []*kv.Command {
	id := kv.CommandID{1, 2, 3}
	return []*kv.Command{
		{ID: id},
		{ID: id, Ops: []kv.Op{{Key: "/", Value: []byte("v")}}},
		{ID: id, Ops: []kv.Op{{Key: "/a/b/c/d", Delete: true, Cond: kv.Exists}, {Key: "/ü", Check: true, Cond: kv.Absent}}},
		{ID: id, Ops: []kv.Op{{Key: "/x", Value: bytes.Repeat([]byte("y"), 300), Cond: kv.AtRevision, Revision: 1 << 40}}},
		{ID: id, Ops: []kv.Op{{Key: "/x", Cond: kv.AtRevision}}},
		{ID: id, Ops: []kv.Op{{Key: "/n", Add: -3}, {Key: "/m", Add: 1 << 50, Cond: kv.AtMost, Most: -1}, {Key: "/o", Add: 1, Cond: kv.AtMost}}},
		{ID: id, Restore: &kv.Restore{}},
		{ID: id, Ops: []kv.Op{{Key: "/kept/epoch", Value: []byte("2")}}, Restore: &kv.Restore{From: "/kept/staged/", Keep: "/kept/", Revision: 1 << 33}},
	}
}

// TestCommandSchema: the hand-written encoding equals that of the .proto file's message, in both directions.
func TestCommandSchema(t *testing.T) {
	for _, c := range seedCommands() {
		b := mustEncode(t, c)
		if want, err := proto.Marshal(message(c)); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%v:\n%x, protobuf writes\n%x", c, b, want)
		}
		got, err := DecodeCommand(b)
		if err != nil || !equalCommands(got, c) {
			t.Errorf("%v came back as %v, %v", c, got, err)
		}
	}
}

func message(c *kv.Command) *storev1.Command {
	m := &storev1.Command{Version: 1, Id: c.ID[:]}
	if r := c.Restore; r != nil {
		m.Version, m.Restore = 2, &storev1.Restore{From: r.From, Keep: r.Keep, Revision: r.Revision}
	}
	for _, op := range c.Ops {
		m.Operations = append(m.Operations, &storev1.Operation{
			Kind: opKind(&op), Key: op.Key, Value: op.Value, Condition: storev1.Operation_Condition(op.Cond), Revision: op.Revision,
			Add: op.Add, Most: op.Most,
		})
		if op.Add != 0 {
			m.Version = 4
		}
	}
	return m
}

func equalCommands(a, b *kv.Command) bool {
	return a.ID == b.ID && len(a.Ops) == len(b.Ops) && (len(a.Ops) == 0 || reflect.DeepEqual(a.Ops, b.Ops)) && reflect.DeepEqual(a.Restore, b.Restore)
}

func TestBadCommands(t *testing.T) {
	id := kv.CommandID{1}
	many := func(change func(ops []kv.Op)) *kv.Command {
		c := &kv.Command{ID: id}
		for i := range 20 {
			c.Ops = append(c.Ops, kv.Op{Key: fmt.Sprint("/", i)})
		}
		change(c.Ops)
		return c
	}
	big := make([]byte, kv.MaxCommandBytes)
	for name, x := range map[string]struct {
		c    *kv.Command
		want error
	}{
		"no id":              {&kv.Command{Ops: []kv.Op{{Key: "/a"}}}, ErrBadCommand},
		"empty key":          {&kv.Command{ID: id, Ops: []kv.Op{{}}}, ErrBadCommand},
		"key without slash":  {&kv.Command{ID: id, Ops: []kv.Op{{Key: "a/b"}}}, ErrBadCommand},
		"key not UTF-8":      {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/\xff"}}}, ErrBadCommand},
		"long key":           {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/" + strings.Repeat("k", MaxKeyBytes)}}}, ErrBadCommand},
		"key twice":          {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a"}, {Key: "/b"}, {Key: "/a", Check: true}}}, ErrBadCommand},
		"key twice of many":  {many(func(o []kv.Op) { o[19].Key = o[3].Key }), ErrBadCommand},
		"condition":          {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Cond: 5}}}, ErrBadCommand},
		"useless limit":      {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Add: 1, Most: 1}}}, ErrBadCommand},
		"limit of a put":     {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Cond: kv.AtMost, Most: 1}}}, ErrBadCommand},
		"addition and value": {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Add: 1, Value: []byte("x")}}}, ErrBadCommand},
		"useless revision":   {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Cond: kv.Exists, Revision: 1}}}, ErrBadCommand},
		"delete and check":   {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Check: true, Delete: true}}}, ErrBadCommand},
		"delete of a value":  {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Delete: true, Value: []byte("x")}}}, ErrBadCommand},
		"restore, no slash":  {&kv.Command{ID: id, Restore: &kv.Restore{From: "/a/b", Keep: "/a/"}}, ErrBadCommand},
		"restore, no keep":   {&kv.Command{ID: id, Restore: &kv.Restore{From: "/a/b/"}}, ErrBadCommand},
		"restore, only keep": {&kv.Command{ID: id, Restore: &kv.Restore{Keep: "/a/"}}, ErrBadCommand},
		"restore, not kept":  {&kv.Command{ID: id, Restore: &kv.Restore{From: "/b/", Keep: "/a/"}}, ErrBadCommand},
		"restore over a put": {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/x"}}, Restore: &kv.Restore{From: "/a/b/", Keep: "/a/"}}, ErrBadCommand},
		"restore and staged": {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a/b/x"}}, Restore: &kv.Restore{From: "/a/b/", Keep: "/a/"}}, ErrBadCommand},
		"large":              {&kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Value: big}}}, kv.ErrTooLarge},
		"large by its sum":   {many(func(o []kv.Op) { o[1].Value, o[2].Value = big[:1<<20], big[:1<<20] }), kv.ErrTooLarge},
		"absurdly large sum": {many(func(o []kv.Op) { o[1].Value, o[2].Value = big, big }), kv.ErrTooLarge},
	} {
		if _, err := EncodeCommand(x.c); !errors.Is(err, x.want) {
			t.Errorf("%s: encoded with %v", name, err)
		}
		b, err := proto.Marshal(message(x.c))
		if err != nil { // not UTF-8
			b = []byte{8, 1, 18, 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 26, 6, 8, 1, 18, 2, '/', 0xff}
		}
		if name == "delete and check" {
			continue // the message cannot say it
		}
		l := NewLocal(Options{})
		if r, err := l.Apply(5, b); !errors.Is(err, x.want) || r.Revisions != nil || l.View().Revision() != 0 {
			t.Errorf("%s: applied with %+v, %v", name, r, err)
		}
		if l.AppliedIndex() != 5 {
			t.Errorf("%s: the applied index is %d", name, l.AppliedIndex())
		}
		if _, err := l.Propose(context.Background(), x.c); !errors.Is(err, x.want) {
			t.Errorf("%s: proposed with %v", name, err)
		}
	}
	fits := &kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Value: big[:kv.MaxCommandBytes-64]}}}
	if _, err := NewLocal(Options{}).Propose(context.Background(), fits); err != nil {
		t.Errorf("just under the limit: %v", err)
	}
	good := mustEncode(t, seedCommands()[2])
	for name, b := range map[string][]byte{
		"empty":         nil,
		"version 2":     append([]byte{8, 2}, good[2:]...), // which it does not need
		"no version":    good[2:],
		"short id":      {8, 1, 18, 1, 1},
		"unknown field": append(bytes.Clone(good), 0x7a, 0),
		"huge field":    append(bytes.Clone(good), 0xfa, 0xff, 0x01, 0),
		"wrong type":    append([]byte{10, 0}, good...),
		"cut":           good[:len(good)-1],
		"text":          []byte("GET / HTTP/1.1\r\n"),
		"unknown kind":  append(bytes.Clone(good), 26, 5, 8, 4, 18, 1, '/'),
		"no kind":       append(bytes.Clone(good), 26, 3, 18, 1, '/'),
	} {
		if c, err := DecodeCommand(b); !errors.Is(err, ErrBadCommand) {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

// TestValuesShareOrCopy: decoding shares or copies memory as its documentation promises.
func TestValuesShareOrCopy(t *testing.T) {
	id := kv.CommandID{1}
	alone := mustEncode(t, &kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Value: make([]byte, 1000)}}})
	several := mustEncode(t, &kv.Command{ID: id, Ops: []kv.Op{{Key: "/a", Value: []byte("small")}, {Key: "/b", Value: make([]byte, 1000)}}})
	for i, data := range [][]byte{alone, several} {
		s := New(Options{})
		if _, err := s.Apply(1, data); err != nil {
			t.Fatal(err)
		}
		clear(data)
		v, _ := s.View().Get("/a")
		if i == 1 && string(v.Value) != "small" {
			t.Error("a small value shares the memory of a large entry")
		}
		if cap(v.Value) != len(v.Value) {
			t.Error("appending to a value would write into the entry")
		}
		if v.Key != "/a" {
			t.Error("a key shares the entry's memory")
		}
	}
}

func TestIdempotency(t *testing.T) {
	s := New(Options{Remembered: 3})
	apply := func(id byte, op kv.Op) kv.Result {
		t.Helper()
		r, err := s.Apply(s.AppliedIndex()+1, mustEncode(t, &kv.Command{ID: kv.CommandID{id}, Ops: []kv.Op{op}}))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	absent := kv.Op{Key: "/a", Value: []byte("1"), Cond: kv.Absent}
	first := apply(1, absent)
	refused := apply(2, absent)
	if refused.Failed == nil || refused.Failed.Current != 1 || refused.Revisions != nil || refused.Revision != 1 {
		t.Fatalf("%+v", refused)
	}
	apply(3, kv.Op{Key: "/a", Delete: true})
	if again := apply(1, absent); !reflect.DeepEqual(again, first) {
		t.Fatalf("%+v, the first time %+v", again, first)
	}
	if again := apply(2, absent); !reflect.DeepEqual(again, refused) {
		t.Fatalf("%+v, the first time %+v: a failure is remembered too", again, refused)
	}
	apply(4, kv.Op{Key: "/b"}) // pushes out 1: repeating it did not make it younger
	if again := apply(1, absent); again.Failed != nil || again.Revision != 4 {
		t.Fatalf("%+v: the oldest is forgotten first", again)
	}
	if n := s.Stats().Remembered; n != 3 {
		t.Fatalf("%d are remembered", n)
	}
}

// TestACommandIsNotAppliedTwiceAfterItWasForgotten: a command that is proposed again after its result was forgotten is rejected, by
// all replicas alike, also by one that was restored from a snapshot in between.
func TestACommandIsNotAppliedTwiceAfterItWasForgotten(t *testing.T) {
	s := New(Options{Remembered: 3})
	data := func(id byte, since uint64) []byte {
		return mustEncode(t, &kv.Command{ID: kv.CommandID{id}, Since: since, Ops: []kv.Op{{Key: "/a", Value: []byte{id}}}})
	}
	for i := range byte(3) {
		if _, err := s.Apply(uint64(i)+2, data(i+1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := s.Apply(5, data(1, 1)); err != nil || r.Revision != 1 {
		t.Fatalf("%+v, %v: it is remembered", r, err)
	}
	for i := range byte(2) { // the first two, at indexes 2 and 3, are forgotten
		if _, err := s.Apply(uint64(i)+6, data(i+4, 5)); err != nil {
			t.Fatal(err)
		}
	}
	restored := New(Options{Remembered: 3})
	var snapshot bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := restored.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Store{"the replica": s, "a restored one": restored} {
		if _, err := s.Apply(8, data(2, 1)); !errors.Is(err, ErrForgotten) {
			t.Errorf("%s: %v: it was applied before, and its result is forgotten", name, err)
		}
		if s.View().Revision() != 5 || s.AppliedIndex() != 8 {
			t.Errorf("%s: revision %d at index %d: a command that is refused changes nothing", name, s.View().Revision(), s.AppliedIndex())
		}
		if _, err := s.Apply(9, data(6, 2)); !errors.Is(err, ErrForgotten) {
			t.Errorf("%s: %v: it may have been the command at index 3", name, err)
		}
		if r, err := s.Apply(10, data(3, 1)); err != nil || r.Revision != 3 {
			t.Errorf("%s: %+v, %v: it is remembered", name, r, err)
		}
		if r, err := s.Apply(11, data(6, 3)); err != nil || r.Revision != 6 {
			t.Errorf("%s: %+v, %v: nothing that was proposed after index 3 is forgotten", name, r, err)
		}
	}
}

// TestMemoryIsBoundedByBytes: results of very large commands do not accumulate.
func TestMemoryIsBoundedByBytes(t *testing.T) {
	m := newMemory(RememberedCommands)
	for i := range 2000 {
		o := rememberedResult{more: make([]uint64, 1000)}
		binary.LittleEndian.PutUint64(o.id[:], uint64(i))
		m.remember(o)
	}
	if m.extra > rememberedExtraBytes || m.len() != rememberedExtraBytes/8000 || len(m.byID) != m.len() || len(m.chunks) > 2 {
		t.Fatalf("%d are kept in %d chunks, with %d bytes", m.len(), len(m.chunks), m.extra)
	}
	for i := range 3 * RememberedCommands {
		o := rememberedResult{}
		binary.LittleEndian.PutUint64(o.id[8:], uint64(i+1))
		m.remember(o)
	}
	if m.len() != RememberedCommands || len(m.byID) != m.len() || len(m.chunks) > RememberedCommands/memoryChunk+1 || m.extra != 0 {
		t.Fatalf("%d are kept in %d chunks", m.len(), len(m.chunks))
	}
}

func TestLocal(t *testing.T) {
	l, do := local(t, Options{})
	if r := do(put("/a", 1), kv.Op{Key: "/b", Check: true, Cond: kv.Absent}, kv.Op{Key: "/c", Delete: true}); !reflect.DeepEqual(r, kv.Result{Revision: 1, Revisions: []uint64{1, 0, 0}}) {
		t.Fatalf("%+v", r)
	}
	v, err := l.Consistent(context.Background())
	if err != nil || v.Revision() != 1 {
		t.Fatal(v, err)
	}
	if _, err := l.Propose(ended, &kv.Command{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := l.Consistent(ended); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if l.AppliedIndex() != 1 {
		t.Fatal(l.AppliedIndex())
	}
}
