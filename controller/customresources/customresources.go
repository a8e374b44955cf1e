// Package customresources carries out the deletion of CustomResourceDefinitions: it deletes the objects of a definition that is being
// deleted, and then lets the definition go. It also gives a definition names that another one has given up; names that are free are given
// when a definition is stored.
//
// Conditions, reasons and messages are upstream's (k8s.io/apiextensions-apiserver/pkg/controller/finalizer and .../status). Nothing is polled:
// each object that disappears enqueues its definition again.
package customresources

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// New returns the controller. Its keys are definitions.
func New(c *client.Client) *controller.Controller {
	r := &reconciler{c}
	return &controller.Controller{
		Name:     "customresourcedefinitions",
		WatchAll: func(kind *client.Kind) bool { return kind.Life != nil || isDefinition(kind.GroupKind()) },
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
				enqueue(controller.KeyOf(crd))
				return true
			})
		},
		Enqueue: r.enqueue, Reconcile: r.reconcile, Workers: 10,
	}
}

func isDefinition(kind schema.GroupKind) bool {
	return kind.Group == apiextensionsv1.GroupName && kind.Kind == "CustomResourceDefinition"
}

type reconciler struct{ client *client.Client }

// enqueue enqueues a definition that changes, and one whose object disappears. When one changes or goes, those of its group that lack names
// may get them.
func (r *reconciler) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	kind := event.Object().GetObjectKind().GroupVersionKind().GroupKind()
	if !isDefinition(kind) {
		if event.New != nil {
			return
		}
		if served, ok := r.client.KindNamed(kind); ok {
			enqueue(controller.Key{Name: served.Resource + "." + served.Group})
		}
		return
	}
	name := event.Object().GetName()
	enqueue(controller.Key{Name: name})
	_, group, _ := strings.Cut(name, ".")
	client.Each(v, "", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		if crd.Spec.Group == group && crd.Name != name && !accepted(crd) {
			enqueue(controller.KeyOf(crd))
		}
		return true
	})
}

func accepted(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.NamesAccepted)
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	crd, ok := client.Get[*apiextensionsv1.CustomResourceDefinition](v, "", key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	switch {
	case crd.DeletionTimestamp == nil && !accepted(crd):
		// The names are decided whenever the definition is stored; without a change nothing is.
		_, err := client.UpdateStatus(ctx, r.client, crd.DeepCopy())
		return controller.Result{}, unlessGone(err)
	case crd.DeletionTimestamp == nil || !slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer):
		return controller.Result{}, nil
	}
	return controller.Result{}, unlessGone(r.finish(ctx, crd))
}

// unlessGone returns an error unless it says that the definition, or what it was, is no longer there: its change enqueues it again.
func unlessGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// finish deletes the objects of a definition that is being deleted, and lets it go when none is left.
func (r *reconciler) finish(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	kind, served := r.client.KindNamed(schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Status.AcceptedNames.Kind})
	served = served && kind.Life != nil && kind.Resource == crd.Status.AcceptedNames.Plural
	switch {
	case r.overlaps(crd):
		return r.release(ctx, crd, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage")
	case !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established):
		return r.release(ctx, crd, "NeverEstablished", "resource was never established")
	case !served:
		return fmt.Errorf("%s is not served here yet, so its objects cannot be deleted", crd.Name)
	}
	crd, err := r.report(ctx, crd, apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress")
	if err != nil {
		return err
	}
	if err := r.deleteObjects(ctx, kind); err != nil {
		if _, shown := r.report(ctx, crd, apiextensionsv1.ConditionTrue, "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", err)); shown != nil {
			return shown
		}
		return err
	}
	left := 0
	if err := r.client.View().EachMeta(kind, "", func(*client.Metadata) bool { left++; return true }); err != nil {
		return err
	}
	if left > 0 {
		_, err := r.report(ctx, crd, apiextensionsv1.ConditionTrue, "InstanceDeletionCheck",
			fmt.Sprintf("could not confirm zero CustomResources remaining: %d have finalizers", left))
		return err // the removal of each enqueues the definition again
	}
	return r.release(ctx, crd, "InstanceDeletionCompleted", "removed all instances")
}

// overlaps says whether a definition has the names of a built-in resource, whose objects are not its own.
func (r *reconciler) overlaps(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(r.client.Kinds(), func(k *client.Kind) bool {
		return k.Life == nil && k.Group == crd.Spec.Group && k.Resource == crd.Spec.Names.Plural
	})
}

// deleteObjects deletes all objects of a kind.
func (r *reconciler) deleteObjects(ctx context.Context, kind *client.Kind) error {
	var doomed []*client.Metadata
	if err := r.client.View().EachMeta(kind, "", func(obj *client.Metadata) bool {
		if obj.GetDeletionTimestamp() == nil {
			doomed = append(doomed, obj)
		}
		return true
	}); err != nil {
		return err
	}
	return controller.Each(doomed, func(obj *client.Metadata) error {
		err := r.client.DeleteRef(ctx, kind, obj.GetNamespace(), obj.GetName(), client.IfUID(obj.GetUID()), client.Propagation(metav1.DeletePropagationBackground))
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // gone or replaced: what remains is counted
		}
		return err
	})
}

// report stores the condition of the deletion.
func (r *reconciler) report(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, status apiextensionsv1.ConditionStatus, reason, message string) (*apiextensionsv1.CustomResourceDefinition, error) {
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message}
	if apihelpers.IsCRDConditionEquivalent(&c, apihelpers.FindCRDCondition(crd, apiextensionsv1.Terminating)) {
		return crd, nil
	}
	changed := crd.DeepCopy()
	apihelpers.SetCRDCondition(changed, c)
	return client.UpdateStatus(ctx, r.client, changed)
}

// release lets a definition go.
func (r *reconciler) release(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, reason, message string) error {
	changed := crd.DeepCopy()
	apihelpers.SetCRDCondition(changed, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionFalse, Reason: reason, Message: message,
	})
	apihelpers.CRDRemoveFinalizer(changed, apiextensionsv1.CustomResourceCleanupFinalizer)
	_, err := client.UpdateStatus(ctx, r.client, changed)
	return err
}
