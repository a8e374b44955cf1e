// Package watchcheck compares what watchers received with the promises of kv.Watcher, and with the responses that writers received.
// It returns an error that names the broken promise.
package watchcheck

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/kontiki/kontiki/internal/kv"
)

// The promises of a watch; see kv.Watcher.
var (
	// ErrBrokeOrdered: events come in the order of their revisions.
	ErrBrokeOrdered = errors.New("ErrBrokeOrdered")
	// ErrBrokeUnique: no event comes twice.
	ErrBrokeUnique = errors.New("ErrBrokeUnique")
	// ErrBrokeAtomic: the events of one command come in one call, and no progress or list lies between them.
	ErrBrokeAtomic = errors.New("ErrBrokeAtomic")
	// ErrBrokeReliable: no event is missing, none is wrong, and none is of what nobody wrote.
	ErrBrokeReliable = errors.New("ErrBrokeReliable")
	// ErrBrokeResumable: a watch from a revision is granted while the history holds what came after it, and gives exactly that.
	ErrBrokeResumable = errors.New("ErrBrokeResumable")
	// ErrBrokeBookmarkable: all events up to the progress have been returned, the progress never decreases, and it is as new as the
	// store when a call ends because of its context.
	ErrBrokeBookmarkable = errors.New("ErrBrokeBookmarkable")
)

// Version is a key's value, and the revisions at which the key was created and last written; zero if it is absent.
type Version struct {
	Value            string
	Create, Revision uint64
}

// Event is a kv.Event as a value that can be stored, compared and sent.
type Event struct {
	Revision    uint64
	Key         string
	Deleted     bool
	Now, Before Version
}

// State has the keys of a prefix at one revision.
type State map[string]Version

func versionOf(v *kv.Version) Version {
	if v == nil {
		return Version{}
	}
	return Version{string(v.Value), v.CreateRevision, v.ModRevision}
}

// EventsOf copies events.
func EventsOf(events []*kv.Event) (copies []Event) {
	for _, e := range events {
		copies = append(copies, Event{e.Revision, e.Current.Key, e.Type == kv.Deleted, versionOf(e.Current), versionOf(e.Previous)})
	}
	return copies
}

// StateOf copies the keys of a prefix in a view.
func StateOf(view kv.View, prefix string) State {
	state := State{}
	view.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool { state[v.Key] = versionOf(v); return true })
	return state
}

// Record checks and records what one watcher received, over any number of watches that resume each other, and lists where it could
// not resume. The zero value, with a Prefix, is a watcher of a store from its first revision. It is for use by one goroutine.
type Record struct {
	Prefix string
	spans  []*span
}

// span is what was received after one list.
type span struct {
	from     uint64 // the revision of the list
	listed   State
	state    State // after the last event
	events   []Event
	resumed  []uint64 // progress at which watches resumed
	asked    uint64   // progress at which the present watch began
	progress []uint64 // results of calls, in order
}

func (s *span) at() uint64 {
	if n := len(s.progress); n > 0 {
		return s.progress[n-1]
	}
	return s.from
}

func (s *span) has(revision uint64) bool {
	for i := len(s.events) - 1; i >= 0 && s.events[i].Revision >= revision; i-- {
		if s.events[i].Revision == revision {
			return true
		}
	}
	return false
}

func (r *Record) last() *span {
	if len(r.spans) == 0 {
		r.spans = append(r.spans, &span{listed: State{}, state: State{}})
	}
	return r.spans[len(r.spans)-1]
}

// Progress returns the revision to resume from.
func (r *Record) Progress() uint64 { return r.last().at() }

// Events counts the events.
func (r *Record) Events() (n int) {
	for _, s := range r.spans {
		n += len(s.events)
	}
	return n
}

// Resumed counts the watches that resumed another, Listed the lists.
func (r *Record) Resumed() (n int) {
	for _, s := range r.spans {
		n += len(s.resumed)
	}
	return n
}

func (r *Record) Listed() int { return max(0, len(r.spans)-1) }

// List starts again with a list, because the history does not reach back to Progress.
func (r *Record) List(revision uint64, state State) {
	r.spans = append(r.spans, &span{from: revision, asked: revision, listed: state, state: maps.Clone(state)})
}

