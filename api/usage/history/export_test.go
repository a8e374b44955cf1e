package history

import (
	"context"
	"fmt"
	"time"
)

// What the tests of package history_test need beside the package's own.

// Sample is one sample, as Run takes it.
func (k *Keeper) Sample(ctx context.Context, now time.Time) { k.sample(ctx, now) }

// FillFromOthers is what Run does first.
func (k *Keeper) FillFromOthers(ctx context.Context) bool { return k.fillFromOthers(ctx) }

// Forget forgets what has no new point for a day.
func (k *Keeper) Forget(minute int64) { k.forget(minute, 0) }

// Series is how many series are kept.
func (k *Keeper) Series() int { return len(k.all) }

// AddContainer adds a series of a container of a pod, with one point.
func (k *Keeper) AddContainer(pod string, minute int64) {
	s := newSeries()
	s.add(minute, Amount{1, 1})
	k.all[subject{of: containers, namespace: "default", namespaceUID: "5f6c8ad2-52c1-4d21-9d6c-3f9d0f1c2b11", name: pod, uid: fmt.Sprintf("uid-of-%-30s", pod), container: "web"}] = s
}

// LastPoints counts the series of containers whose newest point is of a minute.
func (k *Keeper) LastPoints(minute int64) (n int) {
	for s, have := range k.all {
		if s.of == containers && have.last == minute {
			n++
		}
	}
	return n
}

// Touch makes a minute that of all newest points.
func (k *Keeper) Touch(minute int64) {
	for _, s := range k.all {
		s.last = minute
	}
}

// ReplaceNamespace makes the series of a namespace those of one with another UID.
func (k *Keeper) ReplaceNamespace(name, uid string) {
	for of, s := range k.all {
		if of.namespace == name && of.namespaceUID != uid {
			delete(k.all, of)
			of.namespaceUID = uid
			k.all[of] = s
		}
	}
}
