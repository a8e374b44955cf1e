// Package client gives typed access to the object service to components in the same process: controllers, the scheduler, the node
// sessions. It bypasses no rules: writes take the same path as all others, from defaulting on.
//
// There are no informers. A View is the whole state at one revision, taken in O(1); Get and List read it without copying, so the
// objects that they return are shared and READ-ONLY: DeepCopy them before changing them. ViewAndWatch provides a view and exactly
// the changes after it.
package client

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// Object is a versioned Kubernetes object (a pointer, such as *corev1.Pod).
type Object = registry.Object

// Client acts as one user, who may do everything unless the client is from As. It is safe for concurrent use.
type Client struct {
	objects *objects.Service
	user    user.Info
	manager string
	limited bool     // admission treats the user as one from outside
	indexes sync.Map // *Index[T] to *indexed
}

// New returns a client that acts as a user ("system:kube-scheduler"), with manager ("kube-scheduler") as the field manager of its
// changes.
func New(service *objects.Service, userName, manager string) *Client {
	return &Client{objects: service, user: &user.DefaultInfo{Name: userName, Groups: []string{user.AllAuthenticated}}, manager: manager}
}

// As returns a client whose writes are those of a user from outside: admission limits them to what the user may do. Whether the user may
// make a request at all is for the caller to decide.
func (c *Client) As(who user.Info) *Client {
	return &Client{objects: c.objects, user: who, manager: c.manager, limited: true}
}

// View is the state at one revision. It pins that state in memory: do not keep it longer than one reconciliation.
type View struct {
	kv.View
	client *Client
}

// View returns the present local state: on the leader, it contains every acknowledged write.
func (c *Client) View() View { return View{c.objects.Store().View(), c} }

// Consistent returns a local view that contains every write acknowledged before the call, on any master.
func (c *Client) Consistent(ctx context.Context) (View, error) {
	view, err := c.objects.Store().Consistent(ctx)
	return View{view, c}, err
}

func (c *Client) kindOf(t reflect.Type) *registry.Kind {
	kind, ok := c.objects.Kinds().ByType(t)
	if !ok {
		panic(fmt.Sprintf("client: %v is not a served kind", t)) // a programming error: the table is fixed
	}
	return kind
}

// decode returns false for an object that cannot be decoded; the object service returns the error to those who request the object.
func decode[T Object](v View, kind *registry.Kind, version *kv.Version) (T, bool) {
	obj, err := v.client.objects.Decode(kind, version)
	if err != nil {
		var none T
		return none, false
	}
	return obj.(T), true
}

// Get returns an object, which is shared and read-only. It returns false if there is none.
func Get[T Object](v View, namespace, name string) (T, bool) {
	kind := v.client.kindOf(reflect.TypeFor[T]())
	version, ok := v.View.Get(kind.Key(namespace, name))
	if !ok {
		var none T
		return none, false
	}
	return decode[T](v, kind, version)
}

// Each calls visit for the objects of a namespace ("" for all), in order of key, until visit returns false. The objects are shared
// and read-only.
func Each[T Object](v View, namespace string, visit func(T) bool) {
	kind := v.client.kindOf(reflect.TypeFor[T]())
	prefix := kind.NamespacePrefix(namespace)
	v.Range(prefix, kv.PrefixEnd(prefix), func(version *kv.Version) bool {
		obj, ok := decode[T](v, kind, version)
		return !ok || visit(obj)
	})
}

// List returns the objects of a namespace ("" for all) whose labels match; a nil selector matches all. They are shared and
// read-only.
func List[T Object](v View, namespace string, selector labels.Selector) []T {
	var out []T
	Each(v, namespace, func(obj T) bool {
		if selector == nil || selector.Matches(labels.Set(obj.GetLabels())) {
			out = append(out, obj)
		}
		return true
	})
	return out
}

// Event is one change of one object. Old is nil for a creation, New for a deletion; both are shared and read-only.
type Event struct {
	Revision uint64
	Old, New Object
}

// Object returns New, or Old if New is nil.
func (e Event) Object() Object {
	if e.New != nil {
		return e.New
	}
	return e.Old
}

