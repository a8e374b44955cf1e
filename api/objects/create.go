package objects

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage/names"

	"github.com/kontiki/kontiki/api/objects/managed"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// maxNameTries is how many generated names are tried if they are taken (KEP-4420).
const maxNameTries = 8

// maxAttempts limits how often a write is prepared again because the state has changed meanwhile. Each time some other write
// succeeded, so many writers of one object make progress; normally the request's own deadline ends the attempts.
const maxAttempts = 1000

// Create stores a new object and returns it. The caller must not use obj afterwards.
func (s *Service) Create(ctx context.Context, r *Request, obj registry.Object) (registry.Object, error) {
	return s.create(ctx, r, obj, false)
}

func (s *Service) create(ctx context.Context, r *Request, obj registry.Object, applied bool) (created registry.Object, err error) {
	began := r.Received
	if began.IsZero() {
		began = time.Now()
	}
	ctx, span := s.traced(ctx, r)
	defer func() { span.End(err) }()
	r = r.withMemo()
	if err := checkScope(r, obj); err != nil {
		return nil, err
	}
	if obj.GetResourceVersion() != "" {
		return nil, InField("metadata.resourceVersion", apierrors.NewBadRequest("resourceVersion should not be set on objects to be created"))
	}
	if err := checkGivenSize(obj); err != nil {
		return nil, err
	}
	ctx = r.context(ctx, "create")
	if !r.Kind.Stored() {
		return s.answer(ctx, r, obj)
	}
	generated := obj.GetName() == "" && obj.GetGenerateName() != ""
	attempt := r.attempts(obj)
	view := s.store.View()
	name, taken := obj.GetName(), generated // the name has not been generated yet, or is taken
	var first *identity
	for try := 0; ; try++ {
		if taken {
			taken = false
			name = names.SimpleNameGenerator.GenerateName(obj.GetGenerateName())
		}
		candidate, err := attempt()
		if err != nil {
			return nil, err
		}
		if candidate, err = s.prepareNew(r, candidate, name, applied); err != nil {
			return nil, err
		}
		first = first.keep(candidate)
		request := *r
		request.Name = candidate.GetName()
		created, err := s.createOnce(ctx, &request, candidate, view, began)
		switch {
		case err == nil:
			return created, nil
		case errors.Is(err, errRetry) && try < maxAttempts:
		case apierrors.IsAlreadyExists(err) && generated && try+1 < maxNameTries:
			taken = true
		case apierrors.IsAlreadyExists(err) && generated:
			return nil, apierrors.NewGenerateNameConflict(r.Kind.GroupResource(), request.Name, 1)
		case errors.Is(err, errRetry):
			return nil, conflict(&request)
		case try > 0 || ctx.Err() != nil || outcomeUnknown(err), apierrors.IsAlreadyExists(err) && !r.DryRun:
			return nil, err
		default: // the first view was the local one, which may be behind: decide again on a consistent one
			fresh, viewErr := s.readView(ctx)
			if viewErr != nil || fresh.Revision() == view.Revision() {
				return nil, err
			}
			view = fresh
			continue
		}
		if view, err = s.readView(ctx); err != nil {
			return nil, err
		}
	}
}

// identity is what the first attempt of a creation gives an object. The others give it the same: the object is one, and steps that are
// called once for each content see no other.
type identity struct {
	uid     types.UID
	created metav1.Time
	managed []metav1.ManagedFieldsEntry
}

// keep gives an object the identity, or returns the object's if there is none yet.
func (i *identity) keep(obj registry.Object) *identity {
	if i == nil {
		return &identity{obj.GetUID(), obj.GetCreationTimestamp(), slices.Clone(obj.GetManagedFields())}
	}
	obj.SetUID(i.uid)
	obj.SetCreationTimestamp(i.created)
	obj.SetManagedFields(slices.Clone(i.managed))
	return i
}

// restore undoes what a webhook has changed of what the cluster chooses for a new object. A webhook must not give it another name.
func (i identity) restore(r *Request, obj registry.Object) error {
	if obj.GetName() != r.Name || obj.GetNamespace() != r.Namespace && r.Kind.Namespaced {
		return apierrors.NewInternalError(fmt.Errorf("admission has changed the name of the object from %q to %q: it must stay", r.Namespace+"/"+r.Name, obj.GetNamespace()+"/"+obj.GetName()))
	}
	created := obj.GetCreationTimestamp()
	if obj.GetUID() == i.uid && created.Equal(&i.created) && obj.GetResourceVersion() == "" && obj.GetDeletionTimestamp() == nil &&
		obj.GetDeletionGracePeriodSeconds() == nil && obj.GetGeneration() == 0 && obj.GetSelfLink() == "" {
		return nil
	}
	obj.SetUID(i.uid)
	obj.SetCreationTimestamp(i.created)
	obj.SetResourceVersion("")
	stampBare(obj)
	return nil
}

