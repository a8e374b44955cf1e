package watchcheck

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
)

// Write is the effect, or possible effect, of a command on one key.
type Write struct {
	Key, Value string
	Deleted    bool
	Revision   uint64 // 0 if no client was told
}

// Command is a command that was carried out, or may have been. Refused commands are not included. Two commands of which one is
// Unknown must not put the same value to one key.
type Command struct {
	Writes []Write
	// Unknown means that no client knows whether it was carried out; its revisions are 0.
	Unknown bool
}

// Settle compares what watchers received with commands, which must be all commands under their prefixes, and with each other.
func Settle(commands []Command, records ...*Record) error {
	t := newTruth(commands)
	for _, r := range records {
		for _, s := range r.spans {
			for _, e := range s.events {
				if err := t.learn(e); err != nil {
					return err
				}
			}
		}
	}
	t.sort()
	for i, r := range records {
		for _, s := range r.spans {
			if err := t.holds(r.Prefix, s); err != nil {
				return fmt.Errorf("watcher %d of %q: %w", i, r.Prefix, err)
			}
		}
	}
	return nil
}

// truth is everything that is known to have happened.
type truth struct {
	commands []Command
	writes   map[uint64]Write   // by revision
	command  map[uint64]int     // from a revision to the command that wrote it
	puts     map[[2]string]int  // unknown commands, by key and value
	deletes  map[string]int     // number of unknown commands that may have deleted a key
	ends     map[int][2]uint64  // the first and the last revision of a command
	order    []uint64           // all revisions
	told     map[uint64]Event   // events that some watcher received
	byKey    map[string][]Write // acknowledged writes, in order
}

func newTruth(commands []Command) *truth {
	t := &truth{
		commands: commands, writes: map[uint64]Write{}, command: map[uint64]int{}, puts: map[[2]string]int{}, deletes: map[string]int{},
		ends: map[int][2]uint64{}, told: map[uint64]Event{}, byKey: map[string][]Write{},
	}
	for i, c := range commands {
		for _, w := range c.Writes {
			switch {
			case !c.Unknown && w.Revision > 0:
				t.wrote(w, i)
				t.byKey[w.Key] = append(t.byKey[w.Key], w)
			case c.Unknown && w.Deleted:
				t.deletes[w.Key]++
			case c.Unknown:
				t.puts[[2]string{w.Key, w.Value}] = i
			}
		}
	}
	for _, writes := range t.byKey {
		slices.SortFunc(writes, func(a, b Write) int { return cmp.Compare(a.Revision, b.Revision) })
	}
	return t
}

// wrote records that a command wrote at a revision; -1 means an unknown command.
func (t *truth) wrote(w Write, command int) {
	t.writes[w.Revision] = w
	if command < 0 {
		return
	}
	t.command[w.Revision] = command
	ends, ok := t.ends[command]
	if !ok {
		ends = [2]uint64{w.Revision, w.Revision}
	}
	t.ends[command] = [2]uint64{min(ends[0], w.Revision), max(ends[1], w.Revision)}
}

// learn records an event that a watcher received: it must be of an acknowledged write, or of one that may have happened.
func (t *truth) learn(e Event) error {
	if told, ok := t.told[e.Revision]; ok && told != e {
		return fmt.Errorf("%w: event %d is %+v for one watcher and %+v for another", ErrBrokeReliable, e.Revision, told, e)
	}
	if _, ok := t.told[e.Revision]; ok {
		return nil
	}
	t.told[e.Revision] = e
	got := Write{e.Key, e.Now.Value, e.Deleted, e.Revision}
	if e.Deleted {
		got.Value = ""
	}
	if want, ok := t.writes[e.Revision]; ok {
		if got != want {
			return fmt.Errorf("%w: event %d is %+v, acknowledged was %+v", ErrBrokeReliable, e.Revision, got, want)
		}
		return nil
	}
	nobody := fmt.Errorf("%w: nobody wrote event %d: %+v", ErrBrokeReliable, e.Revision, got)
	if e.Deleted {
		if t.deletes[e.Key]--; t.deletes[e.Key] < 0 {
			return nobody
		}
		t.wrote(got, -1)
		return nil
	}
	command, ok := t.puts[[2]string{e.Key, e.Now.Value}]
	if !ok {
		return nobody
	}
	delete(t.puts, [2]string{e.Key, e.Now.Value}) // it is carried out only once
	t.wrote(got, command)
	return nil
}

