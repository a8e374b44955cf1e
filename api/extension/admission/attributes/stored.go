package attributes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// Namespaces are those of the state that a request is prepared against, as upstream's lister.
type Namespaces struct {
	corev1listers.NamespaceLister
	Request *objects.Attributes
}

// Get implements the lister.
func (n Namespaces) Get(name string) (*corev1.Namespace, error) {
	namespace, ok, err := objects.Stored[*corev1.Namespace](n.Request, "", name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("namespaces"), name)
	}
	return namespace, nil
}

// NoClient is the client that upstream's matchers ask for a namespace that the lister does not have: there is none.
type NoClient struct{ kubernetes.Interface }

// CoreV1 implements kubernetes.Interface.
func (NoClient) CoreV1() typedcorev1.CoreV1Interface { return noCore{} }

type noCore struct{ typedcorev1.CoreV1Interface }

func (noCore) Namespaces() typedcorev1.NamespaceInterface { return noNamespaces{} }

type noNamespaces struct{ typedcorev1.NamespaceInterface }

func (noNamespaces) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return nil, apierrors.NewNotFound(corev1.Resource("namespaces"), name)
}

// Parameters are the objects of a kind in the state that a request is prepared against, as upstream's informer of policies' parameters.
type Parameters struct {
	request   *objects.Attributes
	kind      *registry.Kind
	namespace string
}

var (
	_ informers.GenericInformer    = (*Parameters)(nil)
	_ cache.GenericLister          = (*Parameters)(nil)
	_ cache.GenericNamespaceLister = (*Parameters)(nil)
)

// ParametersOf returns the objects of a kind, and whether they have namespaces.
func ParametersOf(a *objects.Attributes, apiVersion, kind string) (*Parameters, meta.RESTScope, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, nil, err
	}
	known, ok := a.Kinds().ByGVK(gv.WithKind(kind))
	if !ok || !known.Stored() {
		return nil, nil, fmt.Errorf("no kind %q is served in version %q", kind, apiVersion)
	}
	return &Parameters{request: a, kind: known}, scope(known), nil
}

// Informer implements informers.GenericInformer.
func (p *Parameters) Informer() cache.SharedIndexInformer { return synced{} }

// Lister implements informers.GenericInformer.
func (p *Parameters) Lister() cache.GenericLister { return p }

// ByNamespace implements cache.GenericLister.
func (p *Parameters) ByNamespace(namespace string) cache.GenericNamespaceLister {
	return &Parameters{p.request, p.kind, namespace}
}

// Get implements the listers.
func (p *Parameters) Get(name string) (runtime.Object, error) {
	v, ok := p.request.View.Get(p.kind.Key(p.namespace, name))
	if !ok {
		return nil, apierrors.NewNotFound(p.kind.GroupResource(), name)
	}
	return p.request.Service().Decode(p.kind, v)
}

// List implements the listers.
func (p *Parameters) List(selector labels.Selector) (out []runtime.Object, err error) {
	prefix := p.kind.NamespacePrefix(p.namespace)
	p.request.View.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		var obj registry.Object
		if obj, err = p.request.Service().Decode(p.kind, v); err != nil {
			return false
		}
		if selector.Matches(labels.Set(obj.GetLabels())) {
			out = append(out, obj)
		}
		return true
	})
	return out, err
}

// synced is what upstream asks of an informer before it uses its lister.
type synced struct{ cache.SharedIndexInformer }

func (synced) HasSynced() bool { return true }
