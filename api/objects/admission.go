package objects

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/tracing"
)

// Step is one admission step. The service runs steps in the order of its table: first every Mutate, then, once the object has its
// final form, every Validate, and last every Charge. Nil functions do nothing.
type Step struct {
	// Name is upstream's name of the plugin.
	Name string
	// Handles says whether Mutate and Validate concern a request; nil means every request.
	Handles func(a *Attributes) bool
	// Mutate runs after defaulting and before validation. It may change or replace a.Object.
	Mutate func(ctx context.Context, a *Attributes) error
	// Validate runs after validation. It may not change objects.
	Validate func(ctx context.Context, a *Attributes) error
	// Charge runs for every write of a stored object, also for those that are parts of other requests (the binding of a pod, the
	// deletion by an eviction) or follow from them (the removal of an object with its last finalizer). a.Old and a.Object are the
	// object before and after the write; nil where it does not exist. It adds to the write's command by Join.
	Charge func(ctx context.Context, a *Attributes) error
	// Once makes the service call Mutate and Validate once for each content of an object, although it prepares a write again when
	// the state has changed meanwhile (the condition of another key, a counter): for steps that call others, such as webhooks.
	Once bool
}

// Operation is the kind of a request.
type Operation string

// The operations that admission sees. Connect is for requests that open a connection (exec, attach, portforward, proxy).
const (
	OpCreate  Operation = "CREATE"
	OpUpdate  Operation = "UPDATE"
	OpDelete  Operation = "DELETE"
	OpConnect Operation = "CONNECT"
)

// Attributes describe a request to admission.
type Attributes struct {
	*Request
	Operation Operation
	// Object is what the request writes: a versioned object of the request's kind, or of a subresource's own kind (Binding, Eviction,
	// Scale, TokenRequest, PodExecOptions, ...). It is nil for a deletion.
	Object runtime.Object
	// ObjectKind is the kind of Object and Old.
	ObjectKind schema.GroupVersionKind
	// Old is what is stored, read-only; nil for a creation and a connection.
	Old runtime.Object
	// DeleteOptions are the options of a deletion.
	DeleteOptions *metav1.DeleteOptions
	// View is the state that the write is prepared against.
	View kv.View

	service      *Service
	joined       []joinedOp
	reinvocation *Reinvocation
}

// Reinvocation is what the steps of one request know of each other's changes, so that those that ask for it are called once more if others
// have changed the object after them. It has the methods of upstream's interface of that name (k8s.io/apiserver/pkg/admission).
type Reinvocation struct {
	again, wanted bool
	values        map[string]any
}

// Reinvocation returns the request's.
func (a *Attributes) Reinvocation() *Reinvocation {
	if a.reinvocation == nil {
		a.reinvocation = &Reinvocation{}
	}
	return a.reinvocation
}

// IsReinvoke says whether this is the second round.
func (r *Reinvocation) IsReinvoke() bool { return r.again }

// SetIsReinvoke begins the second round.
func (r *Reinvocation) SetIsReinvoke() { r.again = true }

// ShouldReinvoke says whether a step wants a second round.
func (r *Reinvocation) ShouldReinvoke() bool { return r.wanted }

// SetShouldReinvoke asks for a second round.
func (r *Reinvocation) SetShouldReinvoke() { r.wanted = true }

// SetValue keeps something for a step until the second round.
func (r *Reinvocation) SetValue(step string, v any) {
	if r.values == nil {
		r.values = map[string]any{}
	}
	r.values[step] = v
}

// Value returns what a step has kept, nil if nothing.
func (r *Reinvocation) Value(step string) any { return r.values[step] }

// joinedOp is an operation that a step added to the command.
type joinedOp struct {
	op     kv.Op
	failed func(*kv.Failure) error
}

// Join adds an operation to the write's command. If its condition does not hold when the command is applied, nothing is stored, and the
// request fails with the error that failed returns; if failed is nil, the write is prepared again. A key may be joined once.
func (a *Attributes) Join(op kv.Op, failed func(*kv.Failure) error) {
	a.joined = append(a.joined, joinedOp{op, failed})
}

// Options returns the options of the request, as webhooks see them.
func (a *Attributes) Options() runtime.Object {
	var dryRun []string
	if a.DryRun {
		dryRun = []string{metav1.DryRunAll}
	}
	switch a.Operation {
	case OpCreate:
		return &metav1.CreateOptions{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "CreateOptions"}, DryRun: dryRun, FieldManager: a.FieldManager}
	case OpUpdate:
		return &metav1.UpdateOptions{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "UpdateOptions"}, DryRun: dryRun, FieldManager: a.FieldManager}
	case OpDelete:
		options := a.DeleteOptions.DeepCopy()
		options.TypeMeta = metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "DeleteOptions"}
		return options
	}
	return nil
}

