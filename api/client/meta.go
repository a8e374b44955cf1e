package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
func (c *Client) Kinds() []*Kind {
	return slices.SortedFunc(maps.Values(c.objects.Kinds().Stored()), func(a, b *Kind) int { return strings.Compare(a.Prefix(), b.Prefix()) })
}

// KindNamed returns the kind as which objects of a group and kind are stored, if it is served now.
func (c *Client) KindNamed(name schema.GroupKind) (*Kind, bool) {
	k, ok := c.objects.Kinds().Stored()[name]
	return k, ok
}

// present returns the kind as it is served now, if it has been replaced: what is written must follow its present definition.
func (c *Client) present(kind *Kind) *Kind {
	if kind.Life == nil || kind.Life.Over.Err() == nil {
		return kind
	}
	if now, ok := c.KindNamed(kind.GroupKind()); ok && now.Prefix() == kind.Prefix() {
		return now
	}
	return kind
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
	return &objects.Request{User: c.user, Kind: c.present(kind), Namespace: namespace, Name: name, FieldManager: c.manager, Trusted: !c.limited}
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

// WatchAll is ViewAndWatch for all kinds that wanted selects: the objects of events are *Metadata. It follows the kinds. When one begins
// or ends to be served while there are objects of it, start is called again.
func (c *Client) WatchAll(ctx context.Context, wanted func(*Kind) bool, start func(View) error, more func([]Event) error) error {
	for {
		err := c.watchAll(ctx, wanted, start, more)
		if !errors.Is(err, errKindsChanged) && !errors.Is(err, kv.ErrCompacted) {
			return err
		}
	}
}

var errKindsChanged = errors.New("the kinds have changed")

func (c *Client) selected(wanted func(*Kind) bool) (selected map[string]*Kind, changed <-chan struct{}) {
	changed = c.objects.Catalog().Changed()
	selected = map[string]*Kind{}
	for _, kind := range c.objects.Kinds().Stored() {
		if wanted(kind) {
			selected[kind.Prefix()] = kind
		}
	}
	return selected, changed
}

func (c *Client) watchAll(ctx context.Context, wanted func(*Kind) bool, start func(View) error, more func([]Event) error) error {
	selected, changed := c.selected(wanted)
	view := c.View()
	watcher, err := c.objects.Store().Watch("/", view.Revision())
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := start(view); err != nil {
		return err
	}
	for {
		changes, err := nextUnless(ctx, changed, watcher)
		if errors.Is(err, errKindsChanged) {
			before := selected
			if selected, changed = c.selected(wanted); c.anyObject(before, selected) || c.anyObject(selected, before) {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := pass(changes, selected, c.metaEvent, more); err != nil {
			return err
		}
	}
}

// nextUnless returns the next changes, or errKindsChanged when the channel is closed.
func nextUnless(ctx context.Context, changed <-chan struct{}, watcher kv.Watcher) ([]*kv.Event, error) {
	waiting, cancel := context.WithCancel(ctx)
	var other sync.WaitGroup
	other.Go(func() {
		select {
		case <-changed:
			cancel()
		case <-waiting.Done():
		}
	})
	changes, _, err := watcher.Next(waiting)
	cancel()
	other.Wait()
	if err != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		return nil, errKindsChanged
	}
	return changes, err
}

// anyObject says whether there are objects of a kind that is in one set of kinds and not in another.
func (c *Client) anyObject(in, notIn map[string]*Kind) bool {
	view := c.View()
	for prefix := range in {
		if notIn[prefix] == nil && view.Count(prefix, kv.PrefixEnd(prefix)) > 0 {
			return true
		}
	}
	return false
}

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
