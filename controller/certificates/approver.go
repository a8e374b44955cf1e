package certificates

import (
	"context"
	"crypto/x509"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/certificates"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// recognizers say which requests are approved if their requester may create a subresource of certificatesigningrequests, in the order
// in which they are tried.
var recognizers = []struct {
	subresource, message string
	recognizes           func(*certificatesv1.CertificateSigningRequest, *x509.CertificateRequest) bool
}{
	{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.", func(r *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) bool {
		return r.Spec.Username == request.Subject.CommonName && nodeClient(r, request)
	}},
	{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.", nodeClient},
}

func nodeClient(r *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) bool {
	return r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && certificates.IsKubeletClientCSR(request, usageSet(r.Spec.Usages))
}

// NewApprover returns the controller that approves the requests of nodes for client certificates.
func NewApprover(c *client.Client) *controller.Controller {
	a := approver{c}
	return requests("csrapproving", undecided, a.reconcile)
}

// permissionPeriod is how often a requester's permission is checked again.
const permissionPeriod = time.Minute

// undecided says whether nobody has decided about a request for a node's client certificate.
func undecided(r *certificatesv1.CertificateSigningRequest) bool {
	return r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && len(r.Status.Certificate) == 0 &&
		!slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied
		})
}

type approver struct{ client *client.Client }

func (a approver) reconcile(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (again bool, err error) {
	request, err := certificates.ParseCSR(r.Spec.Request)
	if err != nil {
		return false, nil // nobody can sign it
	}
	for _, recognizer := range recognizers {
		if !recognizer.recognizes(r, request) {
			continue
		}
		again = true
		allowed, err := a.mayCreate(ctx, r, recognizer.subresource)
		if err != nil {
			return false, err
		}
		if !allowed {
			continue
		}
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: recognizer.message,
		})
		_, err = client.UpdateSubresource(ctx, a.client, r, "approval")
		return false, err
	}
	return again, nil // its requester may be given the permission
}

// mayCreate says whether a request's user may create a subresource of signing requests.
func (a approver) mayCreate(ctx context.Context, r *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}}
	for key, values := range r.Spec.Extra {
		if review.Spec.Extra == nil {
			review.Spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		review.Spec.Extra[key] = authorizationv1.ExtraValue(values)
	}
	answer, err := client.Create(ctx, a.client, review)
	if err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}