// prepareNew returns an object that a client sent, as admission and the kind's rules get it.
func (s *Service) prepareNew(r *Request, obj registry.Object, name string, applied bool) (registry.Object, error) {
	if err := checkScope(r, obj); err != nil { // sets the namespace
		return nil, err
	}
	obj, err := defaulted(r.Kind, obj)
	if err != nil {
		return nil, err
	}
	s.stampNew(obj)
	if !applied {
		if obj, err = s.managed.Track(r.managed(), obj, managed.Empty(r.Kind)); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	obj.SetName(name)
	return obj, nil
}

// defaulted returns a client's object with defaults, in the form that its conversions leave. They move fields: stringData of a Secret
// into data, for example. Managers own the fields that result, not those that were sent. obj must not be used afterwards.
func defaulted(kind *registry.Kind, obj registry.Object) (registry.Object, error) {
	kind.Codec.Default(obj)
	internal, err := kind.ToInternal(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if obj, err = kind.FromInternal(internal); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

// answer returns the answer to a creation of what is not stored.
func (s *Service) answer(ctx context.Context, r *Request, obj registry.Object) (registry.Object, error) {
	creator, ok := s.creators[r.Kind.GroupResource()]
	if !ok {
		return nil, apierrors.NewMethodNotSupported(r.Kind.GroupResource(), "create")
	}
	r.Kind.Codec.Default(obj)
	obj.GetObjectKind().SetGroupVersionKind(r.Kind.GVK())
	a := &Attributes{Request: r, Operation: OpCreate, Object: obj, ObjectKind: r.Kind.GVK()}
	if err := s.Admit(ctx, a); err != nil {
		return nil, err
	}
	return creator(ctx, r, a.Object.(registry.Object))
}

func (s *Service) createOnce(ctx context.Context, r *Request, obj registry.Object, view kv.View, began time.Time) (registry.Object, error) {
	ops := make([]kv.Op, 1, 4)
	if r.Kind.Namespaced {
		check, err := s.checkNamespace(r, view)
		if err != nil {
			return nil, err
		}
		ops = append(ops, check)
	}
	if life := r.Kind.Life; life != nil {
		guard, err := life.Guard(view)
		if err != nil {
			return nil, err
		}
		ops = append(ops, guard)
	}
	attributes := &Attributes{Request: r, Operation: OpCreate, Object: obj, ObjectKind: r.Kind.GVK(), View: view}
	given := identity{uid: obj.GetUID(), created: obj.GetCreationTimestamp()}
	if err := s.mutate(ctx, attributes); err != nil {
		return nil, err
	}
	obj = attributes.Object.(registry.Object)
	if err := given.restore(r, obj); err != nil {
		return nil, err
	}
	if err := s.checkEscalation(ctx, attributes); err != nil {
		return nil, err
	}
	keepTrace(ctx, r, obj, nil)
	dropDuplicateOwners(r, obj)
	internal, err := r.Kind.ToInternal(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if r.Warn != nil && r.Kind.WarnGiven != nil {
		for _, text := range r.Kind.WarnGiven(internal) {
			r.warn("%s", text)
		}
	}
	if r.Kind.PrepareCreate != nil {
		r.Kind.PrepareCreate(ctx, internal)
	}
	if obj, internal, err = s.fill(r, view, internal, nil); err != nil {
		return nil, err
	}
	if errs := r.Kind.ValidateCreate(ctx, internal, obj); len(errs) > 0 {
		return nil, Invalid(r.Kind.GVK().GroupKind(), r.Name, errs)
	}
	if r.Warn != nil && r.Kind.WarnCreate != nil {
		for _, text := range r.Kind.WarnCreate(ctx, internal) {
			r.warn("%s", text)
		}
	}
	attributes.Object = obj
	if err := s.validate(ctx, attributes); err != nil {
		return nil, err
	}
	key := r.Kind.Key(r.Namespace, r.Name)
	if r.DryRun {
		if _, exists := view.Get(key); exists {
			return nil, apierrors.NewAlreadyExists(r.Kind.GroupResource(), r.Name)
		}
	}
	allocated, err := s.allocate(r, view, obj, nil)
	if err != nil {
		return nil, err
	}
	value, err := s.encode(r.Kind, key, obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := checkSize(value); err != nil {
		return nil, err
	}
	joined, err := s.charge(ctx, r, view, nil, obj)
	if err != nil {
		return nil, err
	}
	joined = append(attributes.joined, joined...)
	if r.DryRun {
		return obj, nil
	}
	ops[0] = kv.Op{Key: key, Value: value, Cond: kv.Absent}
	ops = withJoined(guarded(append(ops, allocated...), value), joined)
	proposed := time.Now()
	result, err := s.propose(ctx, r, ops)
	if err != nil {
		return nil, err
	}
	if result.Failed != nil {
		if result.Failed.Index == 0 {
			return nil, apierrors.NewAlreadyExists(r.Kind.GroupResource(), r.Name)
		}
		return nil, joinedFailure(result.Failed, len(ops), joined)
	}
	obj.SetResourceVersion(FormatRevision(result.Revisions[0]))
	s.keepJSON(r.Kind, obj)
	if pod, ok := obj.(*corev1.Pod); ok && s.timeline != nil {
		s.noteCreated(pod, began, proposed)
	}
	return obj, nil
}

// stampNew sets the fields that the cluster chooses for a new object, and clears those that only the cluster may set.
func (s *Service) stampNew(obj registry.Object) {
	obj.SetUID(s.newUID())
	obj.SetCreationTimestamp(s.timestamp())
	stampBare(obj)
}

// stampBare clears the fields that only the cluster may set later.
func stampBare(obj registry.Object) {
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetGeneration(0)
}

// checkScope refuses an object whose namespace is not the request's.
func checkScope(r *Request, obj registry.Object) error {
	if !r.Kind.Namespaced {
		obj.SetNamespace("")
		return nil
	}
	if r.Namespace == "" {
		return InField("metadata.namespace", apierrors.NewBadRequest("an empty namespace may not be set during creation"))
	}
	switch obj.GetNamespace() {
	case "":
		obj.SetNamespace(r.Namespace)
	case r.Namespace:
	default:
		return InField("metadata.namespace", apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request"))
	}
	return nil
}

// checkNamespace refuses creations in a namespace that is absent or terminating (upstream's NamespaceLifecycle), and returns the
// check operation that ensures this when the command is applied.
func (s *Service) checkNamespace(r *Request, view kv.View) (kv.Op, error) {
	kind, _ := s.Kinds().ByGroupResource("", "namespaces")
	key := kind.Key("", r.Namespace)
	v, ok := view.Get(key)
	if !ok {
		return kv.Op{}, apierrors.NewNotFound(kind.GroupResource(), r.Namespace)
	}
	obj, err := s.Decode(kind, v)
	if err != nil {
		return kv.Op{}, apierrors.NewInternalError(err)
	}
	if obj.GetDeletionTimestamp() != nil {
		err := apierrors.NewForbidden(r.Kind.GroupResource(), r.Name,
			fmt.Errorf("unable to create new content in namespace %s because it is being terminated", r.Namespace))
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", r.Namespace), Field: "metadata.namespace",
		})
		return kv.Op{}, err
	}
	// Only a write to the namespace can mark it as terminating: so the creation requires the namespace to be at the revision that
	// was read. With the condition "exists" a creation could come between the last check of the namespace's content and its
	// removal.
	return kv.Op{Key: key, Check: true, Cond: kv.AtRevision, Revision: v.ModRevision}, nil
}

func (s *Service) allocate(r *Request, view kv.View, obj, old registry.Object) ([]kv.Op, error) {
	allocator, ok := s.allocators[r.Kind.GroupResource()]
	if !ok {
		return nil, nil
	}
	return allocator.Allocate(view, obj, old, r.DryRun)
}

// fill returns a prepared object in both forms, with the values that its allocator chooses before validation.
func (s *Service) fill(r *Request, view kv.View, internal runtime.Object, old registry.Object) (registry.Object, runtime.Object, error) {
	obj, err := r.Kind.FromInternal(internal)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	filler, ok := s.allocators[r.Kind.GroupResource()].(Filler)
	if !ok || r.Subresource != "" {
		return obj, internal, nil
	}
	if err := filler.Fill(view, obj, old); err != nil {
		return nil, nil, err
	}
	if internal, err = r.Kind.ToInternal(obj); err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	return obj, internal, nil
}

func checkSize(value []byte) error {
	if len(value) > MaxObjectBytes {
		return errTooLarge(len(value))
	}
	return nil
}

func errTooLarge(size int) error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the object is %d bytes when stored, the limit is %d", size, MaxObjectBytes))
}

// expired says whether a graceful deletion has nothing left to wait for.
func expired(obj registry.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if grace := obj.GetDeletionGracePeriodSeconds(); grace != nil && *grace > 0 {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		return len(ns.Spec.Finalizers) == 0
	}
	return true
}

func without(list []string, drop ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
}

func secondsFrom(t metav1.Time, seconds int64) *metav1.Time {
	later := metav1.NewTime(t.Add(time.Duration(seconds) * time.Second))
	return &later
}
