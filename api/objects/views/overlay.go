package views

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kontiki/kontiki/internal/kv"
)

// Overlay is an object service's store that commits nothing: its view shows what was proposed to it on top of a view of the real store, and all
// proposals are collected into one command. Conditions are tested as the real store would test them. Only one goroutine may use it.
//
// Its revisions are those that the operations would get if there were no other writers; stored values do not contain them.
type Overlay struct {
	base     kv.View
	keys     map[string]*stagedKey
	order    []string // the keys, in the order in which they were first touched
	revision uint64
	// Operation is the index of the operation being prepared.
	Operation int
}

// stagedKey is the staged change of one key.
type stagedKey struct {
	// op is the command's operation on the key. Its condition is about the base view.
	op kv.Op
	// version is the key's present value, nil if it is absent; valid if changed is set.
	version *kv.Version
	changed bool
	// operation is the index of the first operation that touched the key.
	operation int
}

// NewOverlay returns an overlay over a view in which nothing is staged.
func NewOverlay(base kv.View) *Overlay {
	return &Overlay{base: base, keys: map[string]*stagedKey{}, revision: base.Revision()}
}

// Propose implements the object service's Store: it stages a command.
func (o *Overlay) Propose(_ context.Context, c *kv.Command) (kv.Result, error) {
	if c.Restore != nil {
		return kv.Result{}, errors.New("views: a transaction cannot restore a backup")
	}
	for i, op := range c.Ops {
		current := uint64(0)
		v, ok := o.Get(op.Key)
		if ok {
			current = v.ModRevision
		}
		holds := op.Cond == kv.Always || op.Cond == kv.Absent && !ok || op.Cond == kv.Exists && ok || op.Cond == kv.AtRevision && ok && current == op.Revision
		if op.Cond == kv.AtMost {
			count := kv.Counter(v)
			if op.Exceeds(count) {
				return kv.Result{Revision: o.revision, Failed: &kv.Failure{Index: i, Cond: op.Cond, Current: current, Count: count}}, nil
			}
			continue
		}
		if !holds {
			return kv.Result{Revision: o.revision, Failed: &kv.Failure{Index: i, Cond: op.Cond, Current: current}}, nil
		}
	}
	revisions := make([]uint64, len(c.Ops))
	for i := range c.Ops {
		revisions[i] = o.stage(c.Ops[i])
	}
	return kv.Result{Revision: o.revision, Revisions: revisions}, nil
}

// stage adds one operation, whose condition has been tested.
func (o *Overlay) stage(op kv.Op) (revision uint64) {
	k := o.keys[op.Key]
	if k == nil {
		k = &stagedKey{op: kv.Op{Key: op.Key, Check: true, Cond: kv.Always}, operation: o.Operation}
		o.keys[op.Key] = k
		o.order = append(o.order, op.Key)
	}
	if op.Add != 0 {
		return o.add(k, op)
	}
	if !k.changed && strength(op.Cond) > strength(k.op.Cond) {
		// Both conditions are about the base, and both hold there: keep the stronger one.
		k.op.Cond, k.op.Revision = op.Cond, op.Revision
	}
	if op.Check {
		return 0
	}
	before, existed := o.Get(op.Key)
	if op.Delete && !existed {
		return 0
	}
	o.revision++
	k.changed = true
	if k.op.Add != 0 { // a value replaces what was added to it before
		k.op.Add, k.op.Most = 0, 0
		if k.op.Cond == kv.AtMost {
			k.op.Cond = kv.Always
		}
	}
	if op.Delete {
		k.version = nil
		k.op.Delete, k.op.Check, k.op.Value = true, false, nil
		if _, inBase := o.base.Get(op.Key); !inBase { // put and deleted again: nothing remains to be done
			k.op.Delete, k.op.Check = false, true
		}
		return o.revision
	}
	created := o.revision
	if existed {
		created = before.CreateRevision
	}
	k.version = &kv.Version{Key: op.Key, Value: op.Value, CreateRevision: created, ModRevision: o.revision}
	k.op.Delete, k.op.Check, k.op.Value = false, false, op.Value
	return o.revision
}