// ViewAndWatch calls start with a view, and then more with the changes after it, in order of revision, to objects of the kinds
// (given as empty objects); the changes of one command come in one call. When it falls behind the history it starts again: start is
// called with a new view. It runs until ctx ends (then it returns ctx's error) or a callback returns an error.
func (c *Client) ViewAndWatch(ctx context.Context, kinds []Object, start func(View) error, more func([]Event) error) error {
	wanted := make(map[string]*registry.Kind, len(kinds))
	for _, obj := range kinds {
		kind := c.kindOf(reflect.TypeOf(obj))
		wanted[kind.Prefix()] = kind
	}
	prefix := "/"
	if len(wanted) == 1 {
		for only := range wanted {
			prefix = only
		}
	}
	for {
		err := c.viewAndWatch(ctx, prefix, wanted, c.event, start, more)
		if !errors.Is(err, kv.ErrCompacted) {
			return err
		}
	}
}

func (c *Client) viewAndWatch(ctx context.Context, prefix string, wanted map[string]*registry.Kind, decode func(*Kind, *kv.Event) (Event, error), start func(View) error, more func([]Event) error) error {
	view := c.View()
	watcher, err := c.objects.Store().Watch(prefix, view.Revision())
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := start(view); err != nil {
		return err
	}
	for {
		changes, _, err := watcher.Next(ctx)
		if err != nil {
			return err
		}
		if err := pass(changes, wanted, decode, more); err != nil {
			return err
		}
	}
}

// pass passes the changes of wanted kinds to more, if there are any.
func pass(changes []*kv.Event, wanted map[string]*registry.Kind, decode func(*Kind, *kv.Event) (Event, error), more func([]Event) error) error {
	var events []Event
	for i, change := range changes {
		kind, ok := wanted[kindPrefix(change.Current.Key)]
		if !ok {
			continue
		}
		event, err := decode(kind, change)
		if err != nil {
			return err
		}
		if events == nil { // changes of one batch are mostly of one kind
			events = make([]Event, 0, len(changes)-i)
		}
		events = append(events, event)
	}
	if len(events) == 0 {
		return nil
	}
	return more(events)
}

// kindPrefix returns the prefix /<group>/<resource>/ of a key.
func kindPrefix(key string) string {
	end := 1
	for range 2 {
		i := strings.IndexByte(key[end:], '/')
		if i < 0 {
			return ""
		}
		end += i + 1
	}
	return key[:end]
}

func (c *Client) event(kind *registry.Kind, change *kv.Event) (Event, error) {
	event := Event{Revision: change.Revision}
	var err error
	if change.Previous != nil {
		if event.Old, err = c.objects.Decode(kind, change.Previous); err != nil {
			return event, err
		}
	}
	if change.Type == kv.Put {
		if event.New, err = c.objects.Decode(kind, change.Current); err != nil {
			return event, err
		}
	}
	return event, nil
}

func (c *Client) request(obj Object, subresource string) *objects.Request {
	return &objects.Request{
		User: c.user, Kind: c.kindOf(reflect.TypeOf(obj)), Namespace: obj.GetNamespace(), Name: obj.GetName(),
		Subresource: subresource, FieldManager: c.manager, Trusted: !c.limited,
	}
}

// Create stores a new object and returns it. The caller must not use obj afterwards. Errors are Kubernetes API errors, here and
// below: test with apierrors.IsNotFound, IsConflict, IsAlreadyExists, ...
func Create[T Object](ctx context.Context, c *Client, obj T) (T, error) {
	created, err := c.objects.Create(ctx, c.request(obj, ""), obj)
	return as[T](created, err)
}

// Update replaces an object. With a resourceVersion it fails on a conflict; without one it replaces any version.
func Update[T Object](ctx context.Context, c *Client, obj T) (T, error) {
	updated, _, err := c.objects.Update(ctx, c.request(obj, ""), obj)
	return as[T](updated, err)
}

// UpdateStatus replaces only an object's status.
func UpdateStatus[T Object](ctx context.Context, c *Client, obj T) (T, error) {
	updated, _, err := c.objects.Update(ctx, c.request(obj, "status"), obj)
	return as[T](updated, err)
}

// UpdateSubresource writes through another subresource, such as "finalize".
func UpdateSubresource[T Object](ctx context.Context, c *Client, obj T, subresource string) (T, error) {
	updated, _, err := c.objects.Update(ctx, c.request(obj, subresource), obj)
	return as[T](updated, err)
}

