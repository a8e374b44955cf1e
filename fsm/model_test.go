package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"reflect"
	"slices"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
)

// model implements the rules of the store as simply as possible.
type model struct {
	revision uint64
	objects  map[string]modelObject
	results  map[kv.CommandID]kv.Result
	order    []modelCommand
	limit    int
	// forgotten is the index of the last dated command that was forgotten.
	forgotten uint64
	events    []modelEvent
	exceeded  int // commands that a limit of a counter stopped
	rewritten int
	// values has all values that a version has had, for those that were rewritten.
	values map[modelVersion][]string
}

type modelVersion struct {
	key string
	mod uint64
}

type modelObject struct {
	value       string
	create, mod uint64
}

type modelEvent struct {
	typ           kv.EventType
	key           string
	revision, end uint64
	now, before   modelObject // before is zero for a creation
}

func newModel(limit int) *model {
	return &model{objects: map[string]modelObject{}, results: map[kv.CommandID]kv.Result{}, limit: limit, values: map[modelVersion][]string{}}
}

func (m *model) apply(index uint64, c *kv.Command) (kv.Result, error) {
	if r, ok := m.results[c.ID]; ok {
		return r, nil
	}
	if c.Since != 0 && c.Since < m.forgotten {
		return kv.Result{}, ErrForgotten
	}
	r := m.do(c)
	m.results[c.ID] = r
	m.order = append(m.order, modelCommand{c.ID, index, c.Since != 0})
	if len(m.order) > m.limit {
		delete(m.results, m.order[0].id)
		if m.order[0].dated {
			m.forgotten = m.order[0].index
		}
		m.order = m.order[1:]
	}
	return r, nil
}

// modelCommand is a remembered command; dated says that it has a Since.
type modelCommand struct {
	id    kv.CommandID
	index uint64
	dated bool
}

func (m *model) do(c *kv.Command) kv.Result {
	for i, op := range c.Ops {
		o, exists := m.objects[op.Key]
		holds := map[kv.Condition]bool{
			kv.Always: true, kv.Absent: !exists, kv.Exists: exists, kv.AtRevision: exists && o.mod == op.Revision,
			kv.AtMost: op.Add < 0 || m.count(op.Key)+op.Add <= op.Most,
		}[op.Cond]
		if !holds && op.Cond == kv.AtMost {
			m.exceeded++
			return kv.Result{Revision: m.revision, Failed: &kv.Failure{Index: i, Cond: op.Cond, Current: o.mod, Count: m.count(op.Key)}}
		}
		if !holds {
			return kv.Result{Revision: m.revision, Failed: &kv.Failure{Index: i, Cond: op.Cond, Current: o.mod}}
		}
	}
	first := len(m.events)
	revisions := make([]uint64, len(c.Ops))
	for i, op := range c.Ops {
		before, exists := m.objects[op.Key]
		if op.Check || op.Delete && !exists {
			continue
		}
		if op.Rewrite {
			m.rewrite(op.Key, string(op.Value))
			continue
		}
		m.revision++
		revisions[i] = m.revision
		e := modelEvent{typ: kv.Put, key: op.Key, revision: m.revision, before: before}
		if op.Delete {
			e.typ, e.now = kv.Deleted, modelObject{before.value, before.create, m.revision}
			delete(m.objects, op.Key)
		} else {
			e.now = modelObject{string(op.Value), m.revision, m.revision}
			if op.Add != 0 {
				e.now.value = fmt.Sprint(m.count(op.Key) + op.Add)
			}
			if exists {
				e.now.create = before.create
			}
			m.objects[op.Key] = e.now
		}
		m.events = append(m.events, e)
	}
	for i := range m.events[first:] {
		m.events[first+i].end = m.revision
	}
	return kv.Result{Revision: m.revision, Revisions: revisions}
}

// rewrite replaces an object's value, also in the event that wrote it.
func (m *model) rewrite(key, value string) {
	o := m.objects[key]
	version := modelVersion{key, o.mod}
	m.values[version] = append(m.values[version], o.value, value)
	o.value = value
	m.objects[key] = o
	m.rewritten++
}

// normal returns an event with the newest of the values that its versions have had: a watcher may have read it before a rewrite.
func (m *model) normal(e modelEvent) modelEvent {
	for _, o := range []*modelObject{&e.now, &e.before} {
		if values := m.values[modelVersion{e.key, o.mod}]; slices.Contains(values, o.value) {
			o.value = values[len(values)-1]
		}
	}
	return e
}

// count is a counter's value.
func (m *model) count(key string) (n int64) {
	if _, err := fmt.Sscanf(m.objects[key].value+"|", "%d|", &n); err != nil || fmt.Sprint(n) != m.objects[key].value {
		return 0
	}
	return n
}

// state is a copy of the objects.
func (m *model) state() map[string]modelObject { return maps.Clone(m.objects) }

// source generates random commands that often hit existing objects.
type source struct {
	*rand.Rand
	keys []string
	ids  []kv.CommandID
	n    uint64
	// rewrites says that some commands rewrite values; watchers then see the value of either before or after.
	rewrites bool
}