// add stages an addition, whose condition has been tested. The command gets the sum of all additions to a counter, with a limit of the
// sum that each of their limits allows: an addition after a limited one moves that limit along. An addition to a value that the command puts becomes part of the value.
func (o *Overlay) add(k *stagedKey, op kv.Op) (revision uint64) {
	before, existed := o.Get(op.Key)
	o.revision++
	value := kv.CounterValue(kv.AddSaturated(kv.Counter(before), op.Add))
	created := o.revision
	if existed {
		created = before.CreateRevision
	}
	puts := k.changed && !k.op.Check && k.op.Add == 0
	k.changed = true
	k.version = &kv.Version{Key: op.Key, Value: value, CreateRevision: created, ModRevision: o.revision}
	if puts {
		k.op.Delete, k.op.Value = false, value
		return o.revision
	}
	if k.op.Cond == kv.AtMost {
		k.op.Most = kv.AddSaturated(k.op.Most, op.Add)
	}
	if op.Cond == kv.AtMost {
		switch k.op.Cond {
		case kv.AtMost:
			k.op.Most = min(k.op.Most, op.Most)
		case kv.Always:
			k.op.Cond, k.op.Most = kv.AtMost, op.Most
		case kv.Exists: // two conditions: require what both were tested on
			base, _ := o.base.Get(op.Key)
			k.op.Cond, k.op.Revision = kv.AtRevision, base.ModRevision
		}
	}
	k.op.Add = kv.AddSaturated(k.op.Add, op.Add)
	k.op.Check = k.op.Add == 0
	if k.op.Check && k.op.Cond == kv.AtMost { // nothing is added, so no limit can be exceeded
		k.op.Cond, k.op.Most = kv.Always, 0
	}
	return o.revision
}

func strength(c kv.Condition) int {
	return map[kv.Condition]int{kv.Always: 0, kv.Exists: 1, kv.Absent: 2, kv.AtRevision: 2}[c]
}

// Pin makes the command require that a key is as in the base view, whether the command changes it or not.
func (o *Overlay) Pin(key string) {
	op := kv.Op{Key: key, Check: true, Cond: kv.Absent}
	if v, ok := o.base.Get(key); ok {
		op.Cond, op.Revision = kv.AtRevision, v.ModRevision
	}
	if k := o.keys[key]; k != nil && k.changed {
		k.op.Cond, k.op.Revision = op.Cond, op.Revision
		return
	}
	o.stage(op)
}

// Changed says whether a staged operation changes a key.
func (o *Overlay) Changed(key string) bool {
	k := o.keys[key]
	return k != nil && k.changed
}

// Command returns all staged operations, and for each the index of the transaction's operation that it belongs to.
func (o *Overlay) Command() (ops []kv.Op, operations []int) {
	for _, key := range o.order {
		k := o.keys[key]
		if k.op.Check && k.op.Cond == kv.Always {
			continue
		}
		ops = append(ops, k.op)
		operations = append(operations, k.operation)
	}
	return ops, operations
}

// Base returns the view under the staged changes.
func (o *Overlay) Base() kv.View { return o.base }

// View implements kv.Reader. It returns the overlay itself, so later operations become visible in it.
func (o *Overlay) View() kv.View { return o }

// Consistent implements the object service's Store: a transaction reads a single state.
func (o *Overlay) Consistent(context.Context) (kv.View, error) { return o, nil }

// Watch implements kv.Reader; it is not used in transactions and returns an error.
func (o *Overlay) Watch(prefix string, _ uint64) (kv.Watcher, error) {
	return nil, fmt.Errorf("views: watch %q within a transaction", prefix)
}

// Revision implements kv.View.
func (o *Overlay) Revision() uint64 { return o.revision }

// Get implements kv.View.
func (o *Overlay) Get(key string) (*kv.Version, bool) {
	if k := o.keys[key]; k != nil && k.changed {
		return k.version, k.version != nil
	}
	return o.base.Get(key)
}

// Range implements kv.View.
func (o *Overlay) Range(start, end string, visit func(*kv.Version) bool) {
	var changed []string
	for key, k := range o.keys {
		if k.changed && key >= start && (end == "" || key < end) {
			changed = append(changed, key)
		}
	}
	slices.Sort(changed)
	put := func(key string) bool {
		v := o.keys[key].version
		return v == nil || visit(v)
	}
	at, stopped := 0, false
	o.base.Range(start, end, func(v *kv.Version) bool {
		for ; at < len(changed) && strings.Compare(changed[at], v.Key) < 0; at++ {
			if !put(changed[at]) {
				stopped = true
				return false
			}
		}
		ok := true
		if at < len(changed) && changed[at] == v.Key {
			ok = put(changed[at])
			at++
		} else {
			ok = visit(v)
		}
		stopped = !ok
		return ok
	})
	for ; at < len(changed) && !stopped; at++ {
		stopped = !put(changed[at])
	}
}

// Count implements kv.View.
func (o *Overlay) Count(start, end string) int {
	n := o.base.Count(start, end)
	for key, k := range o.keys {
		if !k.changed || key < start || end != "" && key >= end {
			continue
		}
		if _, was := o.base.Get(key); was {
			n--
		}
		if k.version != nil {
			n++
		}
	}
	return n
}