// Patch applies a JSON merge, strategic merge or JSON patch to the object with obj's namespace and name.
func Patch[T Object](ctx context.Context, c *Client, obj T, patchType types.PatchType, data []byte, subresource string) (T, error) {
	patched, _, err := c.objects.Patch(ctx, c.request(obj, subresource), objects.Patch{Type: patchType, Data: data})
	return as[T](patched, err)
}

// Apply applies a configuration, in JSON or YAML, to the object with obj's namespace and name (server-side apply), and takes over
// fields from other managers. It creates the object if there is none.
func Apply[T Object](ctx context.Context, c *Client, obj T, configuration []byte) (T, error) {
	applied, _, err := c.objects.Patch(ctx, c.request(obj, ""), objects.Patch{Type: types.ApplyYAMLPatchType, Data: configuration, Force: true})
	return as[T](applied, err)
}

// DeleteOption changes how an object is deleted.
type DeleteOption func(*metav1.DeleteOptions)

// IfUID makes Delete fail if the object has another UID.
func IfUID(uid types.UID) DeleteOption {
	return func(o *metav1.DeleteOptions) {
		if o.Preconditions == nil {
			o.Preconditions = &metav1.Preconditions{}
		}
		o.Preconditions.UID = &uid
	}
}

// Grace sets the grace period.
func Grace(seconds int64) DeleteOption {
	return func(o *metav1.DeleteOptions) { o.GracePeriodSeconds = &seconds }
}

// Propagation sets what happens to dependents.
func Propagation(policy metav1.DeletionPropagation) DeleteOption {
	return func(o *metav1.DeleteOptions) { o.PropagationPolicy = &policy }
}

// Delete deletes the object with obj's type, namespace and name.
func (c *Client) Delete(ctx context.Context, obj Object, options ...DeleteOption) error {
	o := &metav1.DeleteOptions{}
	for _, option := range options {
		option(o)
	}
	_, _, err := c.objects.Delete(ctx, c.request(obj, ""), o)
	return err
}

// Evict deletes a pod, unless a disruption budget does not allow it; then the error is TooManyRequests.
func (c *Client) Evict(ctx context.Context, pod *corev1.Pod, options ...DeleteOption) error {
	o := &metav1.DeleteOptions{}
	for _, option := range options {
		option(o)
	}
	return c.objects.Evict(ctx, c.request(pod, "eviction"), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}, DeleteOptions: o})
}

// Bind assigns a pod to a node. It fails with a conflict if the pod is already assigned, is being deleted, or has another UID.
func (c *Client) Bind(ctx context.Context, pod *corev1.Pod, node string) error {
	return c.objects.Bind(ctx, c.request(pod, "binding"), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
}

// Binding assigns a pod to a node.
type Binding struct {
	Pod  *corev1.Pod
	Node string
}

// BindAll assigns pods to nodes with as few commands as possible. It returns an error for each, in order; nil for those that
// succeeded. One that fails, as Bind would, does not affect the others.
func (c *Client) BindAll(ctx context.Context, bindings []Binding) []error {
	return c.objects.BindAll(ctx, c.podBindings(bindings))
}

// BindTogether assigns all pods to nodes with one command, or none of them.
func (c *Client) BindTogether(ctx context.Context, bindings []Binding) error {
	return c.objects.BindTogether(ctx, c.podBindings(bindings))
}

func (c *Client) podBindings(bindings []Binding) []objects.PodBinding {
	out := make([]objects.PodBinding, len(bindings))
	for i, b := range bindings {
		out[i] = objects.PodBinding{Request: c.request(b.Pod, "binding"), Binding: &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: b.Pod.Namespace, Name: b.Pod.Name, UID: b.Pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: b.Node},
		}}
	}
	return out
}

// KindOf returns the row of an object's type in the table of kinds.
func (c *Client) KindOf(obj Object) *registry.Kind { return c.kindOf(reflect.TypeOf(obj)) }

// GetOf returns an object of any kind, which is shared and read-only.
func (v View) GetOf(kind *registry.Kind, namespace, name string) (Object, bool) {
	version, ok := v.View.Get(kind.Key(namespace, name))
	if !ok {
		return nil, false
	}
	return decode[Object](v, kind, version)
}

func as[T Object](obj Object, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	typed, ok := obj.(T)
	if !ok {
		return typed, apierrors.NewInternalError(fmt.Errorf("the answer is a %T", obj))
	}
	return typed, nil
}
