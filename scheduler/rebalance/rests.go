package rebalance

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// The new pods of an owner whose pod was moved stay for firstRest, twice as long each time one of them is moved again, at most longestRest.
// An owner is forgotten after a time without moves, quiet, that follows the rest. Of more owners than mostRests some are forgotten earlier.
const (
	firstRest   = 10 * time.Minute
	longestRest = 24 * time.Hour
	quiet       = 24 * time.Hour
	mostRests   = 4096
)

// rests has the owners of which pods were moved. Only the leader's memory has it: another leader starts anew.
type rests map[types.UID]*rest

type rest struct {
	since time.Time // pods that were created since then are new
	until time.Time // when new pods may be moved again
	last  time.Duration
}

// isNew says whether a pod was created after the first move. Creation times are of whole seconds.
func (r *rest) isNew(created time.Time) bool { return !created.Before(r.since.Truncate(time.Second)) }

// stays says whether a pod of an owner must not be moved now.
func (s rests) stays(owner types.UID, created, now time.Time) bool {
	r := s[owner]
	return r != nil && now.Before(r.until) && r.isNew(created)
}

// moved notes that a pod of an owner was moved.
func (s rests) moved(owner types.UID, created, now time.Time) {
	r := s[owner]
	if r == nil {
		if len(s) >= mostRests {
			s.drop()
		}
		r = &rest{since: now, last: firstRest}
		s[owner] = r
	} else if r.isNew(created) {
		r.last = min(2*r.last, longestRest)
	}
	r.until = now.Add(r.last)
}

// drop forgets the owner whose rest ends first.
func (s rests) drop() {
	var first types.UID
	for owner, r := range s {
		if s[first] == nil || r.until.Before(s[first].until) {
			first = owner
		}
	}
	delete(s, first)
}

// forget forgets owners that were quiet for long, and those that are gone: they have no pods, and their rest is over, so that they are not
// just about to replace a pod.
func (s rests) forget(present map[types.UID]bool, now time.Time) {
	for owner, r := range s {
		if now.Before(r.until) {
			continue
		}
		if !present[owner] || !now.Before(r.until.Add(quiet)) {
			delete(s, owner)
		}
	}
}