func newSource(seed int64, keys int) *source {
	s := &source{Rand: rand.New(rand.NewSource(seed))}
	for i := range keys {
		s.keys = append(s.keys, fmt.Sprintf("/g%d/r%d/ns%d/name-%d", i%2, i%3, i%5, i))
	}
	s.keys = append(s.keys, "/", "//", "/short", "/g0/r0/", "/g0/r0//clusterwide", "/g0/r0/ns0/name-1/deeper", "/ü/日本")
	return s
}

func (s *source) command(m *model) *kv.Command {
	c := &kv.Command{}
	s.n++
	binary.BigEndian.PutUint64(c.ID[:], s.n)
	s.ids = append(s.ids, c.ID)
	if s.Intn(20) == 0 { // a retry, of one that is remembered or not any more
		c.ID = s.ids[len(s.ids)-1-s.Intn(min(len(s.ids), 64))]
	}
	count := 1
	if s.Intn(3) == 0 {
		count = s.Intn(12)
	}
	if s.Intn(100) == 0 {
		count = 70
	}
	for _, k := range s.Perm(len(s.keys))[:min(count, len(s.keys))] {
		op := kv.Op{Key: s.keys[k]}
		switch s.Intn(10) {
		case 0, 1, 2:
			op.Delete = true
		case 3:
			op.Check = true
		case 4, 5:
			op.Add = 1 + s.Int63n(9)
			if s.Intn(3) == 0 {
				op.Add = -op.Add
			}
		default:
			op.Value = make([]byte, s.Intn(40))
			s.Read(op.Value)
		}
		o, exists := m.objects[op.Key]
		if s.rewrites && exists && op.Value != nil && s.Intn(4) == 0 {
			op.Rewrite, op.Cond, op.Revision = true, kv.AtRevision, o.mod
			c.Ops = append(c.Ops, op)
			continue
		}
		if op.Add != 0 && s.Intn(2) == 0 {
			op.Cond, op.Most = kv.AtMost, s.Int63n(20)-2
			c.Ops = append(c.Ops, op)
			continue
		}
		switch s.Intn(5) {
		case 0:
			op.Cond, op.Revision = kv.AtRevision, o.mod
		case 1:
			if op.Cond = kv.Exists; !exists && s.Intn(10) != 0 {
				op.Cond = kv.Absent
			}
		}
		c.Ops = append(c.Ops, op)
	}
	return c
}

func mustEncode(t testing.TB, c *kv.Command) []byte {
	t.Helper()
	b, err := EncodeCommand(c)
	if err != nil {
		t.Fatalf("encode %v: %v", c, err)
	}
	return b
}

func contents(v kv.View, start, end string) (keys []string, objects map[string]modelObject) {
	objects = map[string]modelObject{}
	v.Range(start, end, func(v *kv.Version) bool {
		keys = append(keys, v.Key)
		objects[v.Key] = modelObject{string(v.Value), v.CreateRevision, v.ModRevision}
		return true
	})
	return keys, objects
}

func checkView(t *testing.T, v kv.View, revision uint64, want map[string]modelObject) {
	t.Helper()
	if v.Revision() != revision {
		t.Fatalf("view at revision %d, want %d", v.Revision(), revision)
	}
	keys, got := contents(v, "", "")
	if !slices.IsSorted(keys) || len(keys) != len(got) {
		t.Fatalf("keys are not in order or not unique: %q", keys)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("view at %d holds\n%v, want\n%v", revision, got, want)
	}
}

func modelEventOf(e *kv.Event) modelEvent {
	m := modelEvent{typ: e.Type, key: e.Current.Key, revision: e.Revision}
	m.now = modelObject{string(e.Current.Value), e.Current.CreateRevision, e.Current.ModRevision}
	if p := e.Previous; p != nil {
		m.before = modelObject{string(p.Value), p.CreateRevision, p.ModRevision}
	}
	return m
}

// drain reads a watcher until it has caught up with the store.
func drain(t testing.TB, w kv.Watcher) (events []modelEvent, progress uint64) {
	t.Helper()
	for {
		got, p, err := w.Next(ended)
		for _, e := range got {
			events = append(events, modelEventOf(e))
		}
		progress = p
		if err != nil {
			if err != ended.Err() {
				t.Fatalf("next: %v", err)
			}
			return events, progress
		}
	}
}

// TestModel applies random commands, singly and in batches, to the store and to the model, and compares results, views (also old
// ones, later), ranges, counts, and the events of watchers of several prefixes.
func TestModel(t *testing.T) {
	for seed := range int64(6) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { testModel(t, seed) })
	}
}

