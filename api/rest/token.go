package rest

import (
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// createToken handles the TokenRequest API (KEP-1205).
func (c *call) createToken() error {
	accept, err := negotiateOf(c.r, offered{protobuf: true})
	if err != nil {
		return err
	}
	request, r, _, err := decodeBody(c, &authenticationv1.TokenRequest{}, tokenRequestKind)
	if err != nil {
		return err
	}
	if err := matches(r, request); err != nil {
		return err
	}
	account, err := c.stored(r)
	if err != nil {
		return err
	}
	if request.UID != "" && request.UID != account.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, r.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", request.UID, account.GetUID()))
	}
	request.Name, request.Namespace, request.UID = account.GetName(), account.GetNamespace(), account.GetUID()
	request.CreationTimestamp = metav1.Now()
	request.Status = authenticationv1.TokenRequestStatus{}
	if request.Spec.ExpirationSeconds == nil {
		request.Spec.ExpirationSeconds = new(int64)
		*request.Spec.ExpirationSeconds = auth.DefaultTokenSeconds
	}
	seen := &objects.Attributes{Request: r, Operation: objects.OpCreate, Object: request, ObjectKind: tokenRequestKind}
	if err := c.Objects.Admit(c.r.Context(), seen); err != nil {
		return err
	}
	request = seen.Object.(*authenticationv1.TokenRequest)
	if len(request.Spec.Audiences) == 0 { // NodeRestriction has compared them with what the pod asks for
		request.Spec.Audiences = []string{c.Tokens.Audience()}
	}
	if err := checkTokenRequest(r, request); err != nil {
		return err
	}
	binding := auth.Binding{Namespace: account.GetNamespace(), ServiceAccount: account.GetName(), ServiceAccountUID: string(account.GetUID())}
	if ref := request.Spec.BoundObjectRef; ref != nil {
		if err := c.bindToken(r, ref, &binding); err != nil {
			return err
		}
	}
	token, expires, err := c.Tokens.Issue(binding, request.Spec.Audiences, *request.Spec.ExpirationSeconds)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	request.SetGroupVersionKind(tokenRequestKind)
	request.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires)}
	return c.writeOther(accept, http.StatusCreated, request)
}

// matches refuses a request whose body names another service account than its URL.
func matches(r *objects.Request, request *authenticationv1.TokenRequest) error {
	path := field.NewPath("metadata")
	switch {
	case request.Name != "" && request.Name != r.Name:
		return invalidToken(r, field.Invalid(path.Child("name"), request.Name, "must match the service account name if specified"))
	case request.Namespace != "" && request.Namespace != r.Namespace:
		return invalidToken(r, field.Invalid(path.Child("namespace"), request.Namespace, "must match the service account namespace if specified"))
	}
	return nil
}

func checkTokenRequest(r *objects.Request, request *authenticationv1.TokenRequest) error {
	spec, seconds := field.NewPath("spec"), *request.Spec.ExpirationSeconds
	switch {
	case seconds < auth.MinTokenSeconds:
		return invalidToken(r, field.Invalid(spec.Child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"))
	case seconds > auth.MaxTokenSeconds:
		return invalidToken(r, field.Invalid(spec.Child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"))
	case len(request.Spec.Attestations) > 0:
		return invalidToken(r, field.Invalid(spec.Child("attestations"), request.Spec.Attestations, "attestations may only be specified with a webhook bound object reference"))
	}
	return nil
}

// stored returns the object that a request names.
func (c *call) stored(r *objects.Request) (registry.Object, error) {
	v, err := c.Objects.Get(c.r.Context(), r, "")
	if err != nil {
		return nil, err
	}
	obj, err := c.Objects.Decode(r.Kind, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

// bindToken finds the object to which a token is to be bound.
func (c *call) bindToken(r *objects.Request, ref *authenticationv1.BoundObjectReference, binding *auth.Binding) error {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	resource, ok := map[string]string{"Pod": "pods", "Secret": "secrets", "Node": "nodes"}[ref.Kind]
	if !ok || gvk.Group != "" {
		return apierrors.NewBadRequest("cannot bind token to object of type " + gvk.String())
	}
	obj, err := c.storedOf(r, resource, ref.Name)
	if err != nil {
		return err
	}
	switch bound := obj.(type) {
	case *corev1.Pod:
		if bound.Spec.ServiceAccountName != binding.ServiceAccount {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", binding.ServiceAccount))
		}
		binding.Pod, binding.PodUID, binding.Node = bound.Name, string(bound.UID), bound.Spec.NodeName
		if bound.Spec.NodeName != "" { // it says where the pod runs, also if the node does not exist
			if node, err := c.storedOf(r, "nodes", bound.Spec.NodeName); err == nil {
				binding.NodeUID = string(node.GetUID())
			} else if !apierrors.IsNotFound(err) {
				return err
			}
		}
	case *corev1.Secret:
		binding.Secret, binding.SecretUID = bound.Name, string(bound.UID)
	case *corev1.Node:
		binding.Node, binding.NodeUID = bound.Name, string(bound.UID)
	}
	if ref.UID != "" && ref.UID != obj.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// storedOf is stored for another core resource in the request's namespace.
func (c *call) storedOf(r *objects.Request, resource, name string) (registry.Object, error) {
	kind, _ := c.Objects.Kinds().ByGroupResource("", resource)
	other := *r
	other.Kind, other.Name, other.Subresource = kind, name, ""
	return c.stored(&other)
}

func invalidToken(r *objects.Request, problem *field.Error) error {
	return objects.Invalid(tokenRequestKind.GroupKind(), r.Name, field.ErrorList{problem})
}
