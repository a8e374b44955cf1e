package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Page is a part of a list. All pages of a list show one revision.
type Page[T Object] struct {
	Items []T
	// ResourceVersion is the list's: a Watch After it shows every later change.
	ResourceVersion string
	// Remaining is how many objects follow this page.
	Remaining int64
}

// List answers all objects of a kind in a namespace (in all when it is "") and the resource version that they are as of. For
// more than fit in memory there is Pages.
func List[T Object](ctx context.Context, c *Client, namespace string, options ...Option) (items []T, resourceVersion string, err error) {
	for page, err := range Pages[T](ctx, c, namespace, options...) {
		if err != nil {
			return nil, "", err
		}
		items, resourceVersion = append(items, page.Items...), page.ResourceVersion
	}
	return items, resourceVersion, nil
}

// Pages is List page by page. If the master is lost between, the list goes on with another, at the same revision. An error ends it.
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

// errStopped says that whoever gets the items wants no more.
var errStopped = errors.New("client: stopped")

func pages[T Object](ctx context.Context, c *Client, request *kontikiv1.ListRequest, patience time.Duration, yield func(Page[T]) bool) error {
	request.Encoding = encodingOf(newOf[T]())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shown := 0 // objects that were yielded
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
			// From here on, another master must go on with just this revision.
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