func (t *truth) sort() { t.order = slices.Sorted(maps.Keys(t.writes)) }

// holds checks the events after one list.
func (t *truth) holds(prefix string, s *span) error {
	if err := t.holdsList(prefix, s); err != nil {
		return err
	}
	// Everything that happened since was received.
	have := map[uint64]bool{}
	for _, e := range s.events {
		have[e.Revision] = true
	}
	touched := map[int]bool{}
	for i := sort.Search(len(t.order), func(i int) bool { return t.order[i] > s.from }); i < len(t.order) && t.order[i] <= s.at(); i++ {
		revision := t.order[i]
		if !strings.HasPrefix(t.writes[revision].Key, prefix) {
			continue
		}
		if !have[revision] {
			return fmt.Errorf("%w: event %d is missing: %+v", s.lacks(revision), revision, t.writes[revision])
		}
		if command, ok := t.command[revision]; ok {
			touched[command] = true
		}
	}
	// No command was split.
	steps := append([]uint64{s.from}, s.progress...)
	for command := range touched {
		ends := t.ends[command]
		if i := sort.Search(len(steps), func(i int) bool { return steps[i] >= ends[0] }); i < len(steps) && steps[i] < ends[1] {
			return fmt.Errorf("%w: revision %d lies within the command from %d to %d", ErrBrokeAtomic, steps[i], ends[0], ends[1])
		}
		if c := t.commands[command]; c.Unknown && c.under(prefix) {
			for _, w := range c.Writes {
				if _, missing := t.puts[[2]string{w.Key, w.Value}]; missing && !w.Deleted {
					return fmt.Errorf("%w: half of a command was seen at %d, nobody saw %+v", ErrBrokeAtomic, ends[0], w)
				}
			}
		}
	}
	return nil
}

// under says whether all keys of a command have a prefix.
func (c Command) under(prefix string) bool {
	return !slices.ContainsFunc(c.Writes, func(w Write) bool { return !strings.HasPrefix(w.Key, prefix) })
}

// lacks returns the promise that a missing event broke: Resumable if a watch began too late.
func (s *span) lacks(revision uint64) error {
	for i := len(s.resumed) - 1; i >= 0; i-- {
		if at := s.resumed[i]; at < revision {
			for _, e := range s.events {
				if e.Revision > at && e.Revision < revision {
					return ErrBrokeReliable
				}
			}
			return ErrBrokeResumable
		}
	}
	return ErrBrokeReliable
}

// holdsList checks a list: its content was written, and nothing newer had been acknowledged by then.
func (t *truth) holdsList(prefix string, s *span) error {
	for key, v := range s.listed {
		w, known := t.writes[v.Revision]
		_, may := t.puts[[2]string{key, v.Value}]
		if known && (w.Key != key || w.Value != v.Value || w.Deleted) || !known && !may || v.Revision > s.from {
			return fmt.Errorf("%w: a list at %d has %s as %+v, which nobody wrote", ErrBrokeReliable, s.from, key, v)
		}
	}
	for key, writes := range t.byKey {
		i := sort.Search(len(writes), func(i int) bool { return writes[i].Revision > s.from })
		if i == 0 || !strings.HasPrefix(key, prefix) {
			continue
		}
		w, have := writes[i-1], s.listed[key]
		lost := have.Revision < w.Revision
		if have == (Version{}) {
			lost = !w.Deleted && !t.mayBeDeleted(key)
		} else if w.Deleted && have.Revision == w.Revision {
			lost = true
		}
		if lost {
			return fmt.Errorf("%w: a list at %d has %s as %+v, but acknowledged was %+v", ErrBrokeReliable, s.from, key, have, w)
		}
	}
	return nil
}

// mayBeDeleted says whether an unknown command may have deleted a key.
func (t *truth) mayBeDeleted(key string) bool {
	for _, c := range t.commands {
		for _, w := range c.Writes {
			if c.Unknown && w.Deleted && w.Key == key {
				return true
			}
		}
	}
	return false
}