func testModel(t *testing.T, seed int64) {
	const remembered = 40
	m, src := newModel(remembered), newSource(seed, []int{3, 40, 300, 3000, 300, 40}[seed])
	src.rewrites = true
	refused := 0
	s := New(Options{Remembered: remembered})
	prefixes := []string{"", "/", "/g0", "/g0/r0/", "/g1/r1/ns1/", "/g0/r0/ns0/name-1", "/g0/r2/ns2/name-2", "/none/of/these/"}
	var watchers []kv.Watcher
	for _, p := range prefixes {
		w, err := s.Watch(p, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		watchers = append(watchers, w)
	}
	told := make([][]modelEvent, len(prefixes))
	type old struct {
		view kv.View
		rev  uint64
		want map[string]modelObject
	}
	var olds []old
	index := uint64(0)
	for step := range 400 {
		var entries []Entry
		var want []Outcome
		for range 1 + src.Intn(8) {
			c := src.command(m)
			if src.Intn(2) == 0 {
				c.Since = uint64(max(1, int(index)-src.Intn(200)))
			}
			index += 1 + uint64(src.Intn(3))
			entries = append(entries, Entry{index, mustEncode(t, c)})
			result, err := m.apply(index, c)
			if err != nil {
				refused++
			}
			want = append(want, Outcome{result, err})
		}
		if src.Intn(2) == 0 {
			for i, o := range s.ApplyBatch(entries) {
				if !errors.Is(o.Err, want[i].Err) || !reflect.DeepEqual(o.Result, want[i].Result) {
					t.Fatalf("step %d: batch entry %d: %+v, %v; want %+v", step, i, o.Result, o.Err, want[i])
				}
			}
		} else {
			for i, e := range entries {
				if r, err := s.Apply(e.Index, e.Data); !errors.Is(err, want[i].Err) || !reflect.DeepEqual(r, want[i].Result) {
					t.Fatalf("step %d: entry %d: %+v, %v; want %+v", step, i, r, err, want[i])
				}
			}
		}
		if s.AppliedIndex() != index {
			t.Fatalf("applied index %d, want %d", s.AppliedIndex(), index)
		}
		checkView(t, s.View(), m.revision, m.objects)
		checkRanges(t, src, s.View(), m)
		if step%16 == 0 {
			olds = append(olds, old{s.View(), m.revision, m.state()})
		}
		if src.Intn(4) == 0 {
			for i, w := range watchers {
				events, progress := drain(t, w)
				told[i] = append(told[i], events...)
				if progress != m.revision {
					t.Fatalf("watcher of %q has progress %d at revision %d", prefixes[i], progress, m.revision)
				}
			}
		}
	}
	for _, o := range olds {
		checkView(t, o.view, o.rev, o.want)
	}
	for i, w := range watchers {
		events, _ := drain(t, w)
		told[i] = append(told[i], events...)
		checkEvents(t, m, prefixes[i], told[i])
	}
	checkTree(t, s.current.Load().root)
	if refused == 0 {
		t.Error("no command was refused because its results may be forgotten")
	}
	if m.rewritten == 0 {
		t.Error("nothing was rewritten")
	}
	if m.exceeded == 0 {
		t.Error("no command was refused because of a counter's limit")
	}
}

func checkRanges(t *testing.T, src *source, v kv.View, m *model) {
	t.Helper()
	all := slices.Sorted(maps.Keys(m.objects))
	for range 4 {
		start, end := src.keys[src.Intn(len(src.keys))], src.keys[src.Intn(len(src.keys))]
		switch src.Intn(4) {
		case 0:
			end = kv.PrefixEnd(start)
		case 1:
			end = ""
		case 2:
			start = ""
		}
		var want []string
		for _, k := range all {
			if k >= start && (end == "" || k < end) {
				want = append(want, k)
			}
		}
		if got, _ := contents(v, start, end); !slices.Equal(got, want) {
			t.Fatalf("range [%q, %q): %q, want %q", start, end, got, want)
		}
		if got := v.Count(start, end); got != len(want) {
			t.Fatalf("count [%q, %q): %d, want %d", start, end, got, len(want))
		}
		n := 0
		v.Range(start, end, func(*kv.Version) bool { n++; return n < 3 })
		if n != min(3, len(want)) {
			t.Fatalf("range [%q, %q) went on after it was told to stop: %d visits", start, end, n)
		}
		got, ok := v.Get(start)
		if o, want := m.objects[start]; ok != want || ok && (got.ModRevision != o.mod || !bytes.Equal(got.Value, []byte(o.value))) {
			t.Fatalf("get %q: %v, want %v", start, got, o)
		}
	}
}

func checkEvents(t *testing.T, m *model, prefix string, told []modelEvent) {
	t.Helper()
	var got, want []modelEvent
	for _, e := range told {
		got = append(got, m.normal(e))
	}
	for _, e := range m.events {
		if len(e.key) >= len(prefix) && e.key[:len(prefix)] == prefix {
			e.end = 0
			want = append(want, m.normal(e))
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("watcher of %q was told %d events, want %d: %v\n%v", prefix, len(got), len(want), got, want)
	}
}

// mustApply applies a command that is not dated.
func (m *model) mustApply(t testing.TB, c *kv.Command) {
	t.Helper()
	if _, err := m.apply(0, c); err != nil {
		t.Fatal(err)
	}
}
