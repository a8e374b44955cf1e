package objects

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kontiki/kontiki/internal/kv"
)

// WatchOptions say what is watched, and from which revision.
type WatchOptions struct {
	Labels labels.Selector
	Fields fields.Selector
	// ResourceVersion "" and "0" begin with the present objects as ADDED events; any other begins with the changes after it.
	ResourceVersion string
	// SendInitialEvents, if true, requests the present objects followed by a bookmark that marks their end (KEP-3157); if false,
	// they are not sent.
	SendInitialEvents *bool
	Bookmarks         bool
	// BookmarkEvery is how often an idle watch sends a bookmark; 0 means once a minute.
	BookmarkEvery time.Duration
}

// WatchEvent is one event of a watch. Version is nil for a bookmark.
type WatchEvent struct {
	Type     watch.EventType
	Version  *kv.Version
	Revision uint64
	// InitialEnd marks the bookmark after the last initial event.
	InitialEnd bool
}

// Watch is a running watch, for use by one goroutine. It has the promises of kv.Watcher: events in order of revision, each once,
// none omitted, resumable from any revision that it returned.
type Watch struct {
	cursor    kv.Watcher
	match     *matcher
	initial   []WatchEvent
	bookmarks bool
	every     time.Duration
	due       time.Time       // when the next bookmark is due
	life      context.Context // of the kind; nil if it stays
	shown     uint64
}

// Watch begins a watch. If the revision is no longer in the history, the error is 410 Gone.
func (s *Service) Watch(ctx context.Context, r *Request, o WatchOptions) (*Watch, error) {
	if err := r.serves("watch"); err != nil {
		return nil, err
	}
	match, err := newMatcher(s, r.Kind, o.Labels, o.Fields)
	if err != nil {
		return nil, err
	}
	after, err := ParseRevision(o.ResourceVersion)
	if err != nil {
		return nil, InField("resourceVersion", apierrors.NewBadRequest(err.Error()))
	}
	view, err := s.viewFor(ctx, o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := &Watch{match: match, bookmarks: o.Bookmarks, every: o.BookmarkEvery}
	if r.Kind.Life != nil {
		w.life = r.Kind.Life.Over
	}
	if w.every == 0 {
		w.every = time.Minute
	}
	prefix := r.Kind.NamespacePrefix(r.Namespace)
	if key, ok := match.onlyKey(r.Namespace); ok {
		// Only changes of its own object wake it (and those of names that begin with its name, which do not match), so that
		// thousands of watches of single objects are cheap.
		prefix = key
	} else if r.Namespace == "" && match.namespace != "" {
		prefix = r.Kind.NamespacePrefix(match.namespace)
	}
	initial := after == 0
	if o.SendInitialEvents != nil {
		initial = *o.SendInitialEvents
	}
	if initial {
		view.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
			var ok bool
			if ok, err = match.matches(v); ok {
				w.initial = append(w.initial, WatchEvent{Type: watch.Added, Version: v, Revision: v.ModRevision})
			}
			return err == nil
		})
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if o.SendInitialEvents != nil && o.Bookmarks {
			w.initial = append(w.initial, WatchEvent{Type: watch.Bookmark, Revision: view.Revision(), InitialEnd: true})
		}
	}
	if initial || after == 0 {
		after = view.Revision()
	}
	if w.cursor, err = s.store.Watch(prefix, after); err != nil {
		return nil, watchError(err, after, view.Revision())
	}
	w.shown = after
	w.due = time.Now().Add(w.every)
	return w, nil
}

func watchError(err error, after, current uint64) error {
	if errors.Is(err, kv.ErrCompacted) {
		return InField("resourceVersion", apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", after, current)))
	}
	if errors.Is(err, kv.ErrFutureRevision) {
		return tooLargeRevision(after, current)
	}
	return apierrors.NewInternalError(err)
}

// Initial says whether Next returns initial events next, which are those of a list, all at once.
func (w *Watch) Initial() bool { return len(w.initial) > 0 }

// ErrKindReplaced means that a watch has ended because its kind is not served any more as it was when the watch began: its definition has
// changed, or was deleted. Every event of the time before has been returned.
var ErrKindReplaced = errors.New("the kind was changed or removed; start another watch at the last resource version")

// Next waits for the next events. It fails with 410 Gone if the watch fell behind the history, with ErrKindReplaced, and with ctx's error.
func (w *Watch) Next(ctx context.Context) ([]WatchEvent, error) {
	if w.initial != nil {
		events := w.initial
		w.initial = nil
		if len(events) > 0 {
			return events, nil
		}
	}
	for {
		events, err := w.next(ctx)
		if err != nil || len(events) > 0 {
			return events, err
		}
	}
}

func (w *Watch) next(ctx context.Context) ([]WatchEvent, error) {
	waiting := ctx
	if w.bookmarks {
		var cancel context.CancelFunc
		waiting, cancel = context.WithDeadline(ctx, w.due)
		defer cancel()
	}
	if w.life != nil {
		lived, cancel := context.WithCancel(waiting)
		defer cancel()
		defer context.AfterFunc(w.life, cancel)()
		waiting = lived
	}
	changes, progress, err := w.cursor.Next(waiting)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if w.life != nil && w.life.Err() != nil && errors.Is(err, context.Canceled) {
			return nil, ErrKindReplaced
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return nil, watchError(err, w.shown, progress)
		}
		return w.bookmark(), nil
	}
	var events []WatchEvent
	for _, change := range changes {
		event, ok, err := w.translate(change)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if ok {
			events = append(events, event)
			w.shown = event.Revision
		}
	}
	if len(events) == 0 && w.bookmarks && !time.Now().Before(w.due) {
		return w.bookmark(), nil // there are changes all the time, but the watch selects none of them
	}
	return events, nil
}

// bookmark returns a bookmark with the watch's progress, if that has changed.
func (w *Watch) bookmark() []WatchEvent {
	w.due = time.Now().Add(w.every)
	at := w.cursor.Progress()
	if at <= w.shown {
		return nil
	}
	w.shown = at
	return []WatchEvent{{Type: watch.Bookmark, Revision: at}}
}

// translate converts a change of a key to an event of the selection: an object that begins to match is ADDED, one that no longer
// matches is DELETED, with the state in which it last matched but the revision of the change.
func (w *Watch) translate(change *kv.Event) (WatchEvent, bool, error) {
	matched, matches := false, false
	var err error
	if change.Previous != nil {
		if matched, err = w.match.matches(change.Previous); err != nil {
			return WatchEvent{}, false, err
		}
	}
	if change.Type == kv.Put {
		if matches, err = w.match.matches(change.Current); err != nil {
			return WatchEvent{}, false, err
		}
	}
	event := WatchEvent{Version: change.Current, Revision: change.Revision}
	switch {
	case matched && matches:
		event.Type = watch.Modified
	case matches:
		event.Type = watch.Added
	case matched:
		event.Type = watch.Deleted
		if change.Type == kv.Put {
			event.Version = &kv.Version{Key: change.Previous.Key, Value: change.Previous.Value,
				CreateRevision: change.Previous.CreateRevision, ModRevision: change.Revision}
		}
	default:
		return event, false, nil
	}
	return event, true, nil
}

// Close ends the watch.
func (w *Watch) Close() { w.cursor.Close() }

// InitialEventsAnnotation marks the bookmark after the initial events.
const InitialEventsAnnotation = metav1.InitialEventsAnnotationKey