// Is says whether the request is for a resource and subresource ("" for the main resource).
func (a *Attributes) Is(resource schema.GroupResource, subresource string) bool {
	return a.Subresource == subresource && a.Kind.GroupResource() == resource
}

// Forbid returns the error that refuses the request, in upstream's form.
func (a *Attributes) Forbid(format string, args ...any) error {
	name := a.Name
	if named, ok := a.Object.(metav1.Object); ok && name == "" {
		name = named.GetGenerateName()
	}
	if name == "" {
		name = "Unknown"
	}
	return apierrors.NewForbidden(a.Kind.GroupResource(), name, fmt.Errorf(format, args...))
}

// Kinds returns the table of kinds.
func (a *Attributes) Kinds() *registry.Table { return a.service.Kinds() }

// Warn adds a warning to the response.
func (a *Attributes) Warn(format string, args ...any) { a.warn(format, args...) }

// Stored returns an object from the state that a write is prepared against, read-only; false if there is none.
func Stored[T registry.Object](a *Attributes, namespace, name string) (obj T, ok bool, err error) {
	kind, served := a.service.Kinds().ByType(reflect.TypeFor[T]())
	if !served {
		return obj, false, nil
	}
	v, ok := a.View.Get(kind.Key(namespace, name))
	if !ok {
		return obj, false, nil
	}
	return decodeAs[T](a.service, kind, v)
}

// Service returns the service that carries out the write; within a transaction, it is on the transaction's overlay.
func (a *Attributes) Service() *Service { return a.service }

// EachStored calls visit for the objects of a namespace ("" for all) in the state that a write is prepared against, read-only, until it
// returns false.
func EachStored[T registry.Object](a *Attributes, namespace string, visit func(T) bool) (err error) {
	kind, served := a.service.Kinds().ByType(reflect.TypeFor[T]())
	if !served {
		return nil
	}
	prefix := kind.NamespacePrefix(namespace)
	a.View.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		var obj T
		if obj, _, err = decodeAs[T](a.service, kind, v); err != nil {
			return false
		}
		return visit(obj)
	})
	return err
}

// AwaitStored is Stored for an object that is about to be created: it waits for it.
func AwaitStored[T registry.Object](ctx context.Context, a *Attributes, namespace, name string, patience time.Duration) (obj T, ok bool, err error) {
	if obj, ok, err = Stored[T](a, namespace, name); ok || err != nil {
		return obj, ok, err
	}
	kind, served := a.service.Kinds().ByType(reflect.TypeFor[T]())
	if !served {
		return obj, false, nil
	}
	key := kind.Key(namespace, name)
	_ = a.await(ctx, key, patience, func(event *kv.Event) bool {
		if event.Type == kv.Put {
			obj, ok, err = decodeAs[T](a.service, kind, event.Current)
		}
		return event.Type == kv.Put
	})
	return obj, ok, err
}

// AwaitChange waits until a key has changed since the state that the write is prepared against; false if that takes too long.
func (a *Attributes) AwaitChange(ctx context.Context, key string, patience time.Duration) (changed bool) {
	err := a.await(ctx, key, patience, func(*kv.Event) bool {
		changed = true
		return true
	})
	return changed || errors.Is(err, kv.ErrCompacted)
}

// await calls changed with the changes of a key since the write's view, until it returns true or there was enough time. In a
// transaction there are none: nothing more comes into its view.
func (a *Attributes) await(ctx context.Context, key string, patience time.Duration, changed func(*kv.Event) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	watcher, err := a.service.store.Watch(key, a.View.Revision())
	if err != nil {
		return err
	}
	defer watcher.Close()
	for {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return err
		}
		for _, event := range events {
			if event.Current.Key == key && changed(event) {
				return nil
			}
		}
	}
}

func decodeAs[T registry.Object](s *Service, kind *registry.Kind, v *kv.Version) (obj T, ok bool, err error) {
	decoded, err := s.Decode(kind, v)
	if err != nil {
		return obj, false, apierrors.NewInternalError(err)
	}
	obj, ok = decoded.(T)
	return obj, ok, nil
}

// Admit runs the steps for a request that stores nothing (a token, a connection).
func (s *Service) Admit(ctx context.Context, a *Attributes) error {
	a.View = s.store.View()
	if err := s.mutate(ctx, a); err != nil {
		return err
	}
	return s.validate(ctx, a)
}

func (s *Service) mutate(ctx context.Context, a *Attributes) error {
	err := s.run(ctx, a, "mutate", func(step *Step) phase { return step.Mutate })
	if err != nil || a.reinvocation == nil || !a.reinvocation.wanted {
		return err
	}
	a.reinvocation.again = true
	return s.run(ctx, a, "mutate again", func(step *Step) phase { return step.Mutate })
}

func (s *Service) validate(ctx context.Context, a *Attributes) error {
	return s.run(ctx, a, "validate", func(step *Step) phase { return step.Validate })
}

// phase is what a step does in a phase of admission.
type phase func(context.Context, *Attributes) error

