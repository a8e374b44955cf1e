package history

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kontiki/kontiki/internal/kv"
)

// TestTheCheckerSeesWhatIsWrong: histories that must not pass.
func TestTheCheckerSeesWhatIsWrong(t *testing.T) {
	put := func(k int, value string, cond kv.Condition, revision uint64) Asked {
		return Asked{Ops: []kv.Op{{Key: key(k), Value: []byte(value), Cond: cond, Revision: revision}}}
	}
	one := func(value string, revision uint64) Told { return Told{Read: Bank{{value, revision}}} }
	type event struct {
		in        Asked
		out       Told
		call, ret int64
	}
	for name, x := range map[string]struct {
		events []event
		good   bool
	}{
		"a read of what was written":         {[]event{{put(0, "a", 0, 0), Told{Written: []uint64{7}}, 1, 2}, {Asked{}, one("a", 7), 3, 4}}, true},
		"a stale read":                       {[]event{{put(0, "a", 0, 0), Told{Written: []uint64{7}}, 1, 2}, {Asked{}, one("", 0), 3, 4}}, false},
		"a read beside the write":            {[]event{{put(0, "a", 0, 0), Told{Written: []uint64{7}}, 1, 5}, {Asked{}, one("", 0), 3, 4}}, true},
		"a lost write":                       {[]event{{put(0, "a", 0, 0), Told{Written: []uint64{7}}, 1, 2}, {put(0, "b", kv.Absent, 0), Told{Written: []uint64{8}}, 3, 4}}, false},
		"an unknown write that happens late": {[]event{{put(0, "a", 0, 0), Told{Unknown: true}, 1, math.MaxInt64}, {Asked{}, one("", 0), 2, 3}, {Asked{}, one("a", 9), 4, 5}}, true},
		"an unknown write that goes back":    {[]event{{put(0, "a", 0, 0), Told{Unknown: true}, 1, math.MaxInt64}, {Asked{}, one("a", 9), 2, 3}, {Asked{}, one("", 0), 4, 5}}, false},
		"both of two compare-and-swaps":      {[]event{{put(0, "a", 0, 0), Told{Written: []uint64{7}}, 1, 2}, {put(0, "b", kv.AtRevision, 7), Told{Written: []uint64{8}}, 3, 6}, {put(0, "c", kv.AtRevision, 7), Told{Written: []uint64{9}}, 4, 7}}, false},
		"half a transaction": {[]event{{Asked{Ops: []kv.Op{{Key: key(0), Value: []byte("a")}, {Key: key(1), Value: []byte("a")}}}, Told{Written: []uint64{7, 8}}, 1, 6},
			{Asked{}, Told{Read: Bank{{"a", 7}, {}}}, 2, 3}}, false},
	} {
		var ops []porcupine.Operation
		for i, e := range x.events {
			ops = append(ops, porcupine.Operation{ClientId: i, Input: e.in, Output: e.out, Call: e.call, Return: e.ret})
		}
		if got := porcupine.CheckOperations(model.ToModel(), ops); got != x.good {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestAHistoryThatIsTooHardDoesNotPass: many concurrent writes of unknown outcome, and a read that none of them explains.
func TestAHistoryThatIsTooHardDoesNotPass(t *testing.T) {
	var h History
	for i := range 40 {
		ops := []kv.Op{{Key: key(i % Keys), Value: []byte(fmt.Sprint(i))}}
		h.Add(i, h.Tick(), Asked{Client: i, Ops: ops}, Told{Unknown: true})
	}
	h.Add(99, h.Tick(), Asked{}, Told{Read: Bank{{"never", 1}}})
	if err := h.linearizableWithin(50 * time.Millisecond); !errors.Is(err, errGaveUp) {
		t.Errorf("the checker says: %v", err)
	}
}
