// Package configrollout rolls workloads out when a ConfigMap or Secret that they follow changes, and brings its content back when
// such a workload is rolled back. Workloads opt in by an annotation (docs/workloads.md).
//
// An annotation of the pod template has the id of the configuration with which its pods start; another id is another template, and so
// a roll-out as any other. Each configuration is kept in snapshots, immutable ConfigMaps and Secrets that belong to the workload, for
// as long as a revision of the workload has its id. An annotation of the workload itself has the id that this controller has set
// last: if the template has another one, somebody has gone back to an earlier template, and its configuration is restored.
package configrollout

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/client/followed"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/history"
	"github.com/kontiki/kontiki/controller/owned"
)

// Annotation lists what a workload follows.
const Annotation = followed.Annotation

// Further annotations.
const (
	templateAnnotation = followed.TemplateAnnotation
	observedAnnotation = "kontiki.io/config-observed" // of the workload: the id that was set last
	idAnnotation       = "kontiki.io/config-id"       // of a snapshot
	sourceAnnotation   = "kontiki.io/config-source"   // of a snapshot: the object that it was made of
	typeAnnotation     = "kontiki.io/config-type"     // of a snapshot: the type of the Secret
	absentAnnotation   = "kontiki.io/config-absent"   // of a snapshot: the object did not exist
)

// mostReferences limits how many objects a workload follows, as each change makes copies of all.
const mostReferences = 50

// kind is what differs between the kinds of workloads.
type kind[T client.Object] struct {
	gvk      schema.GroupVersionKind
	template func(T) *corev1.PodTemplateSpec
	// revisions returns the templates of a workload's revisions.
	revisions func(client.View, T) []*corev1.PodTemplateSpec
	byRef     *client.Index[T]
}

var (
	replicaSets         = owned.NewIndex[*appsv1.ReplicaSet]()
	controllerRevisions = owned.NewIndex[*appsv1.ControllerRevision]()

	deployments = newKind("Deployment", func(d *appsv1.Deployment) *corev1.PodTemplateSpec { return &d.Spec.Template },
		func(v client.View, d *appsv1.Deployment) (out []*corev1.PodTemplateSpec) {
			for _, rs := range replicaSets.Controlled(v, d.UID) {
				out = append(out, &rs.Spec.Template)
			}
			return out
		})
	statefulSets = newKind("StatefulSet", func(s *appsv1.StatefulSet) *corev1.PodTemplateSpec { return &s.Spec.Template }, fromHistory[*appsv1.StatefulSet])
	daemonSets   = newKind("DaemonSet", func(d *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &d.Spec.Template }, fromHistory[*appsv1.DaemonSet])
)

func fromHistory[T client.Object](v client.View, owner T) (out []*corev1.PodTemplateSpec) {
	for _, revision := range controllerRevisions.Controlled(v, owner.GetUID()) {
		if template, err := history.Template(revision); err == nil {
			out = append(out, template)
		}
	}
	return out
}

func newKind[T client.Object](name string, template func(T) *corev1.PodTemplateSpec, revisions func(client.View, T) []*corev1.PodTemplateSpec) kind[T] {
	return kind[T]{appsv1.SchemeGroupVersion.WithKind(name), template, revisions, client.NewIndex(func(obj T, add func(string)) {
		for _, ref := range followed.References(obj, template(obj)) {
			add(obj.GetNamespace() + "/" + ref.String())
		}
	})}
}

// New returns the controllers, one for each kind of workload.
func New(c *client.Client, recorder record.EventRecorder) []*controller.Controller {
	return []*controller.Controller{
		newController(deployments, &appsv1.Deployment{}, c, recorder),
		newController(statefulSets, &appsv1.StatefulSet{}, c, recorder),
		newController(daemonSets, &appsv1.DaemonSet{}, c, recorder),
	}
}

type reconciler[T client.Object] struct {
	kind[T]
	client   *client.Client
	recorder record.EventRecorder
}

func newController[T client.Object](k kind[T], empty T, c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler[T]{k, c, recorder}
	return &controller.Controller{
		Name: "config-rollout-" + strings.ToLower(k.gvk.Kind), Watches: []client.Object{empty, &corev1.ConfigMap{}, &corev1.Secret{}}, Workers: 2,
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(obj T) bool {
				if obj.GetAnnotations()[Annotation] != "" {
					enqueue(controller.KeyOf(obj))
				}
				return true
			})
		},
		Enqueue: r.enqueue, Reconcile: r.reconcile,
	}
}

func (r *reconciler[T]) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	ref := followed.Reference{Name: event.Object().GetName()}
	switch obj := event.Object().(type) {
	case *corev1.ConfigMap:
		ref.Kind = followed.ConfigMap
	case *corev1.Secret:
		ref.Kind = followed.Secret
	default:
		if event.New != nil && obj.GetAnnotations()[Annotation] != "" {
			enqueue(controller.KeyOf(obj))
		}
		return
	}
	if event.Old != nil && event.New != nil && contentOf(event.Old).equal(contentOf(event.New)) {
		return
	}
	for _, obj := range r.byRef.Any(v, event.Object().GetNamespace()+"/"+ref.String()) {
		enqueue(controller.KeyOf(obj))
	}
}

