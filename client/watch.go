package client

import (
	"context"
	"errors"
	"io"
	"iter"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// EventType is what an Event tells.
type EventType int

const (
	// Added: the object is new, or newly matches the selectors; or it was there when the watch began.
	Added EventType = iota + 1
	// Modified: the object has changed.
	Modified
	// Deleted: the object is gone, or no longer matches. It is as it last was.
	Deleted
	// Synced: all objects that were there at ResourceVersion have been shown. It has no object.
	Synced
	// Restarted: changes were missed, because the history does not reach back to the last event any more. Forget all objects: what
	// follows until Synced is all that there is. It has no object.
	Restarted
)

var eventTypeNames = map[EventType]string{Added: "Added", Modified: "Modified", Deleted: "Deleted", Synced: "Synced", Restarted: "Restarted"}

// String is the type's name.
func (t EventType) String() string { return eventTypeNames[t] }

// Event is one change of one object.
type Event[T Object] struct {
	Type   EventType
	Object T
	// ResourceVersion is what the watch has shown everything up to, once Synced has come.
	ResourceVersion string
}

var eventTypes = map[kontikiv1.WatchResponse_Type]EventType{
	kontikiv1.WatchResponse_TYPE_ADDED: Added, kontikiv1.WatchResponse_TYPE_MODIFIED: Modified, kontikiv1.WatchResponse_TYPE_DELETED: Deleted,
}

// Watch shows the objects of a kind in a namespace (in all when it is ""), then Synced, and then every change, each once and in order,
// until ctx ends. With After it begins with the changes after a resource version instead.
//
// It goes on over the loss of masters by itself, from the last event. It ends with an error that trying again would not help
// (ErrForbidden, ErrInvalid), and with ctx's when that has ended.
//
// Events come as fast as the loop takes them. If it is slower than the cluster changes for long, the history ends before the watch does
// and a Restarted comes.
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

// watching is a watch on its way.
type watching[T Object] struct {
	client    *Client
	settings  *settings
	kind      Kind
	namespace string
	yield     func(Event[T], error) bool
	from      string // what has been shown; "" before the first list is
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
			// The end of a stream, of a master, or of its patience with a slow reader.
		default:
			return err
		}
		if !r.wait(ctx) {
			return context.Cause(ctx)
		}
	}
}

// list shows what there is. Pages come from one revision, also from several masters, so nothing is shown twice.
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

// follow shows changes until the stream ends, and notes how far it came.
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
