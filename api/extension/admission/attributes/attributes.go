// Package attributes shows the requests that the object service admits to upstream's packages for dynamic admission
// (k8s.io/apiserver/pkg/admission/plugin/...): as their Attributes, with the conversions, namespaces and parameters that they ask for, all of
// which come from the view that the write is prepared against. Nothing here has a client or an informer.
package attributes

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/admission"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
)

// Bounds of what hooks add to the audit event of a request.
const (
	maxAnnotations     = 128
	maxAnnotationBytes = 10 << 10 // of a value; what is longer is cut
)

// Attributes are a request as upstream's packages see it. Several goroutines may add annotations and warnings at a time; all other methods
// only read.
type Attributes struct {
	request *objects.Attributes
	record  *audit.Record
	options runtime.Object

	mu     sync.Mutex
	values map[string]string // of the annotations
}

var _ admission.Attributes = (*Attributes)(nil)

// Of returns a request's attributes, and a context for upstream's packages, whose warnings go to the request's client.
func Of(ctx context.Context, a *objects.Attributes) (*Attributes, context.Context) {
	typed(a)
	out := &Attributes{request: a, record: audit.From(ctx), options: a.Options()}
	return out, warning.WithWarningRecorder(ctx, out)
}

// typed sets the types of the request's objects, which those of subresources may lack.
func typed(a *objects.Attributes) {
	if obj := a.Object; obj != nil && obj.GetObjectKind().GroupVersionKind().Empty() {
		obj.GetObjectKind().SetGroupVersionKind(a.ObjectKind)
	}
	if old := a.Old; old != nil && old.GetObjectKind().GroupVersionKind().Empty() {
		old = old.DeepCopyObject()
		old.GetObjectKind().SetGroupVersionKind(a.ObjectKind)
		a.Old = old
	}
}

// Request returns the request.
func (a *Attributes) Request() *objects.Attributes { return a.request }

// GetName implements admission.Attributes.
func (a *Attributes) GetName() string { return a.request.Name }

// GetNamespace implements admission.Attributes. The namespace of a namespace is itself, as upstream has it.
func (a *Attributes) GetNamespace() string {
	if isNamespace(a.request) {
		return a.request.Name
	}
	return a.request.Namespace
}

func isNamespace(a *objects.Attributes) bool {
	return a.Kind.Group == "" && a.Kind.Resource == "namespaces"
}

// GetResource implements admission.Attributes.
func (a *Attributes) GetResource() schema.GroupVersionResource {
	return a.request.Kind.GroupVersion().WithResource(a.request.Kind.Resource)
}

// GetSubresource implements admission.Attributes.
func (a *Attributes) GetSubresource() string { return a.request.Subresource }

// GetOperation implements admission.Attributes.
func (a *Attributes) GetOperation() admission.Operation {
	return admission.Operation(a.request.Operation)
}

// GetOperationOptions implements admission.Attributes.
func (a *Attributes) GetOperationOptions() runtime.Object { return a.options }

// IsDryRun implements admission.Attributes.
func (a *Attributes) IsDryRun() bool { return a.request.DryRun }

// GetObject implements admission.Attributes.
func (a *Attributes) GetObject() runtime.Object { return a.request.Object }

// GetOldObject implements admission.Attributes.
func (a *Attributes) GetOldObject() runtime.Object { return a.request.Old }

// GetKind implements admission.Attributes.
func (a *Attributes) GetKind() schema.GroupVersionKind { return a.request.ObjectKind }

// GetUserInfo implements admission.Attributes.
func (a *Attributes) GetUserInfo() user.Info {
	if a.request.User == nil {
		return &user.DefaultInfo{}
	}
	return a.request.User
}

// GetReinvocationContext implements admission.Attributes.
func (a *Attributes) GetReinvocationContext() admission.ReinvocationContext {
	return a.request.Reinvocation()
}

// AddAnnotation implements admission.Attributes.
func (a *Attributes) AddAnnotation(key, value string) error {
	return a.AddAnnotationWithLevel(key, value, auditinternal.LevelMetadata)
}

// AddAnnotationWithLevel implements admission.Attributes: it adds an annotation to the request's audit event, if that has the level.
func (a *Attributes) AddAnnotationWithLevel(key, value string, level auditinternal.Level) error {
	if problems := validation.IsQualifiedName(key); len(problems) > 0 {
		return fmt.Errorf("annotation key %q: %v", key, problems)
	}
	if len(value) > maxAnnotationBytes {
		value = value[:maxAnnotationBytes]
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if before, ok := a.values[key]; ok && before != value {
		return fmt.Errorf("admission annotations are not allowed to be overwritten, key:%q", key)
	}
	if len(a.values) >= maxAnnotations {
		return fmt.Errorf("a request has at most %d audit annotations", maxAnnotations)
	}
	if a.values == nil {
		a.values = map[string]string{}
	}
	a.values[key] = value
	if level.GreaterOrEqual(auditinternal.LevelRequest) && !a.record.WantsRequest() {
		return nil
	}
	a.record.Annotate(key, value)
	return nil
}

// AddWarning implements warning.Recorder.
func (a *Attributes) AddWarning(_, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.request.Warn("%s", text)
}