// run runs one phase of the steps that handle the request.
func (s *Service) run(ctx context.Context, a *Attributes, name string, of func(*Step) phase) error {
	began := time.Now()
	ctx, span := tracing.Start(ctx, "admission", name)
	by, err := s.runSteps(ctx, a, name, of)
	span.End(err)
	kind := "admit"
	if name == "validate" {
		kind = name
	}
	s.metrics.Admitted(kind, string(a.Operation), by, time.Since(began))
	return err
}

// runSteps runs one phase, and returns the name of the step that refused the request.
func (s *Service) runSteps(ctx context.Context, a *Attributes, name string, of func(*Step) phase) (by string, err error) {
	a.service = s
	for i := range s.admission {
		step := &s.admission[i]
		do := of(step)
		if do == nil || step.Handles != nil && !step.Handles(a) {
			continue
		}
		if step.Once {
			err = a.memo.once(ctx, a, step.Name, name, do)
		} else {
			err = do(ctx, a)
		}
		if err != nil {
			return step.Name, err
		}
	}
	return "", nil
}

// charge returns what the steps add to the command of a write that leaves the object as it is after; nil before or after means that
// it does not exist then.
func (s *Service) charge(ctx context.Context, r *Request, view kv.View, before, after registry.Object) ([]joinedOp, error) {
	a := &Attributes{Request: r, ObjectKind: r.Kind.GVK(), View: view, Operation: OpUpdate, service: s}
	if before == nil {
		a.Operation = OpCreate
	} else {
		a.Old = before
	}
	if after == nil {
		a.Operation = OpDelete
	} else {
		a.Object = after
	}
	for i := range s.admission {
		if charge := s.admission[i].Charge; charge != nil {
			if err := charge(ctx, a); err != nil {
				return nil, err
			}
		}
	}
	return a.joined, nil
}

// memo remembers, for one request, what the steps that are called once did.
type memo struct {
	entries map[string]memoEntry
}

type memoEntry struct {
	in, out, old runtime.Object
	joined       []joinedOp
	err          error
	wanted       bool // a second round
	value        any  // what the step kept for it
}

// once calls a step in a phase, unless it was called before for the same object and the same stored one: then it repeats the effect, also
// that of an error.
func (m *memo) once(ctx context.Context, a *Attributes, step, name string, do phase) error {
	if m == nil {
		return do(ctx, a)
	}
	in := copyOf(a.Object)
	key := step + " " + name
	if e, ok := m.entries[key]; ok && sameContent(e.in, in) && sameContent(e.old, a.Old) {
		a.Object = copyOf(e.out)
		a.joined = append(a.joined, e.joined...)
		if e.wanted {
			a.Reinvocation().SetShouldReinvoke()
		}
		if e.value != nil {
			a.Reinvocation().SetValue(step, e.value)
		}
		return e.err
	}
	joined := len(a.joined)
	err := do(ctx, a)
	if errors.Is(err, errRetry) || ctx.Err() != nil {
		return err
	}
	if m.entries == nil {
		m.entries = map[string]memoEntry{}
	}
	e := memoEntry{in: in, out: copyOf(a.Object), old: a.Old, joined: append([]joinedOp(nil), a.joined[joined:]...), err: err}
	if r := a.reinvocation; r != nil {
		e.wanted, e.value = r.wanted, r.Value(step)
	}
	m.entries[key] = e
	return err
}

func copyOf(obj runtime.Object) runtime.Object {
	if obj == nil {
		return nil
	}
	return obj.DeepCopyObject()
}

// sameContent compares objects, but for managed fields: these have the time of the attempt.
func sameContent(a, b runtime.Object) bool {
	return apiequality.Semantic.DeepEqual(unmanaged(a), unmanaged(b))
}

func unmanaged(obj runtime.Object) runtime.Object {
	if managed, ok := obj.(metav1.Object); ok && len(managed.GetManagedFields()) > 0 {
		obj = obj.DeepCopyObject()
		obj.(metav1.Object).SetManagedFields(nil)
	}
	return obj
}

// withMemo returns the request with a memory for all attempts to carry it out.
func (r *Request) withMemo() *Request {
	if r.memo != nil {
		return r
	}
	remembers := *r
	remembers.memo = new(memo)
	return &remembers
}

// withJoined returns a command's operations with those that steps joined.
func withJoined(ops []kv.Op, joined ...[]joinedOp) []kv.Op {
	for _, list := range joined {
		for i := range list {
			ops = append(ops, list[i].op)
		}
	}
	return ops
}

// joinedFailure returns why a command failed because of a joined operation; joined are the last operations of the command. It returns
// errRetry if the write is to be prepared again.
func joinedFailure(f *kv.Failure, commandOps int, joined []joinedOp) error {
	if at := f.Index - (commandOps - len(joined)); at >= 0 {
		if failed := joined[at].failed; failed != nil {
			return failed(f)
		}
	}
	return errRetry
}
