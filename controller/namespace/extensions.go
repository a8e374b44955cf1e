package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Extensions reaches the objects that extension API servers keep in namespaces.
type Extensions struct {
	// Resources returns the resources whose objects can be listed and deleted (group, version, name and verbs), and the group versions of which
	// that is not known, with the reason.
	Resources func() (resources []metav1.APIResource, unknown map[schema.GroupVersion]error)
	// Changed returns a channel that is closed when Resources may return something else.
	Changed func() <-chan struct{}
	// Metadata returns a client of the API.
	Metadata func() (metadata.Interface, error)
}

const (
	// lookAgain is how often a namespace is examined whose last objects extension API servers keep: their removal is no event here.
	lookAgain = 2 * time.Second
	// pageSize is how many objects are listed at a time.
	pageSize = 500
)

// follow enqueues the terminating namespaces when what extension API servers serve has changed.
func (e *Extensions) follow(ctx context.Context, c *client.Client, enqueue func(controller.Key)) error {
	for {
		changed := e.Changed()
		client.Each(c.View(), "", func(ns *corev1.Namespace) bool {
			if ns.DeletionTimestamp != nil {
				enqueue(controller.Key{Name: ns.Name})
			}
			return true
		})
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// empty deletes the objects of extension API servers in a namespace, and returns what then remains. unknown says which resources are not known.
func (e *Extensions) empty(ctx context.Context, namespace string) (left *content, failures []error, unknown error) {
	left = newContent()
	resources, missing := e.Resources()
	if len(missing) > 0 {
		unknown = &discovery.ErrGroupDiscoveryFailed{Groups: missing}
	}
	if len(resources) == 0 {
		return left, nil, unknown
	}
	reach, err := e.Metadata()
	if err != nil {
		return left, []error{err}, unknown
	}
	for _, r := range resources {
		of := reach.Resource(schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Name}).Namespace(namespace)
		if err := emptyOf(ctx, of, r, left); err != nil {
			failures = append(failures, fmt.Errorf("delete the %s.%s of namespace %s: %w", r.Name, r.Group, namespace, err))
		}
	}
	return left, failures, unknown
}

// emptyOf deletes the objects of a resource in a namespace, and counts what then remains.
func emptyOf(ctx context.Context, of metadata.ResourceInterface, r metav1.APIResource, left *content) error {
	policy := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &policy}
	page, err := of.List(ctx, metav1.ListOptions{Limit: pageSize})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err):
		return nil // it is not served any more
	case err != nil:
		return err
	case len(page.Items) == 0:
		return nil
	}
	if slices.Contains(r.Verbs, "deletecollection") {
		err = of.DeleteCollection(ctx, options, metav1.ListOptions{})
	}
	if !slices.Contains(r.Verbs, "deletecollection") || apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err) {
		err = controller.Each(page.Items, func(item metav1.PartialObjectMetadata) error {
			if item.DeletionTimestamp != nil {
				return nil
			}
			if err := of.Delete(ctx, item.Name, options); !apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
	}
	page, again := of.List(ctx, metav1.ListOptions{Limit: pageSize})
	if again != nil {
		return errors.Join(err, again)
	}
	group := schema.GroupResource{Group: r.Group, Resource: r.Name}
	for i := range page.Items {
		left.count(group, &page.Items[i])
	}
	if page.RemainingItemCount != nil && *page.RemainingItemCount > 0 {
		left.more(group, int(min(*page.RemainingItemCount, 1<<31-1)))
	}
	return err
}