// Granted records that a watch from Progress was granted.
func (r *Record) Granted() {
	s := r.last()
	if len(s.progress) > 0 {
		s.resumed = append(s.resumed, s.at())
	}
	s.asked = s.at()
}

// Refused returns an error if a watch from Progress must not have been refused: err is the refusal, floor the revision at which the
// store's history begins, revision the store's when it was asked.
func (r *Record) Refused(err error, floor, revision uint64) error {
	at := r.Progress()
	if floor <= at && at <= revision {
		return fmt.Errorf("%w: a watch from %d was refused by a store at %d whose history begins at %d: %w", ErrBrokeResumable, at, revision, floor, err)
	}
	return nil
}

// Take checks the result of one call of Next. ended means that the call's context ended it, and atLeast is the store's revision
// before the call.
func (r *Record) Take(events []Event, progress uint64, ended bool, atLeast uint64) error {
	s := r.last()
	before := s.at()
	for _, e := range events {
		newest := before
		if n := len(s.events); n > 0 {
			newest = s.events[n-1].Revision
		}
		switch {
		case before == s.asked && e.Revision <= s.asked:
			return fmt.Errorf("%w: a watch from %d gave the event %d", ErrBrokeResumable, s.asked, e.Revision)
		case s.has(e.Revision):
			return fmt.Errorf("%w: event %d", ErrBrokeUnique, e.Revision)
		case e.Revision < newest:
			return fmt.Errorf("%w: event %d after %d", ErrBrokeOrdered, e.Revision, newest)
		case e.Revision <= before:
			return fmt.Errorf("%w: event %d after the progress %d", ErrBrokeBookmarkable, e.Revision, before)
		case !strings.HasPrefix(e.Key, r.Prefix):
			return fmt.Errorf("%w: event %d is of %s, asked was %s", ErrBrokeReliable, e.Revision, e.Key, r.Prefix)
		}
		s.events = append(s.events, e)
		if err := s.apply(e); err != nil {
			return err
		}
	}
	switch n := len(s.events); {
	case progress < before:
		return fmt.Errorf("%w: progress %d after %d", ErrBrokeBookmarkable, progress, before)
	case n > 0 && progress < s.events[n-1].Revision:
		return fmt.Errorf("%w: progress %d with event %d", ErrBrokeBookmarkable, progress, s.events[n-1].Revision)
	case ended && progress < atLeast:
		return fmt.Errorf("%w: progress %d where the store had been at %d before the call that its context ended", ErrBrokeBookmarkable, progress, atLeast)
	}
	s.progress = append(s.progress, progress)
	return nil
}

// apply checks that an event is consistent with itself and with the state before it.
func (s *span) apply(e Event) error {
	want := Version{e.Now.Value, e.Revision, e.Revision}
	if e.Before != (Version{}) {
		want.Create = e.Before.Create
	}
	if e.Deleted {
		want.Value = e.Before.Value
	}
	if e.Now != want || e.Deleted && e.Before == (Version{}) {
		return fmt.Errorf("%w: event %d of %s contradicts itself: %+v", ErrBrokeReliable, e.Revision, e.Key, e)
	}
	if have := s.state[e.Key]; have != e.Before {
		return fmt.Errorf("%w: %s was %+v for the watcher, event %d says that it was %+v", ErrBrokeReliable, e.Key, have, e.Revision, e.Before)
	}
	if e.Deleted {
		delete(s.state, e.Key)
	} else {
		s.state[e.Key] = e.Now
	}
	return nil
}

// Match compares the watcher's state at Progress with that of a store at the same revision.
func (r *Record) Match(state State) error {
	have := r.last().state
	for key, want := range state {
		if have[key] != want {
			return fmt.Errorf("%w: at %d %s is %+v, and %+v for the watcher", ErrBrokeReliable, r.Progress(), key, want, have[key])
		}
	}
	for key, v := range have {
		if _, ok := state[key]; !ok {
			return fmt.Errorf("%w: at %d there is no %s, but for the watcher, which has %+v", ErrBrokeReliable, r.Progress(), key, v)
		}
	}
	return nil
}
