package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/certauthorization"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
)

// The steps below ask whether a user may approve, sign or attest for a signer: verbs on the resource "signers" of certificates.k8s.io,
// for the signer's name or for all names of its domain. Rules and words are upstream's.

var (
	signingRequests = certificatesv1.Resource("certificatesigningrequests")
	podCertificates = certificatesv1.Resource("podcertificaterequests")
	trustBundles    = certificatesv1.Resource("clustertrustbundles")
	mayFor          = certauthorization.IsAuthorizedForSignerName
)

// certificateApproval lets only those approve or deny a request who may approve for its signer.
func certificateApproval(by auth.Authorizer) objects.Step {
	return objects.Step{
		Name:    "CertificateApproval",
		Handles: func(a *objects.Attributes) bool { return userUpdates(a) && a.Is(signingRequests, "approval") },
		Validate: func(ctx context.Context, a *objects.Attributes) error {
			// The stored signer's name: the new object's may have been changed.
			signer := a.Old.(*certificatesv1.CertificateSigningRequest).Spec.SignerName
			if !mayFor(ctx, by, a.User, "approve", signer) {
				return a.Forbid("user not permitted to approve requests with signerName %q", signer)
			}
			return nil
		},
	}
}

// certificateSigning lets only those write a certificate, or a signer's conditions, who may sign for the signer.
func certificateSigning(by auth.Authorizer) objects.Step {
	return objects.Step{
		Name: "CertificateSigning",
		Handles: func(a *objects.Attributes) bool {
			return userUpdates(a) && (a.Is(signingRequests, "status") || a.Is(podCertificates, "status"))
		},
		Validate: func(ctx context.Context, a *objects.Attributes) error {
			switch old := a.Old.(type) {
			case *certificatesv1.CertificateSigningRequest:
				now := a.Object.(*certificatesv1.CertificateSigningRequest).Status
				if slices.Equal(old.Status.Certificate, now.Certificate) && apiequality.Semantic.DeepEqual(old.Status.Conditions, now.Conditions) {
					return nil
				}
				if !mayFor(ctx, by, a.User, "sign", old.Spec.SignerName) {
					return a.Forbid("user not permitted to sign requests with signerName %q", old.Spec.SignerName)
				}
			case *certificatesv1.PodCertificateRequest:
				if apiequality.Semantic.DeepEqual(old.Status, a.Object.(*certificatesv1.PodCertificateRequest).Status) {
					return nil
				}
				if !mayFor(ctx, by, a.User, "sign", old.Spec.SignerName) {
					return a.Forbid("User %q is not permitted to \"sign\" for signer %q", a.User.GetName(), old.Spec.SignerName)
				}
			}
			return nil
		},
	}
}

// clusterTrustBundleAttest lets only those publish the trust anchors of a signer who may attest for it.
func clusterTrustBundleAttest(by auth.Authorizer) objects.Step {
	return objects.Step{
		Name: "ClusterTrustBundleAttest",
		Handles: func(a *objects.Attributes) bool {
			return !a.Trusted && handles(trustBundles, objects.OpCreate, objects.OpUpdate)(a)
		},
		Validate: func(ctx context.Context, a *objects.Attributes) error {
			bundle := a.Object.(*certificatesv1.ClusterTrustBundle) // validation refuses another signer's name in an update
			if old, ok := a.Old.(*certificatesv1.ClusterTrustBundle); ok && sameButCollected(bundle, old) {
				return nil
			}
			if signer := bundle.Spec.SignerName; signer != "" && !mayFor(ctx, by, a.User, "attest", signer) {
				return a.Forbid("user not permitted to attest for signerName %q", signer)
			}
			return nil
		},
	}
}

// sameButCollected says whether only what the garbage collector writes differs.
func sameButCollected(a, b *certificatesv1.ClusterTrustBundle) bool {
	a = a.DeepCopy()
	a.OwnerReferences, a.Finalizers, a.ManagedFields = b.OwnerReferences, b.Finalizers, b.ManagedFields
	a.ResourceVersion = b.ResourceVersion
	return apiequality.Semantic.DeepEqual(a, b)
}

// certificateSubjectRestriction refuses requests for certificates that would make somebody a master of the cluster.
func certificateSubjectRestriction() objects.Step {
	return objects.Step{
		Name:    "CertificateSubjectRestriction",
		Handles: handles(signingRequests, objects.OpCreate),
		Validate: func(_ context.Context, a *objects.Attributes) error {
			spec := &a.Object.(*certificatesv1.CertificateSigningRequest).Spec
			if spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
				return nil
			}
			block, _ := pem.Decode(spec.Request)
			if block == nil {
				return a.Forbid("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST")
			}
			request, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				return a.Forbid("failed to parse CSR: %v", err)
			}
			if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
				return a.Forbid("use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName)
			}
			return nil
		},
	}
}

// userUpdates says whether this is an update that a user asked for, and not one of the cluster's own components.
func userUpdates(a *objects.Attributes) bool { return a.Operation == objects.OpUpdate && !a.Trusted }
