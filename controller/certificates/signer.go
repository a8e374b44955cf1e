package certificates

//lint:file-ignore SA1019 upstream's rules take the deprecated sets.String

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/apis/certificates"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Times of certificates, as upstream's.
const (
	// DefaultDuration is how long certificates are valid that ask for no shorter time.
	DefaultDuration = 365 * 24 * time.Hour
	// MinDuration is the shortest validity.
	MinDuration = 10 * time.Minute
	backdate    = 5 * time.Minute // for clients whose clocks are behind
	short       = 8 * time.Hour   // below it, the validity is not shortened by backdate
)

// reasonInvalid is the reason of the condition Failed.
const reasonInvalid = "SignerValidationFailure"

// CA signs certificates.
type CA interface {
	// SignClient returns a certificate in PEM for a public key, with the subject, names, usages and validity of a template.
	SignClient(template *x509.Certificate, public crypto.PublicKey) ([]byte, error)
	// Reserved says whether an error means that the CA gives the subject to nobody.
	Reserved(error) bool
}

// signers are the rules of the signers of Kubernetes.
var signers = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName: func(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
		return clientUsages(usages)
	},
	certificatesv1.KubeAPIServerClientKubeletSignerName: func(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
		return certificates.ValidateKubeletClientCSR(r, usageSet(usages))
	},
	certificatesv1.KubeletServingSignerName: func(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
		return certificates.ValidateKubeletServingCSR(r, usageSet(usages))
	},
}

func clientUsages(usages []certificatesv1.KeyUsage) error {
	for _, usage := range usages {
		if usage != certificatesv1.UsageDigitalSignature && usage != certificatesv1.UsageKeyEncipherment && usage != certificatesv1.UsageClientAuth {
			return fmt.Errorf("invalid usage for client certificate: %s", usage)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

func usageSet(usages []certificatesv1.KeyUsage) sets.String {
	set := sets.String{}
	for _, usage := range usages {
		set.Insert(string(usage))
	}
	return set
}

// NewSigner returns the controller that signs. duration is how long certificates are valid that ask for no shorter time.
func NewSigner(c *client.Client, ca CA, duration time.Duration) *controller.Controller {
	s := signer{c, ca, duration}
	return requests("csrsigning", s.unsigned, s.reconcile)
}

// requests returns a controller of the signing requests for which due holds. A request is reconciled again after a while if again is
// true.
func requests(name string, due func(*certificatesv1.CertificateSigningRequest) bool, reconcile func(context.Context, *certificatesv1.CertificateSigningRequest) (again bool, err error)) *controller.Controller {
	return &controller.Controller{
		Name: name, Watches: []client.Object{&certificatesv1.CertificateSigningRequest{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(r *certificatesv1.CertificateSigningRequest) bool {
				if due(r) {
					enqueue(controller.KeyOf(r))
				}
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if r, ok := event.New.(*certificatesv1.CertificateSigningRequest); ok && r != nil && due(r) {
				enqueue(controller.KeyOf(r))
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			stored, ok := client.Get[*certificatesv1.CertificateSigningRequest](v, "", key.Name)
			if !ok || !due(stored) {
				return controller.Result{}, nil
			}
			again, err := reconcile(ctx, stored.DeepCopy())
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return controller.Result{}, nil // it is another one now, and will be enqueued
			}
			if again {
				return controller.Result{After: permissionPeriod}, err
			}
			return controller.Result{}, err
		},
	}
}

type signer struct {
	client   *client.Client
	ca       CA
	duration time.Duration
}

// unsigned says whether a request was approved for one of the signers, and is neither signed nor failed.
func (s signer) unsigned(r *certificatesv1.CertificateSigningRequest) bool {
	return signers[r.Spec.SignerName] != nil && len(r.Status.Certificate) == 0 && has(r, certificatesv1.CertificateApproved) &&
		!has(r, certificatesv1.CertificateDenied) && !has(r, certificatesv1.CertificateFailed)
}

func has(r *certificatesv1.CertificateSigningRequest, of certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == of && (c.Status == corev1.ConditionTrue || c.Status == "")
	})
}

func (s signer) reconcile(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (again bool, err error) {
	signed, err := s.sign(r)
	switch {
	case errors.Is(err, errInvalid):
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: reasonInvalid, Message: err.Error(),
		})
	case err != nil:
		return false, fmt.Errorf("error auto signing csr: %w", err)
	}
	r.Status.Certificate = signed
	_, err = client.UpdateStatus(ctx, s.client, r)
	return false, err
}

// invalid is an error of a request that will never be signed. Its text is the condition's message.
type invalid struct{ error }

var errInvalid = errors.New("invalid request")

// Is makes every invalid an errInvalid.
func (invalid) Is(target error) bool { return target == errInvalid }

func (s signer) sign(r *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	request, err := certificates.ParseCSR(r.Spec.Request)
	if err != nil {
		return nil, invalid{fmt.Errorf("unable to parse csr: %w", err)}
	}
	if err := signers[r.Spec.SignerName](request, r.Spec.Usages); err != nil {
		return nil, invalid{err}
	}
	if err := request.CheckSignature(); err != nil {
		return nil, invalid{fmt.Errorf("unable to verify certificate request signature: %w", err)}
	}
	now, lifetime := time.Now(), s.lifetime(r.Spec.ExpirationSeconds)
	template := &x509.Certificate{
		Subject:  request.Subject,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses, URIs: request.URIs,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime),
	}
	if lifetime >= short {
		template.NotAfter = template.NotAfter.Add(-backdate)
	}
	for _, usage := range r.Spec.Usages {
		switch usage {
		case certificatesv1.UsageDigitalSignature:
			template.KeyUsage |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageKeyEncipherment:
			template.KeyUsage |= x509.KeyUsageKeyEncipherment
		case certificatesv1.UsageClientAuth:
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		case certificatesv1.UsageServerAuth:
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		default: // no signer allows others
			return nil, invalid{fmt.Errorf("unrecognized usage value: %q", usage)}
		}
	}
	signed, err := s.ca.SignClient(template, request.PublicKey)
	if err != nil && s.ca.Reserved(err) {
		return nil, invalid{err}
	}
	return signed, err
}

// lifetime returns how long a certificate is valid that asks for a number of seconds; nil asks for the longest time.
func (s signer) lifetime(seconds *int32) time.Duration {
	if seconds == nil {
		return s.duration
	}
	return min(max(time.Duration(*seconds)*time.Second, MinDuration), s.duration)
}
