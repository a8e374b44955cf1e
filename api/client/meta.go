package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// Components that process objects of all kinds, those without a Go type included, use what is below: they see only metadata, and
// change objects by patches.

// Kind is a resource in one of its versions.
type Kind = registry.Kind

// Metadata is the metadata of an object of any kind, with its type. It is shared and read-only.
type Metadata = metav1.PartialObjectMetadata

// Kinds returns every kind as which objects are stored now, once. The kinds may change: WatchAll follows them.
func (c *Client) Kinds() (out []*Kind) {
	for _, k := range c.objects.Kinds().Kinds() {
		if k.StoredAs == nil && k.Stored() {
			out = append(out, k)
		}
	}
	return out
}

// KindNamed returns the kind as which objects of a group and kind are stored, if it is served now.
func (c *Client) KindNamed(name schema.GroupKind) (*Kind, bool) {
	for _, k := range c.objects.Kinds().Kinds() {
		if k.GroupKind() == name && k.StoredAs == nil && k.Stored() {
			return k, true
		}
	}
	return nil, false
}

// EachMeta calls visit for the objects of a kind in a namespace ("" for all), in order of key, until visit returns false. It fails,
// with an error that names the object, if one cannot be decoded: no object is skipped.
func (v View) EachMeta(kind *Kind, namespace string, visit func(*Metadata) bool) (err error) {
	prefix := kind.NamespacePrefix(namespace)
	v.Range(prefix, kv.PrefixEnd(prefix), func(version *kv.Version) bool {
		var m *Metadata
		if m, err = v.client.objects.Metadata(kind, version); err != nil {
			return false
		}
		return visit(m)
	})
	return err
}

// Meta returns an object's metadata; ok is false if there is no such object.
func (v View) Meta(kind *Kind, namespace, name string) (m *Metadata, ok bool, err error) {
	version, ok := v.View.Get(kind.Key(namespace, name))
	if !ok {
		return nil, false, nil
	}
	m, err = v.client.objects.Metadata(kind, version)
	return m, err == nil, err
}

func (c *Client) ref(kind *Kind, namespace, name string) *objects.Request {
	return &objects.Request{User: c.user, Kind: kind, Namespace: namespace, Name: name, FieldManager: c.manager, Trusted: !c.limited}
}

// DeleteRef deletes an object of any kind.
func (c *Client) DeleteRef(ctx context.Context, kind *Kind, namespace, name string, options ...DeleteOption) error {
	o := &metav1.DeleteOptions{}
	for _, option := range options {
		option(o)
	}
	_, _, err := c.objects.Delete(ctx, c.ref(kind, namespace, name), o)
	return err
}

// PatchRef applies a JSON merge patch to an object of any kind.
func (c *Client) PatchRef(ctx context.Context, kind *Kind, namespace, name string, patch []byte) error {
	_, _, err := c.objects.Patch(ctx, c.ref(kind, namespace, name), objects.Patch{Type: types.MergePatchType, Data: patch})
	return err
}

// WatchAll is ViewAndWatch for all kinds that wanted selects: the objects of events are *Metadata. When the kinds change, start is
// called again.
func (c *Client) WatchAll(ctx context.Context, wanted func(*Kind) bool, start func(View) error, more func([]Event) error) error {
	for {
		changed := c.objects.Catalog().Changed()
		selected := map[string]*Kind{}
		for _, kind := range c.Kinds() {
			if wanted(kind) {
				selected[kind.Prefix()] = kind
			}
		}
		watching, cancel := context.WithCancelCause(ctx)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			select {
			case <-changed:
				cancel(errKindsChanged)
			case <-watching.Done():
			}
		})
		err := c.viewAndWatch(watching, "/", selected, c.metaEvent, start, more)
		again := context.Cause(watching) == errKindsChanged && ctx.Err() == nil
		cancel(nil)
		waiting.Wait()
		if !again && !errors.Is(err, kv.ErrCompacted) {
			return err
		}
	}
}

var errKindsChanged = errors.New("the kinds have changed")

func (c *Client) metaEvent(kind *Kind, change *kv.Event) (Event, error) {
	event := Event{Revision: change.Revision}
	if change.Previous != nil {
		m, err := c.objects.Metadata(kind, change.Previous)
		if err != nil {
			return event, fmt.Errorf("at revision %d: %w", change.Revision, err)
		}
		event.Old = m
	}
	if change.Type == kv.Put {
		m, err := c.objects.Metadata(kind, change.Current)
		if err != nil {
			return event, fmt.Errorf("at revision %d: %w", change.Revision, err)
		}
		event.New = m
	}
	return event, nil
}
