package webhooks

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kmanaged "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	webhookrequest "k8s.io/apiserver/pkg/admission/plugin/webhook/request"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	kjson "sigs.k8s.io/json"

	"github.com/kontiki/kontiki/api/extension/admission/attributes"
)

// Name is upstream's name of the step.
const Name = "MutatingAdmissionWebhook"

// reinvocation is what the first round of a request keeps for the second.
type reinvocation struct {
	output    runtime.Object
	invoked   sets.Set[string] // webhooks that were called, and want to be called again if others change the object
	reinvoked sets.Set[string] // those that are to be called again
}

// changed notes that the object has changed: the webhooks that were called before are to be called again.
func (r *reinvocation) changed() {
	r.reinvoked = r.reinvoked.Union(r.invoked)
	r.invoked = sets.New[string]()
}

// Mutate calls the mutating webhooks that match a request one after the other, in their order, and applies their patches. In the second round
// only those are called that want it (reinvocationPolicy), and only if the object has changed after them.
func Mutate(ctx context.Context, c Calls, attr *attributes.Attributes, o admission.ObjectInterfaces, matches []Match) error {
	rounds := attr.Request().Reinvocation()
	m := &mutation{attr: attr, interfaces: o, state: &reinvocation{}}
	if before, ok := rounds.Value(Name).(*reinvocation); ok {
		m.state = &reinvocation{before.output, before.invoked.Clone(), before.reinvoked.Clone()}
	}
	if rounds.IsReinvoke() {
		m.round = 1
		if !apiequality.Semantic.DeepEqual(m.state.output, attr.GetObject()) {
			m.state.changed()
		}
	}
	fields := managedFieldsOf(attr.GetObject())
	for place, match := range matches {
		if err := m.visit(ctx, c, match, place); err != nil {
			return err
		}
	}
	if m.versioned != nil && m.versioned.Dirty && m.versioned.VersionedObject.Object() != nil {
		if err := o.GetObjectConvertor().Convert(m.versioned.VersionedObject.Object(), attr.GetObject(), nil); err != nil {
			return apierrors.NewInternalError(err)
		}
		keepManagedFields(attr, fields)
	}
	if obj := attr.GetObject(); obj != nil {
		m.state.output = obj.DeepCopyObject()
	}
	rounds.SetValue(Name, m.state)
	return nil
}

// mutation is one round of the mutating webhooks of a request.
type mutation struct {
	attr       *attributes.Attributes
	interfaces admission.ObjectInterfaces
	versioned  *admission.VersionedAttributes // the object in the version that the last webhook wanted; nil before the first
	state      *reinvocation
	round      int
}

// version returns the request with its object, as it is now, in a version.
func (m *mutation) version(kind schema.GroupVersionKind) (*admission.VersionedAttributes, error) {
	var err error
	if m.versioned == nil {
		m.versioned, err = admission.NewVersionedAttributes(m.attr, kind, m.interfaces)
	} else {
		err = admission.ConvertVersionedAttributes(m.versioned, kind, m.interfaces)
	}
	return m.versioned, err
}

// visit calls a webhook, if it is to be called.
func (m *mutation) visit(ctx context.Context, c Calls, match Match, place int) error {
	var now admission.Attributes = m.attr
	if m.versioned != nil {
		now = m.versioned
	}
	invocation, err := match.invocation(ctx, c, m.attr, now, m.version)
	if err != nil || invocation == nil {
		return err
	}
	h := match.Hook
	if m.round > 0 && !m.state.reinvoked.Has(h.GetUID()) {
		return nil
	}
	versioned, err := m.version(match.Kind)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	began := time.Now()
	changed := false
	result, err := h.call(ctx, invocation, versioned)
	if err == nil {
		changed, err = m.apply(h, result, place)
	}
	ignored := h.observe(ctx, versioned, time.Since(began), err)
	m.annotate("mutation", place, auditinternal.LevelMetadata, mutationAnnotation{h.GetConfigurationName(), h.GetName(), changed})
	if changed {
		m.state.changed()
		m.attr.Request().Reinvocation().SetShouldReinvoke()
	}
	if policy := h.mutating.ReinvocationPolicy; policy != nil && *policy == registrationv1.IfNeededReinvocationPolicy {
		if m.state.invoked == nil {
			m.state.invoked = sets.New[string]()
		}
		m.state.invoked.Insert(h.GetUID())
	}
	if ignored {
		_ = m.attr.AddAnnotation(fmt.Sprintf("failed-open.mutation.webhook.admission.k8s.io/round_%d_index_%d", m.round, place), h.GetName())
		return overdue(ctx)
	}
	return answerOf(err)
}

