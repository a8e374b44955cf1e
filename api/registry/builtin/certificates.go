package builtin

import (
	"context"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/apis/certificates/validation"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
	"k8s.io/utils/clock"

	"github.com/kontiki/kontiki/api/registry"
)

const certificatesGroup = "certificates.k8s.io"

func clusterTrustBundles() *registry.Resource {
	return follow(&registry.Resource{
		Group: certificatesGroup, Kind: "ClusterTrustBundle", Resource: "clustertrustbundles",
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"spec.signerName": obj.(*certificatesv1.ClusterTrustBundle).Spec.SignerName}
		},
		FieldNames: []string{"spec.signerName"},
	}, clustertrustbundle.Strategy, nil)
}

// podCertificateRequests are of KEP-4317. That only those who may sign for the signer change the status is a step of admission.
func podCertificateRequests() *registry.Resource {
	r := follow(&registry.Resource{
		Group: certificatesGroup, Kind: "PodCertificateRequest", Resource: "podcertificaterequests", KeepDeleted: never,
		Fields: func(obj registry.Object) fields.Set {
			r := obj.(*certificatesv1.PodCertificateRequest)
			return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
		},
		FieldNames: []string{"spec.signerName", "spec.podName", "spec.nodeName"},
	}, podcertificaterequest.NewStrategy(), nil)
	r.Status = &registry.Strategy{
		PrepareUpdate: updater(func(r, old *certificates.PodCertificateRequest) {
			r.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
		}),
		ValidateUpdate: changer(func(r, old *certificates.PodCertificateRequest) field.ErrorList {
			return validation.ValidatePodCertificateRequestStatusUpdate(r, old, clock.RealClock{})
		}),
		ResetFields: []string{"metadata", "spec"},
	}
	return r
}

// certificateSigningRequests has the rules of upstream's strategies, whose package reaches the storage of the serving stack.
func certificateSigningRequests() *registry.Resource {
	return &registry.Resource{
		Group: certificatesGroup, Kind: "CertificateSigningRequest", Resource: "certificatesigningrequests", ShortNames: []string{"csr"}, KeepDeleted: never,
		PrepareCreate: func(ctx context.Context, obj runtime.Object) {
			nameRequester(ctx, obj.(*certificates.CertificateSigningRequest))
		},
		Validate: checker(validation.ValidateCertificateSigningRequestCreate),
		Strategy: registry.Strategy{
			PrepareUpdate:  updater(func(r, old *certificates.CertificateSigningRequest) { r.Spec, r.Status = old.Spec, old.Status }),
			ValidateUpdate: changer(validation.ValidateCertificateSigningRequestUpdate),
			ResetFields:    []string{"spec", "status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(r, old *certificates.CertificateSigningRequest) {
				r.Spec = old.Spec
				keepDecisions(r, old, certificates.CertificateApproved)
				keepDecisions(r, old, certificates.CertificateDenied)
				dateConditions(r, old)
			}),
			ValidateUpdate: changer(validation.ValidateCertificateSigningRequestStatusUpdate),
			ResetFields:    []string{"spec", "status.conditions"},
		},
		Subresources: map[string]*registry.Strategy{"approval": {
			PrepareUpdate: updater(func(r, old *certificates.CertificateSigningRequest) {
				dateConditions(r, old)
				conditions := r.Status.Conditions
				r.Spec, r.Status = old.Spec, old.Status
				r.Status.Conditions = conditions
			}),
			ValidateUpdate: changer(validation.ValidateCertificateSigningRequestApprovalUpdate),
			ResetFields:    []string{"spec", "status.certificate"},
		}},
		AllowUnconditionalUpdate: true,
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"spec.signerName": obj.(*certificatesv1.CertificateSigningRequest).Spec.SignerName}
		},
		FieldNames: []string{"spec.signerName"},
	}
}

// nameRequester writes into a new request who sends it, whatever it says itself, and clears its status: nobody approves in advance.
func nameRequester(ctx context.Context, r *certificates.CertificateSigningRequest) {
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	if user, ok := genericapirequest.UserFrom(ctx); ok {
		r.Spec.Username, r.Spec.UID, r.Spec.Groups = user.GetName(), user.GetUID(), slices.Clone(user.GetGroups())
		for key, values := range user.GetExtra() {
			if r.Spec.Extra == nil {
				r.Spec.Extra = map[string]certificates.ExtraValue{}
			}
			r.Spec.Extra[key] = slices.Clone(values)
		}
	}
	r.Status = certificates.CertificateSigningRequestStatus{Conditions: []certificates.CertificateSigningRequestCondition{}}
}

// keepDecisions restores the conditions of a type, which only approval may change, unless one was added or removed: validation refuses
// that.
func keepDecisions(r, old *certificates.CertificateSigningRequest, of certificates.RequestConditionType) {
	now, then := conditionsOf(r, of), conditionsOf(old, of)
	if len(now) != len(then) {
		return
	}
	for i := range now {
		*now[i] = *then[i]
	}
}

func conditionsOf(r *certificates.CertificateSigningRequest, of certificates.RequestConditionType) (out []*certificates.CertificateSigningRequestCondition) {
	for i := range r.Status.Conditions {
		if c := &r.Status.Conditions[i]; c.Type == of {
			out = append(out, c)
		}
	}
	return out
}

// dateConditions sets the times of conditions that have none. The time of transition is that of the old condition of the same type and
// status, if there is one.
func dateConditions(r, old *certificates.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, before := range conditionsOf(old, c.Type) {
			if before.Status == c.Status && !before.LastTransitionTime.IsZero() {
				c.LastTransitionTime = before.LastTransitionTime
				break
			}
		}
	}
}
