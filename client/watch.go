package client

import (
	"context"
	"errors"
	"io"
	"iter"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// EventType is the type of an Event.
type EventType int

const (
	// Added: the object is new, or newly matches the selectors; or it was there when the watch began.
	Added EventType = iota + 1
	// Modified: the object has changed.
	Modified
	// Deleted: the object is gone, or no longer matches. Event.Object is its last state.
	Deleted
	// Synced: all objects that existed at ResourceVersion have been delivered. It has no object.
	Synced
	// Restarted: changes were missed, because the history no longer reaches back to the last event. Discard all objects: those that
	// follow until Synced are all that exist. It has no object.
	Restarted
)

var eventTypeNames = map[EventType]string{Added: "Added", Modified: "Modified", Deleted: "Deleted", Synced: "Synced", Restarted: "Restarted"}

// String returns the type's name.
func (t EventType) String() string { return eventTypeNames[t] }

// Event is one change of one object.
type Event[T Object] struct {
	Type   EventType
	Object T
	// ResourceVersion is the revision up to which the watch has delivered everything, once Synced has come.
	ResourceVersion string
}

var eventTypes = map[kontikiv1.WatchResponse_Type]EventType{
	kontikiv1.WatchResponse_TYPE_ADDED: Added, kontikiv1.WatchResponse_TYPE_MODIFIED: Modified, kontikiv1.WatchResponse_TYPE_DELETED: Deleted,
}

// Watch delivers the objects of a kind in a namespace ("" for all), then Synced, and then every change once and in order, until ctx
// ends. With After it begins with the changes after a resource version instead.
//
// If a master fails it resumes on another after the last event. It ends with errors that a retry would not resolve (ErrForbidden,
// ErrInvalid), and with ctx's error when ctx has ended.
//
// Events are delivered as fast as the loop reads them. If the loop is slower than the cluster's changes for long, the watch falls
// behind the history and a Restarted event comes.
func Watch[T Object](ctx context.Context, c *Client, namespace string, options ...Option) iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		s, err := c.settle(forWatch, options)
		if err == nil {
			var kind Kind
			if kind, err = kindOfType[T](s.kind); err == nil {
				w := &watching[T]{client: c, settings: s, kind: kind, namespace: namespace, yield: yield, from: s.version}
				err = w.run(ctx)
			}
		}
		if err != nil && err != errStopped {
			yield(Event[T]{}, err)
		}
	}
}

// watching is the state of a running watch.
type watching[T Object] struct {
	client    *Client
	settings  *settings
	kind      Kind
	namespace string
	yield     func(Event[T], error) bool
	from      string // the revision up to which everything was delivered; "" before the first list is complete
}

func (w *watching[T]) show(e Event[T]) error {
	if !w.yield(e, nil) {
		return errStopped
	}
	return nil
}

func (w *watching[T]) run(ctx context.Context) error {
	for r := w.client.retry(0); ; {
		var err error
		if w.from == "" {
			err = w.list(ctx)
		}
		if err == nil {
			err = w.follow(ctx, r)
		}
		if ctx.Err() != nil && err != errStopped {
			return context.Cause(ctx)
		}
		var failed *Error
		switch {
		case errors.Is(err, ErrExpired):
			w.from = ""
			if err := w.show(Event[T]{Type: Restarted}); err != nil {
				return err
			}
		case err == io.EOF || errors.Is(err, ErrTooManyRequests) || errors.As(err, &failed) && failed.elsewhere(false):
			// The stream or the master ended, or the server ended the stream of a slow reader.
		default:
			return err
		}
		if !r.wait(ctx) {
			return context.Cause(ctx)
		}
	}
}

// list delivers the present objects. All pages show one revision, even from several masters, so nothing is delivered twice.
func (w *watching[T]) list(ctx context.Context) error {
	version := ""
	request := w.settings.listRequest(w.kind, w.namespace)
	request.ResourceVersion = ""
	err := pages(ctx, w.client, request, 0, func(p Page[T]) bool {
		for _, obj := range p.Items {
			if w.show(Event[T]{Type: Added, Object: obj, ResourceVersion: p.ResourceVersion}) != nil {
				return false
			}
		}
		version = p.ResourceVersion
		return true
	})
	if err != nil {
		return err
	}
	w.from = version
	return w.show(Event[T]{Type: Synced, ResourceVersion: version})
}

// follow delivers changes until the stream ends, and records its progress.
func (w *watching[T]) follow(ctx context.Context, r *retry) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := w.settings
	stream, err := w.client.objects().Watch(ctx, &kontikiv1.WatchRequest{
		Kind: wireKind(w.kind), Namespace: w.namespace, Name: s.name, LabelSelector: s.labels, FieldSelector: s.fields,
		ResourceVersion: w.from, Bookmarks: true, Encoding: encodingOf(newOf[T]()),
	})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		r.reset()
		if kind, ok := eventTypes[answer.Type]; ok {
			obj, err := decode[T](answer.Object)
			if err != nil {
				return err
			}
			w.from = answer.ResourceVersion
			if err := w.show(Event[T]{kind, obj, answer.ResourceVersion}); err != nil {
				return err
			}
		} else if answer.ResourceVersion != "" {
			w.from = answer.ResourceVersion
		}
	}
}