// apply applies a webhook's patch, and says whether it has changed the object.
func (m *mutation) apply(h *Hook, result *webhookrequest.AdmissionResponse, place int) (changed bool, err error) {
	if len(result.Patch) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(result.Patch)
	if err != nil {
		return false, &webhookutil.ErrCallingWebhook{WebhookName: h.GetName(), Reason: fmt.Errorf("received undecodable patch in webhook response: %w", err),
			Status: apierrors.NewServiceUnavailable("error decoding patch in webhook response")}
	}
	before := m.versioned.VersionedObject.Object()
	switch {
	case len(patch) == 0:
		return false, nil
	case before == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.GetName()))
	case result.PatchType != admissionv1.PatchTypeJSONPatch:
		return false, &webhookutil.ErrCallingWebhook{WebhookName: h.GetName(), Reason: fmt.Errorf("unsupported patch type %q", result.PatchType),
			Status: apierrors.NewServiceUnavailable("unsupported patch type in webhook response")}
	}
	after, err := m.patched(before, patch)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	changed = !apiequality.Semantic.DeepEqual(before, after)
	m.annotate("patch", place, auditinternal.LevelRequest, patchAnnotation{h.GetConfigurationName(), h.GetName(), patch, string(result.PatchType)})
	m.versioned.UpdateObject(after)
	m.interfaces.GetObjectDefaulter().Default(after)
	return changed, nil
}

// Bounds of patches. One patch may copy a value many times.
const (
	maxPatchOperations = 10_000 // as for clients' patches
	maxPatchedBytes    = 3 << 20
)

// patched returns a patched copy of an object.
func (m *mutation) patched(before runtime.Object, patch jsonpatch.Patch) (runtime.Object, error) {
	if len(patch) > maxPatchOperations {
		return nil, fmt.Errorf("the patch has %d operations, the limit is %d", len(patch), maxPatchOperations)
	}
	document, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	if document, err = patch.Apply(document); err != nil {
		return nil, err
	}
	if len(document) > maxPatchedBytes {
		return nil, fmt.Errorf("the patched object has %d bytes, the limit is %d", len(document), maxPatchedBytes)
	}
	kind := m.versioned.VersionedKind
	if _, custom := before.(*unstructured.Unstructured); custom {
		after := &unstructured.Unstructured{}
		if err := kjson.UnmarshalCaseSensitivePreserveInts(document, &after.Object); err != nil {
			return nil, err
		}
		if after.GroupVersionKind() != kind {
			return nil, fmt.Errorf("the patch has changed the type from %s to %s", kind, after.GroupVersionKind())
		}
		return after, nil
	}
	after, err := m.interfaces.GetObjectCreater().New(kind)
	if err != nil {
		return nil, err
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(document, after); err != nil {
		return nil, err
	}
	if got := after.GetObjectKind().GroupVersionKind(); got != kind {
		return nil, fmt.Errorf("the patch has changed the type from %s to %s", kind, got)
	}
	return after, nil
}

// The values of audit annotations, in upstream's form.
type (
	mutationAnnotation struct {
		Configuration string `json:"configuration"`
		Webhook       string `json:"webhook"`
		Mutated       bool   `json:"mutated"`
	}
	patchAnnotation struct {
		Configuration string          `json:"configuration"`
		Webhook       string          `json:"webhook"`
		Patch         jsonpatch.Patch `json:"patch,omitempty"`
		PatchType     string          `json:"patchType,omitempty"`
	}
)

func (m *mutation) annotate(prefix string, place int, level auditinternal.Level, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		return
	}
	_ = m.attr.AddAnnotationWithLevel(fmt.Sprintf("%s.webhook.admission.k8s.io/round_%d_index_%d", prefix, m.round, place), string(text), level)
}

func managedFieldsOf(obj runtime.Object) []metav1.ManagedFieldsEntry {
	if named, ok := obj.(metav1.Object); ok {
		return named.GetManagedFields()
	}
	return nil
}

// keepManagedFields restores the managed fields of an object if a webhook has made them invalid, with a warning, as upstream does.
func keepManagedFields(attr *attributes.Attributes, before []metav1.ManagedFieldsEntry) {
	named, ok := attr.GetObject().(metav1.Object)
	if !ok || apiequality.Semantic.DeepEqual(before, named.GetManagedFields()) {
		return
	}
	if err := kmanaged.ValidateManagedFields(named.GetManagedFields()); err != nil {
		named.SetManagedFields(before)
		attr.AddWarning("", fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: %v", err))
	}
}
