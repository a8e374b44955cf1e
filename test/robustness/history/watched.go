package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"time"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/robustness/watchcheck"
)

// watchedPrefix is the prefix of all keys of histories.
const watchedPrefix = "/t/"

// Source is a master that can be watched.
type Source interface {
	// Watch watches from a revision, until the context ends or the master's history does not reach back far enough. It returns
	// ErrAway if the master cannot be reached.
	Watch(ctx context.Context, after uint64) (Watched, error)
}

var ErrAway = errors.New("the master is away")

// Watched is what one watch returned.
type Watched struct {
	Calls []NextCall
	// Refused says why there was no watch, by a store at AtLeast whose history began after Floor.
	Refused        string
	AtLeast, Floor uint64
	// State is the store's state at Revision, after the last call.
	State    watchcheck.State
	Revision uint64
}

// NextCall is one call of Next. Ended means that its context ended it; the store was at AtLeast when it began.
type NextCall struct {
	Events   []watchcheck.Event
	Progress uint64
	Ended    bool
	AtLeast  uint64
}

func (p InProcess) Watch(ctx context.Context, after uint64) (Watched, error) {
	return watchStore(ctx, p.Store, after)
}

func watchStore(ctx context.Context, store *fsm.Store, after uint64) (told Watched, err error) {
	told.AtLeast = store.View().Revision()
	defer func() {
		view := store.View()
		told.State, told.Revision = watchcheck.StateOf(view, watchedPrefix), view.Revision()
	}()
	watcher, err := store.Watch(watchedPrefix, after)
	if errors.Is(err, kv.ErrFutureRevision) || errors.Is(err, kv.ErrCompacted) {
		told.Refused = err.Error()
		if errors.Is(err, kv.ErrCompacted) {
			told.Floor = store.Stats().HistoryFloor // it only grows
		}
		return told, nil
	}
	if err != nil {
		return told, err
	}
	defer watcher.Close()
	for {
		call := NextCall{AtLeast: store.View().Revision()}
		events, progress, err := watcher.Next(ctx)
		call.Events, call.Progress, call.Ended = watchcheck.EventsOf(events), progress, err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err())
		told.Calls = append(told.Calls, call)
		switch {
		case err == nil:
		case call.Ended, errors.Is(err, kv.ErrCompacted):
			return told, nil
		default:
			return told, err
		}
	}
}

// watcher is a watcher that moves from master to master, and resumes on the next one after its last progress.
type watcher struct {
	watchcheck.Record
	matched uint64 // the last revision at which it was compared with a store's state
}

func newWatched() *watcher { return &watcher{Record: watchcheck.Record{Prefix: watchedPrefix}} }

// follow watches a master until the context ends or the watch does.
func (w *watcher) follow(ctx context.Context, on Source) error {
	told, err := on.Watch(ctx, w.Progress())
	if errors.Is(err, ErrAway) {
		return nil
	}
	if err != nil {
		return err
	}
	return w.take(told)
}

func (w *watcher) take(told Watched) error {
	if told.Refused != "" {
		if err := w.Refused(errors.New(told.Refused), told.Floor, told.AtLeast); err != nil {
			return err
		}
		if told.Floor > w.Progress() && told.Revision > w.Progress() { // otherwise that master is behind; compare another time
			w.List(told.Revision, told.State)
		}
		return nil
	}
	w.Granted()
	for _, call := range told.Calls {
		if err := w.Take(call.Events, call.Progress, call.Ended, call.AtLeast); err != nil {
			return err
		}
	}
	if told.Revision != w.Progress() {
		return nil
	}
	w.matched = told.Revision
	return w.Match(told.State)
}

// Watchers watch while clients write.
type Watchers struct {
	all  []*watcher
	mu   sync.Mutex
	errs []error // the first error of each watcher: one that is wrong stays wrong
}

// Start starts a number of watchers that follow masters until the context ends; pick returns a master, or nil.
func (ws *Watchers) Start(ctx context.Context, wg *sync.WaitGroup, count int, seed int64, pick func(r *rand.Rand) Source) {
	for i := range count {
		w, r := newWatched(), rand.New(rand.NewSource(seed*100+50+int64(i)))
		ws.all = append(ws.all, w)
		wg.Go(func() {
			for ctx.Err() == nil {
				if on := pick(r); on != nil {
					one, cancel := context.WithTimeout(ctx, time.Duration(300+r.Intn(3000))*time.Millisecond)
					err := w.follow(one, on)
					cancel()
					if err != nil {
						ws.mu.Lock()
						ws.errs = append(ws.errs, err)
						ws.mu.Unlock()
						return
					}
				}
				select { // between two masters
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
}

// Settle lets the watchers catch up with idle masters, and compares them with these masters' state and with all requests and
// responses of clients. Call it after the watchers have ended.
func (ws *Watchers) Settle(h *History, masters []Source) error {
	if len(ws.errs) > 0 {
		return errors.Join(ws.errs...)
	}
	var records []*watchcheck.Record
	for i, w := range ws.all {
		if err := w.catchUp(masters[i%len(masters)]); err != nil {
			return fmt.Errorf("watcher %d: %w", i, err)
		}
		records = append(records, &w.Record)
	}
	return watchcheck.Settle(h.Commands(), records...)
}

// catchUp follows one master until the watcher has received everything.
func (w *watcher) catchUp(on Source) error {
	end := time.Now().Add(20 * time.Second)
	for {
		now, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		told, err := on.Watch(now, w.Progress())
		cancel()
		if err == nil {
			err = w.take(told)
		}
		if err != nil && !errors.Is(err, ErrAway) {
			return err
		}
		if err == nil && w.matched == told.Revision {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: it is at %d of %d, %v", watchcheck.ErrBrokeReliable, w.Progress(), told.Revision, err)
		}
		time.Sleep(10 * time.Millisecond) // a refusal comes at once; the time is virtual if masters are simulated
	}
}

// Counts adds what must have happened for the watches of a test to show anything.
func (ws *Watchers) Counts(happened map[string]int) {
	for _, w := range ws.all {
		happened["an event was watched"] += w.Events()
		happened["a watch was resumed"] += w.Resumed()
		happened["a watcher had to list again"] += w.Listed()
	}
}

var WatchEvents = []string{"an event was watched", "a watch was resumed", "a watcher had to list again"}
