package watchcheck

import (
	"errors"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
)

func put(revision uint64, key, value string, before Version) Event {
	create := revision
	if before != (Version{}) {
		create = before.Create
	}
	return Event{Revision: revision, Key: key, Now: Version{value, create, revision}, Before: before}
}

func wrote(revision uint64, key, value string) Write { return Write{key, value, false, revision} }

// told is a watcher that is told something, and maybe what was wrong about it at once.
type told func(r *Record) error

func call(progress uint64, events ...Event) told {
	return func(r *Record) error { return r.Take(events, progress, false, 0) }
}

func granted(r *Record) error { r.Granted(); return nil }

var (
	a1 = put(1, "/t/a", "1", Version{})
	b2 = put(2, "/t/b", "2", Version{})
	c3 = put(3, "/t/c", "2", Version{}) // of one command with b2
	a4 = put(4, "/t/a", "4", a1.Now)
	d5 = Event{Revision: 5, Key: "/t/b", Deleted: true, Now: Version{"2", 2, 5}, Before: b2.Now}

	commands = []Command{
		{Writes: []Write{wrote(1, "/t/a", "1")}}, {Writes: []Write{wrote(2, "/t/b", "2"), wrote(3, "/t/c", "2")}},
		{Writes: []Write{wrote(4, "/t/a", "4")}}, {Writes: []Write{{Key: "/t/b", Deleted: true, Revision: 5}}},
	}
	end = State{"/t/a": a4.Now, "/t/c": c3.Now}
)

