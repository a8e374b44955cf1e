package admission

//lint:file-ignore SA1019 clients may still send deprecated fields, and the step must refuse them

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kubeletapis "k8s.io/kubelet/pkg/apis"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/auth/authz"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// nodeRestriction limits what nodes write to what is about themselves and their pods: the part of their authorization that depends on
// the objects. It runs before objects are changed by later steps, as upstream, whose rules and words these are.
func nodeRestriction(by auth.Authorizer) objects.Step {
	r := &restriction{by}
	return objects.Step{
		Name: "NodeRestriction",
		Handles: func(a *objects.Attributes) bool {
			_, isNode := authz.NodeOf(a.User)
			return isNode && !a.Trusted
		},
		Mutate: r.admit,
	}
}

type restriction struct{ authorizer auth.Authorizer }

func (r *restriction) admit(ctx context.Context, a *objects.Attributes) error {
	node, _ := authz.NodeOf(a.User)
	if node == "" {
		return a.Forbid("could not determine node from user %q", a.User.GetName())
	}
	switch a.Kind.GroupResource() {
	case pods:
		return r.pod(node, a)
	case corev1.Resource("nodes"):
		return restrictNode(node, a)
	case corev1.Resource("persistentvolumeclaims"):
		if a.Subresource != "status" {
			return a.Forbid("may only update PVC status")
		}
		return restrictClaim(node, a)
	case corev1.Resource("serviceaccounts"):
		if a.Operation == objects.OpCreate && a.Subresource == "token" {
			return r.token(ctx, node, a)
		}
	case certificatesv1.Resource("podcertificaterequests"):
		return r.podCertificate(ctx, node, a)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		if a.Namespace != corev1.NamespaceNodeLease {
			return a.Forbid("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		}
		if nameOf(a) != node {
			return a.Forbid("can only access node lease with the same name as the requesting node")
		}
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		if nameOf(a) != node {
			return a.Forbid("can only access CSINode with the same name as the requesting node")
		}
	case resourcev1.Resource("resourceslices"):
		return restrictSlice(node, a)
	case certificatesv1.Resource("certificatesigningrequests"):
		return restrictCertificate(node, a)
	}
	return nil
}

// nameOf returns the name of the request's object; that of a new one is only in the object.
func nameOf(a *objects.Attributes) string {
	if a.Operation == objects.OpCreate {
		if obj, ok := a.Object.(metav1.Object); ok {
			return obj.GetName()
		}
	}
	return a.Name
}

func (r *restriction) pod(node string, a *objects.Attributes) error {
	switch a.Subresource {
	case "":
		switch a.Operation {
		case objects.OpCreate:
			return restrictNewPod(node, a)
		case objects.OpDelete:
			if pod, ok := a.Old.(*corev1.Pod); !ok || pod.Spec.NodeName != node {
				return a.Forbid("node %q can only delete pods with spec.nodeName set to itself", node)
			}
			return nil
		}
		return a.Forbid("unexpected operation %q, node %q can only create and delete mirror pods", a.Operation, node)
	case "status":
		if a.Operation != objects.OpUpdate {
			return a.Forbid("unexpected operation %q", a.Operation)
		}
		return restrictPodStatus(node, a)
	case "eviction":
		if a.Operation != objects.OpCreate {
			return a.Forbid("unexpected operation %s", a.Operation)
		}
		pod, err := stored[*corev1.Pod](a, a.Namespace, a.Name)
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return a.Forbid("node %s can only evict pods with spec.nodeName set to itself", node)
		}
		return nil
	}
	return a.Forbid("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource)
}

// stored returns an object, or the error that there is none.
func stored[T registry.Object](a *objects.Attributes, namespace, name string) (T, error) {
	obj, ok, err := objects.Stored[T](a, namespace, name)
	if err == nil && !ok {
		kind := strings.ToLower(reflect.TypeFor[T]().Elem().Name())
		err = apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
	}
	return obj, err
}

func restrictNewPod(node string, a *objects.Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return a.Forbid("unexpected type %T", a.Object)
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return a.Forbid("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return a.Forbid("node %q can only create pods with spec.nodeName set to itself", node)
	}
	switch len(pod.OwnerReferences) {
	case 0:
		return a.Forbid("node %q can only create pods with an owner reference set to itself", node)
	case 1:
	default:
		return a.Forbid("node %q can only create pods with a single owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return a.Forbid("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return a.Forbid("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return a.Forbid("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	own, err := stored[*corev1.Node](a, "", node)
	if err != nil {
		return err
	}
	if owner.UID != own.UID {
		return a.Forbid("node %s UID mismatch: expected %s got %s", node, owner.UID, own.UID)
	}
	internal := &core.Pod{}
	if err := registry.Scheme.Convert(pod.DeepCopy(), internal, nil); err != nil {
		return apierrors.NewInternalError(err)
	}
	refers, resource, err := podutil.HasAPIObjectReference(internal)
	if err != nil {
		return a.Forbid("error checking mirror pod for API references: %w", err)
	}
	if refers {
		return a.Forbid("node %q can not create pods that reference %s", node, resource)
	}
	return nil
}

func restrictPodStatus(node string, a *objects.Attributes) error {
	old, okOld := a.Old.(*corev1.Pod)
	pod, okNew := a.Object.(*corev1.Pod)
	switch {
	case !okOld || !okNew:
		return a.Forbid("unexpected type %T", a.Object)
	case old.Spec.NodeName != node:
		return a.Forbid("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	case !labels.Equals(old.Labels, pod.Labels):
		return a.Forbid("node %q cannot update labels through pod status", node)
	case !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return a.Forbid("node %q cannot update resource claim statues", node)
	case !apiequality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return a.Forbid("node %q cannot update extended resource claim status", node)
	case !apiequality.Semantic.DeepEqual(old.Status.NodeAllocatableResourceClaimStatuses, pod.Status.NodeAllocatableResourceClaimStatuses):
		return a.Forbid("node %q cannot update node allocatable resource claim statuses", node)
	}
	return nil
}

func restrictClaim(node string, a *objects.Attributes) error {
	old, okOld := a.Old.(*corev1.PersistentVolumeClaim)
	claim, okNew := a.Object.(*corev1.PersistentVolumeClaim)
	if a.Operation != objects.OpUpdate || !okOld || !okNew {
		return a.Forbid("unexpected operation %q", a.Operation)
	}
	rest := func(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		c = c.DeepCopy()
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions, c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil, nil, nil
		return c
	}
	if !apiequality.Semantic.DeepEqual(rest(old), rest(claim)) {
		return a.Forbid("node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

func restrictNode(node string, a *objects.Attributes) error {
	if name := cmp.Or(a.Name, nameOf(a)); name != node {
		return a.Forbid("node %q is not allowed to modify node %q", node, name)
	}
	obj, _ := a.Object.(*corev1.Node)
	old, _ := a.Old.(*corev1.Node)
	switch {
	case obj == nil:
		return nil
	case a.Operation == objects.OpCreate:
		if obj.Spec.ConfigSource != nil {
			return a.Forbid("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if forbidden := forbiddenLabels(obj.Labels, nil); len(forbidden) > 0 {
			return a.Forbid("node %q is not allowed to set the following labels: %s", node, strings.Join(forbidden, ", "))
		}
	case a.Operation == objects.OpUpdate && old != nil:
		switch forbidden := forbiddenLabels(obj.Labels, old.Labels); {
		case obj.Spec.ConfigSource != nil && !apiequality.Semantic.DeepEqual(obj.Spec.ConfigSource, old.Spec.ConfigSource):
			return a.Forbid("node %q is not allowed to update configSource to a new non-nil configSource", node)
		case !apiequality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints):
			return a.Forbid("node %q is not allowed to modify taints", node)
		case !apiequality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences):
			return a.Forbid("node %q is not allowed to modify ownerReferences", node)
		case len(forbidden) > 0:
			return a.Forbid("is not allowed to modify labels: %s", strings.Join(forbidden, ", "))
		}
	}
	return nil
}

// forbiddenLabels returns the labels that differ and that a node may not set, change or remove: those for restrictions of nodes, and
// those of Kubernetes that are not for kubelets.
func forbiddenLabels(now, then map[string]string) []string {
	var out []string
	check := func(a, b map[string]string) {
		for key, value := range a {
			if other, ok := b[key]; ok && other == value || slices.Contains(out, key) {
				continue
			}
			domain, _, qualified := strings.Cut(key, "/")
			if !qualified {
				continue
			}
			within := func(of string) bool { return domain == of || strings.HasSuffix(domain, "."+of) }
			if within(corev1.LabelNamespaceNodeRestriction) || (within("kubernetes.io") || within("k8s.io")) && !kubeletapis.IsKubeletLabel(key) {
				out = append(out, key)
			}
		}
	}
	check(now, then)
	check(then, now)
	slices.Sort(out)
	return out
}

// token allows tokens that are bound to a pod of the node, for audiences that the pod asks for.
func (r *restriction) token(ctx context.Context, node string, a *objects.Attributes) error {
	request, ok := a.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return a.Forbid("unexpected type %T", a.Object)
	}
	ref := request.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return a.Forbid("node requested token not bound to a pod")
	case ref.UID == "":
		return a.Forbid("node requested token with a pod binding without a uid")
	}
	pod, err := stored[*corev1.Pod](a, a.Namespace, ref.Name)
	switch {
	case err != nil:
		return err
	case ref.UID != pod.UID:
		return a.Forbid("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != node:
		return a.Forbid("node requested token bound to a pod scheduled on a different node")
	case len(request.Spec.Audiences) > 1:
		return a.Forbid("node may only request 0 or 1 audiences")
	}
	audience := ""
	if len(request.Spec.Audiences) == 1 {
		audience = request.Spec.Audiences[0]
	}
	found, err := podAsksForAudience(a, pod, audience)
	if err != nil || found {
		return err
	}
	if r.allows(ctx, a, "request-serviceaccounts-token-audience", audience, a.Name) {
		return nil
	}
	return a.Forbid("%s is not authorized to request tokens for audience %q", a.User.GetName(), audience)
}

// allows asks the authorizer for a verb on a virtual resource in the request's group.
func (r *restriction) allows(ctx context.Context, a *objects.Attributes, verb, resource, name string) bool {
	decision, _, _ := r.authorizer.Authorize(ctx, &authorizer.AttributesRecord{ // an error is no permission
		User: a.User, Verb: verb, APIGroup: a.Kind.Group, APIVersion: a.Kind.Version, Resource: resource, Namespace: a.Namespace, Name: name, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow
}

func (r *restriction) podCertificate(ctx context.Context, node string, a *objects.Attributes) error {
	request, ok := a.Object.(*certificatesv1.PodCertificateRequest)
	switch {
	case a.Operation != objects.OpCreate:
		return a.Forbid("unexpected operation %v", a.Operation)
	case a.Subresource != "":
		return a.Forbid("unexpected subresource %v", a.Subresource)
	case !ok:
		return a.Forbid("unexpected type %T", a.Object)
	case string(request.Spec.NodeName) != node:
		return a.Forbid("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", request.Spec.NodeName, node)
	}
	own, err := stored[*corev1.Node](a, "", node)
	if err != nil {
		return err
	}
	pod, err := stored[*corev1.Pod](a, a.Namespace, request.Spec.PodName)
	if err != nil {
		return err
	}
	account, err := stored[*corev1.ServiceAccount](a, a.Namespace, request.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	name := a.Namespace + "/" + request.Spec.PodName
	switch {
	case own.UID != request.Spec.NodeUID:
		return a.Forbid("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", name, request.Spec.NodeUID, own.UID)
	case pod.UID != request.Spec.PodUID:
		return a.Forbid("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", name, request.Spec.PodUID, pod.UID)
	case pod.Spec.NodeName != node:
		return a.Forbid("pod %q is not running on node %q named in the PodCertificateRequest", name, node)
	case mirror:
		return a.Forbid("pod %q is a mirror pod", name)
	case pod.Spec.ServiceAccountName != request.Spec.ServiceAccountName:
		return a.Forbid("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, request.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	case account.UID != request.Spec.ServiceAccountUID:
		return a.Forbid("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", name, request.Spec.ServiceAccountUID, account.UID)
	}
	for i := range pod.Spec.Volumes {
		if projected := pod.Spec.Volumes[i].Projected; projected != nil {
			for _, source := range projected.Sources {
				if source.PodCertificate != nil && source.PodCertificate.SignerName == request.Spec.SignerName {
					return nil
				}
			}
		}
	}
	// RBAC does not know resources with slashes.
	if r.allows(ctx, a, "request-serviceaccounts-podcertificate-signer", strings.ReplaceAll(request.Spec.SignerName, "/", ":"), request.Spec.ServiceAccountName) {
		return nil
	}
	return a.Forbid("pod %q does not mount a podCertificate projected volume for signer %q", name, request.Spec.SignerName)
}

func restrictSlice(node string, a *objects.Attributes) error {
	of := func(obj any) bool {
		slice, ok := obj.(*resourcev1.ResourceSlice)
		return ok && slice.Spec.NodeName != nil && *slice.Spec.NodeName == node
	}
	switch {
	case a.Operation == objects.OpCreate && !of(a.Object):
		return a.Forbid("can only create ResourceSlice with the same NodeName as the requesting node")
	case a.Operation == objects.OpDelete && !of(a.Old):
		return a.Forbid("can only delete ResourceSlice with the same NodeName as the requesting node")
	}
	return nil
}

// restrictCertificate allows a node to request certificates of nodes for itself only.
func restrictCertificate(node string, a *objects.Attributes) error {
	if a.Operation != objects.OpCreate {
		return nil
	}
	request, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return a.Forbid("unexpected type %T", a.Object)
	}
	if signer := request.Spec.SignerName; signer != certificatesv1.KubeletServingSignerName && signer != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	parsed, err := certificates.ParseCSR(request.Spec.Request)
	if err != nil {
		return a.Forbid("unable to parse csr: %w", err)
	}
	if parsed.Subject.CommonName != "system:node:"+node {
		return a.Forbid("can only create a node CSR with CN=system:node:%s", node)
	}
	return nil
}
