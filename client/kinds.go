package client

import (
	"encoding/json"
	"fmt"
	"reflect"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Object is a Kubernetes object: a pointer to a type of k8s.io/api, such as *corev1.Pod, to a type of your own that is in Scheme,
// or *unstructured.Unstructured.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is a kind of objects: group, version and kind.
type Kind = schema.GroupVersionKind

// Scheme maps Go types to kinds. Add your own types when your program starts, before they are used:
//
//	utilruntime.Must(widgetsv1.AddToScheme(client.Scheme))
var Scheme = newScheme(
	corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, autoscalingv2.AddToScheme, autoscalingv1.AddToScheme,
	networkingv1.AddToScheme, discoveryv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme, storagev1.AddToScheme,
	schedulingv1.AddToScheme, coordinationv1.AddToScheme, eventsv1.AddToScheme, nodev1.AddToScheme, certificatesv1.AddToScheme,
	admissionregistrationv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme,
)

func newScheme(adders ...func(*runtime.Scheme) error) *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range adders {
		if err := add(s); err != nil {
			panic(err) // a programming error: the table is fixed
		}
	}
	return s
}

// Ref refers to one object.
type Ref struct {
	Kind Kind
	// Namespace is empty for cluster-scoped kinds.
	Namespace, Name string
	err             error
}

// String returns a description for people: "ConfigMap default/settings".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind.Kind + " " + r.Name
	}
	return r.Kind.Kind + " " + r.Namespace + "/" + r.Name
}

// RefOf returns a reference to an object by its Go type.
func RefOf[T Object](namespace, name string) Ref {
	kind, err := kindOfType[T](Kind{})
	return Ref{Kind: kind, Namespace: namespace, Name: name, err: err}
}

// RefTo returns a reference to an existing object.
func RefTo(obj Object) Ref {
	kind, err := kindOf(obj)
	if err != nil {
		return Ref{err: err}
	}
	return Ref{Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

func (r Ref) wire() *kontikiv1.Reference {
	return &kontikiv1.Reference{Kind: wireKind(r.Kind), Namespace: r.Namespace, Name: r.Name}
}

func wireKind(k Kind) *kontikiv1.Kind {
	return &kontikiv1.Kind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// kindOf returns the kind that the object states, or else that of its type.
func kindOf(obj Object) (Kind, error) {
	if obj == nil || reflect.ValueOf(obj).IsNil() {
		return Kind{}, invalid("the object is nil")
	}
	if kind := obj.GetObjectKind().GroupVersionKind(); kind.Kind != "" && kind.Version != "" {
		return kind, nil
	}
	kinds, _, err := Scheme.ObjectKinds(obj)
	if err != nil {
		return Kind{}, invalid("the kind of a %T is not known: set its apiVersion and kind, or add the type to client.Scheme", obj)
	}
	return kinds[0], nil
}

// kindOfType returns the given kind, or else that of the type.
func kindOfType[T Object](given Kind) (Kind, error) {
	if reflect.TypeFor[T]().Kind() != reflect.Pointer {
		return Kind{}, invalid("%v is no pointer to a type of objects", reflect.TypeFor[T]())
	}
	if given.Kind != "" {
		return given, nil
	}
	kinds, _, err := Scheme.ObjectKinds(newOf[T]())
	if err != nil {
		return Kind{}, invalid("the kind of a %v is not known: give client.OfKind, or add the type to client.Scheme", reflect.TypeFor[T]())
	}
	return kinds[0], nil
}

func newOf[T Object]() T { return reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T) }

// message is implemented by the types of k8s.io/api.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// encodingOf returns the encoding for objects of the type: protobuf if they support it.
func encodingOf(obj Object) kontikiv1.Encoding {
	if _, ok := obj.(message); ok {
		return kontikiv1.Encoding_ENCODING_PROTOBUF
	}
	return kontikiv1.Encoding_ENCODING_JSON
}

func encode(obj Object) (*kontikiv1.Object, error) {
	kind, err := kindOf(obj)
	if err != nil {
		return nil, err
	}
	out := &kontikiv1.Object{Kind: wireKind(kind), Encoding: encodingOf(obj), Namespace: obj.GetNamespace(), Name: obj.GetName()}
	if m, ok := obj.(message); ok {
		out.Data, err = m.Marshal()
	} else {
		if obj.GetObjectKind().GroupVersionKind() != kind {
			obj = obj.DeepCopyObject().(Object)
			obj.GetObjectKind().SetGroupVersionKind(kind)
		}
		out.Data, err = json.Marshal(obj)
	}
	if err != nil {
		return nil, invalid("encode %s: %v", RefTo(obj), err)
	}
	return out, nil
}

// decodeInto decodes into an empty object.
func decodeInto(in *kontikiv1.Object, obj Object) error {
	var err error
	if in.GetEncoding() == kontikiv1.Encoding_ENCODING_JSON {
		err = json.Unmarshal(in.Data, obj)
	} else if m, ok := obj.(message); ok {
		err = m.Unmarshal(in.GetData())
	} else {
		err = fmt.Errorf("a %T cannot be read from protobuf", obj)
	}
	if err != nil {
		return fmt.Errorf("client: decode %s %s/%s: %w", in.GetKind().GetKind(), in.GetNamespace(), in.GetName(), err)
	}
	obj.GetObjectKind().SetGroupVersionKind(Kind{Group: in.GetKind().GetGroup(), Version: in.GetKind().GetVersion(), Kind: in.GetKind().GetKind()})
	return nil
}

func decode[T Object](in *kontikiv1.Object) (T, error) {
	var none T
	if in == nil {
		return none, nil
	}
	obj := newOf[T]()
	if err := decodeInto(in, obj); err != nil {
		return none, err
	}
	return obj, nil
}

// decodeAny decodes to the type that Scheme has for the kind, or to an unstructured object.
func decodeAny(in *kontikiv1.Object) (Object, error) {
	if in == nil {
		return nil, nil
	}
	kind := Kind{Group: in.GetKind().GetGroup(), Version: in.GetKind().GetVersion(), Kind: in.GetKind().GetKind()}
	made, err := Scheme.New(kind)
	obj, ok := made.(Object)
	if err != nil || !ok {
		obj = &unstructured.Unstructured{}
	}
	return obj, decodeInto(in, obj)
}
