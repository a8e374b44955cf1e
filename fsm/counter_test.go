package fsm

import (
	"context"
	"math"
	"sync"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// TestCounters: an addition is a put of the sum to readers and watchers; a limit stops increases only, names the counter's value, and
// stops the whole command.
func TestCounters(t *testing.T) {
	l := NewLocal(Options{})
	w, err := l.Watch("/quota/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	propose := func(ops ...kv.Op) kv.Result {
		t.Helper()
		r, err := l.Propose(context.Background(), &kv.Command{ID: random.CommandID(), Ops: ops})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const key = "/quota/n/q/pods"
	add := func(n int64) kv.Op { return kv.Op{Key: key, Add: n} }
	limited := func(n, most int64) kv.Op { return kv.Op{Key: key, Add: n, Cond: kv.AtMost, Most: most} }
	value := func() string {
		v, _ := l.View().Get(key)
		return string(v.Value)
	}
	for _, c := range []struct {
		op   kv.Op
		want string
		fail int64 // the counter in the failure, 0 for none
	}{
		{add(-2), "-2", 0}, {limited(5, 3), "3", 0}, {limited(1, 3), "3", 3}, {limited(-1, 0), "2", 0}, {limited(1, 3), "3", 0},
		{add(math.MaxInt64), "9223372036854775807", 0}, {add(1), "9223372036854775807", 0}, {limited(1, math.MaxInt64), "9223372036854775807", 0},
		{kv.Op{Key: key, Value: []byte("not a number")}, "not a number", 0}, {limited(4, 4), "4", 0},
		{add(-4), "0", 0}, {limited(1, 0), "0", -1},
	} {
		r := propose(kv.Op{Key: "/core/pods/n/p", Value: []byte("x")}, c.op)
		if failed := r.Failed != nil; failed != (c.fail != 0) || value() != c.want {
			t.Fatalf("%+v: %+v, the counter is %s, want %s", c.op, r, value(), c.want)
		}
		if f := r.Failed; f != nil && (f.Index != 1 || f.Cond != kv.AtMost || f.Count != max(c.fail, 0) || r.Revisions != nil) {
			t.Fatalf("%+v: %+v", c.op, f)
		}
	}
	events, _ := drain(t, w)
	if len(events) != 10 || events[0].before.value != "" || events[1].before.value != "-2" || events[1].now.value != "3" || events[1].now.create != events[0].revision {
		t.Errorf("events: %+v", events)
	}
}

// TestCountersCommute: of concurrent increases as many succeed as the limit allows.
func TestCountersCommute(t *testing.T) {
	l := NewLocal(Options{})
	var group sync.WaitGroup
	results := make([]kv.Result, 100)
	for i := range results {
		group.Add(1)
		go func() {
			defer group.Done()
			var err error
			if results[i], err = l.Propose(context.Background(), &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: "/n", Add: 3, Cond: kv.AtMost, Most: 100}}}); err != nil {
				t.Error(err)
			}
		}()
	}
	group.Wait()
	stored := 0
	for _, r := range results {
		if r.Failed == nil {
			stored++
		}
	}
	if v, _ := l.View().Get("/n"); stored != 33 || string(v.Value) != "99" {
		t.Errorf("%d of 100 increases by 3 fitted into 100; the counter is %s", stored, v.Value)
	}
}
