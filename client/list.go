package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Page is a part of a list. All pages of a list show the same revision.
type Page[T Object] struct {
	Items []T
	// ResourceVersion is the list's: a Watch After it delivers every later change.
	ResourceVersion string
	// Remaining is the number of objects after this page.
	Remaining int64
}

// List returns all objects of a kind in a namespace ("" for all) and the resource version of the state that they show. For lists
// that do not fit in memory use Pages.
func List[T Object](ctx context.Context, c *Client, namespace string, options ...Option) (items []T, resourceVersion string, err error) {
	for page, err := range Pages[T](ctx, c, namespace, options...) {
		if err != nil {
			return nil, "", err
		}
		items, resourceVersion = append(items, page.Items...), page.ResourceVersion
	}
	return items, resourceVersion, nil
}

// Pages is List page by page. If a master fails in between, the list continues with another, at the same revision. An error ends
// it.
func Pages[T Object](ctx context.Context, c *Client, namespace string, options ...Option) iter.Seq2[Page[T], error] {
	return func(yield func(Page[T], error) bool) {
		s, err := c.settle(forList, options)
		if err == nil {
			var kind Kind
			if kind, err = kindOfType[T](s.kind); err == nil {
				err = pages(ctx, c, s.listRequest(kind, namespace), c.patience, func(p Page[T]) bool { return yield(p, nil) })
			}
		}
		if err != nil && err != errStopped {
			yield(Page[T]{}, err)
		}
	}
}

func (s *settings) listRequest(kind Kind, namespace string) *kontikiv1.ListRequest {
	return &kontikiv1.ListRequest{
		Kind: wireKind(kind), Namespace: namespace, LabelSelector: s.labels, FieldSelector: withName(s.fields, s.name),
		ResourceVersion: s.version, ResourceVersionMatch: s.match, PageSize: s.pageSize,
	}
}

// errStopped means that the consumer of the items has stopped.
var errStopped = errors.New("client: stopped")

func pages[T Object](ctx context.Context, c *Client, request *kontikiv1.ListRequest, patience time.Duration, yield func(Page[T]) bool) error {
	request.Encoding = encodingOf(newOf[T]())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shown := 0 // number of objects that were yielded
	one := func(r *retry) error {
		stream, err := c.objects().List(ctx, request)
		if err != nil {
			return err
		}
		for skip := shown; ; {
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			r.reset()
			objects := answer.Objects
			drop := min(skip, len(objects))
			skip, objects = skip-drop, objects[drop:]
			if drop > 0 && len(objects) == 0 {
				continue
			}
			items, err := decodeAll[T](objects)
			if err != nil {
				return err
			}
			// From now on, another master must continue at exactly this revision.
			request.ResourceVersion, request.ResourceVersionMatch = answer.ResourceVersion, exact
			shown += len(items)
			if !yield(Page[T]{items, answer.ResourceVersion, answer.Remaining}) {
				return errStopped
			}
		}
	}
	for r := c.retry(patience); ; {
		err := one(r)
		if err == io.EOF {
			return nil
		}
		var failed *Error
		if !errors.As(err, &failed) || !r.again(ctx, nil, failed, false) {
			return err
		}
	}
}