func (r *reconciler[T]) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	obj, ok := client.Get[T](v, key.Namespace, key.Name)
	if !ok || obj.GetDeletionTimestamp() != nil {
		return controller.Result{}, nil
	}
	refs := followed.References(obj, r.template(obj))
	if len(refs) == 0 {
		return controller.Result{}, nil
	}
	if len(refs) > mostReferences {
		r.recorder.Eventf(obj, corev1.EventTypeWarning, "TooManyReferences", "Configuration is not followed: %d ConfigMaps and Secrets, at most %d are allowed", len(refs), mostReferences)
		return controller.Result{}, nil
	}
	now, complete := live(v, key.Namespace, refs)
	if !complete {
		return controller.Result{}, nil // pods could not start: the object's creation enqueues the workload
	}
	snapshots := snapshotsOf(v, obj)
	known := configurations(snapshots)
	template, observed := r.template(obj).Annotations[templateAnnotation], obj.GetAnnotations()[observedAnnotation]
	kept, isKnown := known[template]
	switch {
	case isKnown && kept.equal(now):
		if template != observed {
			return controller.Result{}, r.set(ctx, obj, template)
		}
		return controller.Result{}, discard(ctx, r.client, snapshots, r.used(v, obj))
	case isKnown && template != observed && sameReferences(kept, refs):
		err := restore(ctx, r.client, key.Namespace, refs, kept)
		switch {
		case apierrors.IsInvalid(err): // an immutable object: its content is what pods get
			r.recorder.Eventf(obj, corev1.EventTypeWarning, "ConfigurationNotRestored", "Cannot restore configuration %s: %v", template, err)
		case err != nil:
			return controller.Result{}, fmt.Errorf("restore configuration %s: %w", template, err)
		default:
			r.recorder.Eventf(obj, corev1.EventTypeNormal, "ConfigurationRestored", "Restored configuration %s of the template that was rolled back to", template)
			return controller.Result{}, r.set(ctx, obj, template)
		}
	}
	id := ""
	for other, configuration := range known {
		if configuration.equal(now) && (id == "" || other < id) {
			id = other // as it was before
		}
	}
	if id == "" {
		var err error
		if id, err = keep(ctx, r.client, obj, r.gvk, refs, now); err != nil {
			return controller.Result{}, fmt.Errorf("keep the configuration: %w", err)
		}
	}
	if err := r.set(ctx, obj, id); err != nil {
		return controller.Result{}, err
	}
	if isKnown {
		r.recorder.Eventf(obj, corev1.EventTypeNormal, "ConfigurationChanged", "Rolling out configuration %s: %s", id, strings.Join(changes(kept, now, refs), ", "))
	}
	return controller.Result{}, nil
}

// firstWithin limits how long a new workload waits for its first configuration. It is some seconds because creationTimestamps are rounded
// down to one.
const firstWithin = 3 * time.Second

// Pending returns how long the controller of a new workload should wait, before it makes the first revision, until the template has the
// id of its configuration: it would be rolled out twice otherwise. It is 0 if nothing is to be waited for, and ends in any case: the
// objects that the workload follows may not exist yet.
func Pending(obj client.Object, template *corev1.PodTemplateSpec, now time.Time) time.Duration {
	if obj.GetAnnotations()[Annotation] == "" || template.Annotations[templateAnnotation] != "" {
		return 0
	}
	if n := len(followed.References(obj, template)); n == 0 || n > mostReferences {
		return 0
	}
	return max(0, obj.GetCreationTimestamp().Add(firstWithin).Sub(now))
}

// set makes a configuration that of the template, and the one that was set last.
func (r *reconciler[T]) set(ctx context.Context, obj T, id string) error {
	changed := obj.DeepCopyObject().(T)
	annotations := changed.GetAnnotations()
	annotations[observedAnnotation] = id
	template := r.template(changed)
	if template.Annotations == nil {
		template.Annotations = map[string]string{}
	}
	template.Annotations[templateAnnotation] = id
	_, err := client.Update(ctx, r.client, changed)
	return err
}

// used returns the ids of the configurations of a workload's revisions.
func (r *reconciler[T]) used(v client.View, obj T) []string {
	out := []string{r.template(obj).Annotations[templateAnnotation]}
	for _, template := range r.revisions(v, obj) {
		out = append(out, template.Annotations[templateAnnotation])
	}
	return out
}

// sameReferences says whether a configuration is of these references.
func sameReferences(c configuration, refs []followed.Reference) bool {
	if len(c) != len(refs) {
		return false
	}
	for _, ref := range refs {
		if _, ok := c[ref.String()]; !ok {
			return false
		}
	}
	return true
}

// changes names what differs between two configurations.
func changes(before, after configuration, refs []followed.Reference) (out []string) {
	for _, ref := range refs {
		if old, ok := before[ref.String()]; !ok || !old.equal(after[ref.String()]) {
			out = append(out, ref.String()+" changed")
		}
	}
	if len(out) == 0 {
		out = append(out, "the list of followed objects changed")
	}
	return out
}
