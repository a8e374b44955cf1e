package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
)

// resourceClaims decides what validation of the resource.k8s.io group decides upstream, because it depends on other objects and on the
// user: only namespaces with the label resource.kubernetes.io/admin-access may have claims for administrative access (KEP-5018), and the
// parts of a claim's status need verbs of their own (the feature DRAResourceClaimGranularStatusAuthorization): "resourceclaims/binding" for
// the allocation and the consumers, "resourceclaims/driver" for what drivers report of devices. It cannot be disabled.
func resourceClaims(by auth.Authorizer) objects.Step {
	claims, templates := resourcev1.Resource("resourceclaims"), resourcev1.Resource("resourceclaimtemplates")
	rules := claimRules{by}
	return objects.Step{
		Name: "ResourceClaims",
		Handles: func(a *objects.Attributes) bool {
			return handles(claims, objects.OpCreate)(a) || handles(templates, objects.OpCreate)(a) || a.Operation == objects.OpUpdate && a.Is(claims, "status")
		},
		Validate: func(ctx context.Context, a *objects.Attributes) (err error) {
			var errs field.ErrorList
			switch obj := a.Object.(type) {
			case *resourcev1.ResourceClaim:
				if a.Operation == objects.OpCreate {
					errs, err = rules.adminRequests(a, obj.Spec.Devices.Requests)
				} else {
					errs, err = rules.status(ctx, a, obj, a.Old.(*resourcev1.ResourceClaim))
				}
			case *resourcev1.ResourceClaimTemplate:
				errs, err = rules.adminRequests(a, obj.Spec.Spec.Devices.Requests)
			}
			if err != nil || len(errs) == 0 {
				return err
			}
			return objects.Invalid(a.Kind.GroupKind(), a.Object.(metav1.Object).GetName(), errs)
		},
	}
}

type claimRules struct{ authorizer auth.Authorizer }

func (c claimRules) adminRequests(a *objects.Attributes, requests []resourcev1.DeviceRequest) (field.ErrorList, error) {
	i := slices.IndexFunc(requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && r.Exactly.AdminAccess != nil && *r.Exactly.AdminAccess
	})
	if i < 0 {
		return nil, nil
	}
	return c.adminNamespace(a, field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess"))
}

// adminNamespace refuses a field unless the request's namespace is labelled for administrative access.
func (c claimRules) adminNamespace(a *objects.Attributes, path *field.Path) (field.ErrorList, error) {
	namespace, ok, err := objects.Stored[*corev1.Namespace](a, "", a.Namespace)
	if err != nil {
		return nil, err
	}
	if ok && namespace.Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil, nil
	}
	return field.ErrorList{field.Forbidden(path, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}, nil
}

func adminResult(claim *resourcev1.ResourceClaim) int {
	if claim.Status.Allocation == nil {
		return -1
	}
	return slices.IndexFunc(claim.Status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool {
		return r.AdminAccess != nil && *r.AdminAccess
	})
}

func (c claimRules) status(ctx context.Context, a *objects.Attributes, now, old *resourcev1.ResourceClaim) (errs field.ErrorList, err error) {
	if i := adminResult(now); i >= 0 && adminResult(old) < 0 {
		if errs, err = c.adminNamespace(a, field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")); err != nil {
			return nil, err
		}
	}
	if a.Trusted {
		return errs, nil
	}
	verb := "update"
	if info, ok := genericapirequest.RequestInfoFrom(ctx); ok {
		verb = info.Verb
	}
	if !apiequality.Semantic.DeepEqual(now.Status.Allocation, old.Status.Allocation) || !apiequality.Semantic.DeepEqual(now.Status.ReservedFor, old.Status.ReservedFor) {
		if refusal := c.ask(ctx, a, verb, resourcev1.SubresourceBinding, "", ""); refusal != nil {
			errs = append(errs, field.Forbidden(field.NewPath("status", "allocation"),
				fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, verb, refusal)))
		}
	}
	if now.Status.Allocation == nil {
		return errs, nil // the status of devices is dropped with their allocation
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + verb}
	if onNode(a.User, allocatedNode(now.Status.Allocation)) {
		verbs = []string{resourcev1.VerbPrefixAssociatedNode + verb, verbs[0]}
	}
	for _, driver := range changedDrivers(now, old) {
		if refusal := c.askAny(ctx, a, verbs, driver); refusal != nil {
			errs = append(errs, field.Forbidden(field.NewPath("status", "devices"),
				fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, refusal)))
		}
	}
	return errs, nil
}

// ask returns why the user may not do something with a part of claims, nil if it may.
func (c claimRules) ask(ctx context.Context, a *objects.Attributes, verb, part, namespace, name string) error {
	asked := a.Attributes(verb)
	asked.Subresource, asked.Namespace, asked.Name = part, namespace, name
	return auth.Check(ctx, c.authorizer, asked)
}

// askAny returns why the user may not write what a driver reports, with none of the verbs.
func (c claimRules) askAny(ctx context.Context, a *objects.Attributes, verbs []string, driver string) (first error) {
	for _, verb := range verbs {
		err := c.ask(ctx, a, verb, resourcev1.SubresourceDriver, a.Namespace, driver)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// changedDrivers returns, sorted, the drivers whose entries in the status were added, removed or changed.
func changedDrivers(now, old *resourcev1.ResourceClaim) []string {
	type device struct{ driver, pool, name, share string }
	entries := func(claim *resourcev1.ResourceClaim) map[device]resourcev1.AllocatedDeviceStatus {
		out := map[device]resourcev1.AllocatedDeviceStatus{}
		for _, d := range claim.Status.Devices {
			id := device{driver: d.Driver, pool: d.Pool, name: d.Device}
			if d.ShareID != nil {
				id.share = *d.ShareID
			}
			out[id] = d
		}
		return out
	}
	before, after := entries(old), entries(now)
	changed := sets.Set[string]{}
	for id, d := range after {
		if was, ok := before[id]; !ok || !apiequality.Semantic.DeepEqual(was, d) {
			changed.Insert(id.driver)
		}
	}
	for id := range before {
		if _, ok := after[id]; !ok {
			changed.Insert(id.driver)
		}
	}
	return sets.List(changed)
}

// allocatedNode returns the only node on which allocated devices can be used, "" if there may be several.
func allocatedNode(allocation *resourcev1.AllocationResult) string {
	selector := allocation.NodeSelector
	if selector == nil || len(selector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := selector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != metav1.ObjectNameField || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// onNode says whether a user is a service account whose token is bound to a pod on the node.
func onNode(u user.Info, node string) bool {
	if _, _, err := serviceaccount.SplitUsername(u.GetName()); err != nil || node == "" {
		return false
	}
	return slices.Equal(u.GetExtra()[serviceaccount.NodeNameKey], []string{node})
}
