package views

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
)

// pastWait limits how long the history is read for a past view; as it is local memory, this is never reached.
const pastWait = 10 * time.Second

// past is a view of an earlier revision: the present view with the later changes undone. It contains only the keys under one
// prefix.
type past struct {
	kv.View
	revision uint64
	prefix   string
	keys     []string               // the changed keys, sorted
	before   map[string]*kv.Version // their versions at the revision; nil if absent
}

// At returns the state under a prefix at a revision that the history still reaches back to. Every master can do so, whichever one
// returned that revision first. Errors: kv.ErrCompacted, kv.ErrFutureRevision.
func At(ctx context.Context, store kv.Reader, prefix string, revision uint64) (kv.View, error) {
	watcher, err := store.Watch(prefix, revision)
	if err != nil {
		return nil, err
	}
	defer watcher.Close()
	view := store.View()
	p := &past{View: view, revision: revision, prefix: prefix, before: map[string]*kv.Version{}}
	ctx, cancel := context.WithTimeout(ctx, pastWait)
	defer cancel()
	for watcher.Progress() < view.Revision() {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return nil, fmt.Errorf("state at revision %d: %w", revision, err)
		}
		for _, event := range events {
			if _, known := p.before[event.Current.Key]; known || event.Revision > view.Revision() {
				continue
			}
			p.before[event.Current.Key] = event.Previous
			p.keys = append(p.keys, event.Current.Key)
		}
	}
	if len(p.keys) == 0 && view.Revision() == revision {
		return view, nil
	}
	slices.Sort(p.keys)
	return p, nil
}

// Revision implements kv.View.
func (p *past) Revision() uint64 { return p.revision }

// Get implements kv.View.
func (p *past) Get(key string) (*kv.Version, bool) {
	if v, changed := p.before[key]; changed {
		return v, v != nil
	}
	return p.View.Get(key)
}

// Range implements kv.View.
func (p *past) Range(start, end string, visit func(*kv.Version) bool) {
	if !strings.HasPrefix(start, p.prefix) {
		return
	}
	rest := p.keys[sort.SearchStrings(p.keys, start):]
	// earlier visits the keys before a key that have changed since.
	earlier := func(key string, bounded bool) bool {
		for len(rest) > 0 && (!bounded || rest[0] < key) && (end == "" || rest[0] < end) {
			v := p.before[rest[0]]
			rest = rest[1:]
			if v != nil && !visit(v) {
				return false
			}
		}
		return true
	}
	stopped := false
	p.View.Range(start, end, func(v *kv.Version) bool {
		if !earlier(v.Key, true) {
			stopped = true
			return false
		}
		if len(rest) > 0 && rest[0] == v.Key {
			old := p.before[v.Key]
			rest = rest[1:]
			v = old
		}
		if v != nil && !visit(v) {
			stopped = true
		}
		return !stopped
	})
	if !stopped {
		earlier("", false)
	}
}

// Count implements kv.View.
func (p *past) Count(start, end string) int {
	n := p.View.Count(start, end)
	for _, key := range p.keys[sort.SearchStrings(p.keys, start):] {
		if end != "" && key >= end {
			break
		}
		_, now := p.View.Get(key)
		then := p.before[key] != nil
		switch {
		case then && !now:
			n++
		case now && !then:
			n--
		}
	}
	return n
}