// TestEachBrokenPromiseIsNamed gives watchers wrong events, and some correct ones.
func TestEachBrokenPromiseIsNamed(t *testing.T) {
	wrong := put(4, "/t/a", "5", a1.Now)
	created := put(4, "/t/a", "4", Version{})
	list := func(revision uint64, s State) told {
		return func(r *Record) error { r.List(revision, s); return nil }
	}
	unknown := []Command{{Writes: []Write{{Key: "/t/b", Value: "2"}, {Key: "/t/c", Value: "2"}}, Unknown: true}}
	for name, x := range map[string]struct {
		says     []told
		commands []Command // nil: commands
		want     error
	}{
		"all in one call":                           {says: []told{call(5, a1, b2, c3, a4, d5)}},
		"all, between commands":                     {says: []told{call(1, a1), call(3, b2, c3), call(4, a4), call(5, d5)}},
		"all, over three watches":                   {says: []told{granted, call(1, a1), granted, call(3, b2, c3), granted, call(5, a4, d5)}},
		"a list and what came after":                {says: []told{list(3, State{"/t/a": a1.Now, "/t/b": b2.Now, "/t/c": c3.Now}), granted, call(5, a4, d5)}},
		"a command nobody was told of":              {says: []told{call(3, b2, c3)}, commands: unknown},
		"a command nobody was told of, not done":    {says: []told{call(3)}, commands: unknown},
		"an event before another":                   {says: []told{call(3, a1, c3, b2)}, want: ErrBrokeOrdered},
		"an event before that of the last call":     {says: []told{call(4, a1, a4), call(4, b2)}, want: ErrBrokeOrdered},
		"an event twice in a call":                  {says: []told{call(3, a1, a1)}, want: ErrBrokeUnique},
		"an event again in the next call":           {says: []told{call(3, a1, b2, c3), call(3, c3)}, want: ErrBrokeUnique},
		"a command in two calls":                    {says: []told{call(2, a1, b2), call(5, c3, a4, d5)}, want: ErrBrokeAtomic},
		"a progress within a command":               {says: []told{call(2, a1, b2)}, want: ErrBrokeAtomic},
		"a list within a command":                   {says: []told{list(2, State{"/t/a": a1.Now, "/t/b": b2.Now}), granted, call(5, c3, a4, d5)}, want: ErrBrokeAtomic},
		"an unknown command in two calls":           {says: []told{call(2, b2), call(3, c3)}, commands: unknown, want: ErrBrokeAtomic},
		"half of an unknown command":                {says: []told{call(2, b2), call(3)}, commands: unknown, want: ErrBrokeAtomic},
		"an event is missing":                       {says: []told{call(5, a1, b2, c3, d5)}, want: ErrBrokeReliable},
		"the last event is missing":                 {says: []told{call(3, a1, b2, c3), call(5, a4)}, want: ErrBrokeReliable},
		"another value than was written":            {says: []told{call(5, a1, b2, c3, wrong, d5)}, want: ErrBrokeReliable},
		"another past than was told":                {says: []told{call(5, a1, b2, c3, created, d5)}, want: ErrBrokeReliable},
		"what nobody wrote":                         {says: []told{call(1, put(1, "/t/z", "z", Version{}))}, want: ErrBrokeReliable},
		"a key that was not asked for":              {says: []told{call(1, put(1, "/u/a", "1", Version{}))}, want: ErrBrokeReliable},
		"a list without what was acknowledged":      {says: []told{list(3, State{"/t/a": a1.Now, "/t/c": c3.Now})}, want: ErrBrokeReliable},
		"a list of the past":                        {says: []told{list(5, State{"/t/a": a1.Now, "/t/c": c3.Now})}, want: ErrBrokeReliable},
		"a list with what was deleted":              {says: []told{list(5, State{"/t/a": a4.Now, "/t/b": b2.Now, "/t/c": c3.Now})}, want: ErrBrokeReliable},
		"a watch goes on one event late":            {says: []told{granted, call(1, a1), granted, call(4, a4)}, want: ErrBrokeResumable},
		"a watch goes on one event early":           {says: []told{granted, call(1, a1), granted, call(3, a1, b2, c3)}, want: ErrBrokeResumable},
		"a watch is refused what the store has":     {says: []told{call(3, a1, b2, c3), func(r *Record) error { return r.Refused(kv.ErrCompacted, 3, 5) }}, want: ErrBrokeResumable},
		"a watch is refused what the store has not": {says: []told{call(3, a1, b2, c3), func(r *Record) error { return r.Refused(kv.ErrCompacted, 4, 5) }}},
		"a progress goes back":                      {says: []told{call(3, a1, b2, c3), call(2)}, want: ErrBrokeBookmarkable},
		"a progress before an event":                {says: []told{call(2, a1, b2, c3)}, want: ErrBrokeBookmarkable},
		"an event after its progress":               {says: []told{call(4, a1, b2, c3), call(4, a4)}, want: ErrBrokeBookmarkable},
		"an old progress after a wait":              {says: []told{func(r *Record) error { return r.Take(nil, 3, true, 4) }}, want: ErrBrokeBookmarkable},
	} {
		r := &Record{Prefix: "/t/"}
		var err error
		for _, say := range x.says {
			if err = say(r); err != nil {
				break
			}
		}
		if err == nil {
			if x.commands == nil {
				x.commands = commands
			}
			err = Settle(x.commands, r)
		}
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTwoWatchersMustAgree: events that no other reader has seen must be the same for all watchers.
func TestTwoWatchersMustAgree(t *testing.T) {
	unknown := []Command{
		{Writes: []Write{{Key: "/t/a", Value: "1"}}, Unknown: true}, {Writes: []Write{{Key: "/t/b", Value: "2"}}, Unknown: true},
	}
	for name, x := range map[string]struct {
		one, other []Event
		want       error
	}{
		"the same":             {[]Event{a1, b2}, []Event{a1, b2}, nil},
		"one misses one":       {[]Event{a1, b2}, []Event{a1}, ErrBrokeReliable},
		"one has another once": {[]Event{a1}, []Event{put(1, "/t/b", "2", Version{})}, ErrBrokeReliable},
		"one has it elsewhere": {[]Event{a1}, []Event{put(2, "/t/a", "1", Version{})}, ErrBrokeReliable},
	} {
		var one, other Record
		if err := errors.Join(one.Take(x.one, 2, false, 0), other.Take(x.other, 2, false, 0)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := Settle(unknown, &one, &other); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMatch compares with a store's state: every difference is found.
func TestMatch(t *testing.T) {
	r := Record{Prefix: "/t/"}
	if err := r.Take([]Event{a1, b2, c3, a4, d5}, 5, false, 0); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		state State
		want  error
	}{
		"the same":          {end, nil},
		"another value":     {State{"/t/a": a1.Now, "/t/c": c3.Now}, ErrBrokeReliable},
		"a key more":        {State{"/t/a": a4.Now, "/t/c": c3.Now, "/t/x": a1.Now}, ErrBrokeReliable},
		"a key less":        {State{"/t/a": a4.Now}, ErrBrokeReliable},
		"a revision is off": {State{"/t/a": a4.Now, "/t/c": {"2", 3, 4}}, ErrBrokeReliable},
	} {
		if err := r.Match(x.state); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
