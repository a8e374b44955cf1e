package objects

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// Asked says which computed objects a request is for. It spares a Computer work; those that it returns beyond it are left out.
type Asked struct {
	// Namespace is "" for all, and Name for any.
	Namespace, Name string
	// Labels is nil for any.
	Labels labels.Selector
}

// Computer returns the objects of a resource that is not stored but computed when it is read, such as the state of a component. It is
// safe for concurrent use.
type Computer func(ctx context.Context, asked Asked) []registry.Object

// computed is a view in which one resource has computed objects.
type computed struct {
	kv.View
	versions []*kv.Version // sorted by key
}

// compute returns a view that contains the objects of the request's resource, if these are computed.
func (s *Service) compute(ctx context.Context, r *Request, labels labels.Selector, view kv.View) (kv.View, error) {
	computer, ok := s.computers[r.Kind.GroupResource()]
	if !ok {
		return view, nil
	}
	c := computed{View: view}
	for _, obj := range computer(ctx, Asked{Namespace: r.Namespace, Name: r.Name, Labels: labels}) {
		value, err := r.Kind.Store(obj)
		if err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("encode %s: %w", obj.GetName(), err))
		}
		c.versions = append(c.versions, &kv.Version{Key: r.Kind.Key(obj.GetNamespace(), obj.GetName()), Value: value})
	}
	slices.SortFunc(c.versions, func(a, b *kv.Version) int { return strings.Compare(a.Key, b.Key) })
	return c, nil
}

// Get implements kv.View.
func (c computed) Get(key string) (found *kv.Version, ok bool) {
	c.Range(key, key+"\x00", func(v *kv.Version) bool { found = v; return false })
	return found, found != nil
}

// Range implements kv.View.
func (c computed) Range(start, end string, visit func(*kv.Version) bool) {
	for _, v := range c.versions {
		if v.Key >= start && (end == "" || v.Key < end) && !visit(v) {
			return
		}
	}
}

// Count implements kv.View.
func (c computed) Count(start, end string) (n int) {
	c.Range(start, end, func(*kv.Version) bool { n++; return true })
	return n
}
