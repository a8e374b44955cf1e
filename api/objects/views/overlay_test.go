package views

import (
	"context"
	"fmt"
	"math/rand"
	"reflect"
	"testing"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// TestOverlayEqualsTheStore: what commands do one after the other, the overlay's single command does at once, with additions to the
// same keys among puts, deletes and checks; and while others add to the counters meanwhile, both sums remain.
func TestOverlayEqualsTheStore(t *testing.T) {
	ctx := context.Background()
	for seed := range int64(300) {
		r := rand.New(rand.NewSource(seed))
		one, all := fsm.NewLocal(fsm.Options{}), fsm.NewLocal(fsm.Options{})
		propose := func(s interface {
			Propose(context.Context, *kv.Command) (kv.Result, error)
		}, ops ...kv.Op) kv.Result {
			t.Helper()
			result, err := s.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
			if err != nil {
				t.Fatal(err)
			}
			return result
		}
		for i := range 3 {
			if r.Intn(2) == 0 {
				for _, s := range []*fsm.Local{one, all} {
					propose(s, kv.Op{Key: fmt.Sprint("/c/", i), Add: 5})
				}
			}
		}
		staged := NewOverlay(all.View())
		onlyAdds := true
		for range 1 + r.Intn(8) {
			key := fmt.Sprint("/c/", r.Intn(4))
			op := kv.Op{Key: key}
			switch r.Intn(8) {
			case 0:
				op.Value, onlyAdds = kv.CounterValue(r.Int63n(9)), false
			case 1:
				op.Delete, onlyAdds = true, false
			case 2:
				op.Check, op.Cond = true, kv.Exists
			default:
				if op.Add = r.Int63n(9) - 4; op.Add == 0 {
					op.Add = 1
				}
				if r.Intn(2) == 0 {
					op.Cond, op.Most = kv.AtMost, 8
				}
			}
			want, got := propose(one, op), propose(staged, op)
			if (want.Failed == nil) != (got.Failed == nil) || want.Failed != nil && want.Failed.Count != got.Failed.Count {
				t.Fatalf("seed %d: %+v: the store says %+v, the overlay %+v", seed, op, want.Failed, got.Failed)
			}
			a, _ := one.View().Get(key)
			b, _ := staged.Get(key)
			if kv.Counter(a) != kv.Counter(b) {
				t.Fatalf("seed %d: %+v: the store has %v, the overlay %v", seed, op, a, b)
			}
		}
		ops, _ := staged.Command()
		pinned := false
		for _, op := range ops {
			pinned = pinned || op.Cond != kv.Always && op.Cond != kv.AtMost
		}
		if onlyAdds && !pinned {
			for _, s := range []*fsm.Local{one, all} {
				propose(s, kv.Op{Key: "/c/0", Add: -3}, kv.Op{Key: "/c/3", Add: -2})
			}
		}
		if len(ops) > 0 {
			if result := propose(all, ops...); result.Failed != nil {
				t.Fatalf("seed %d: %+v: %v", seed, ops, result.Failed)
			}
		}
		if got, want := counters(all.View()), counters(one.View()); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: the command %+v leaves %v, want %v", seed, ops, got, want)
		}
	}
}

func counters(v kv.View) map[string]int64 {
	out := map[string]int64{}
	v.Range("/c/", "/c0", func(v *kv.Version) bool {
		if n := kv.Counter(v); n != 0 {
			out[v.Key] = n
		}
		return true
	})
	return out
}
