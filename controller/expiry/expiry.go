// Package expiry deletes objects whose time is over: bootstrap tokens that have expired, certificate signing requests some time after they
// were decided, or not decided for long, and pod certificate requests a quarter of an hour after they were made. Times are upstream's
// (its controllers tokencleaner, csrcleaner and podcertificaterequestcleaner).
package expiry

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

const (
	pendingCSR            = 24 * time.Hour
	decidedCSR            = time.Hour
	podCertificateRequest = 15 * time.Minute
)

// rule says until when objects of one kind are kept.
type rule[T client.Object] struct {
	name string
	// until returns when an object is deleted; limited is false if it is kept.
	until func(T) (at time.Time, limited bool)
}

// New returns the controllers. expiresAt returns when the bootstrap token of a Secret expires. now is the clock, nil for the real one.
func New(c *client.Client, expiresAt func(*corev1.Secret) (at time.Time, limited bool), now func() time.Time) []*controller.Controller {
	if now == nil {
		now = time.Now
	}
	return []*controller.Controller{
		rule[*corev1.Secret]{"bootstrap-token-cleaner", func(s *corev1.Secret) (time.Time, bool) {
			if s.Namespace != metav1.NamespaceSystem || s.Type != corev1.SecretTypeBootstrapToken {
				return time.Time{}, false
			}
			return expiresAt(s)
		}}.controller(c, now),
		rule[*certificatesv1.CertificateSigningRequest]{"csr-cleaner", untilOfCSR}.controller(c, now),
		rule[*certificatesv1.PodCertificateRequest]{"pod-certificate-request-cleaner", func(r *certificatesv1.PodCertificateRequest) (time.Time, bool) {
			return r.CreationTimestamp.Add(podCertificateRequest), true
		}}.controller(c, now),
	}
}

// untilOfCSR returns when a request is deleted: when its certificate expires; an hour after it was denied, has failed, or was approved and
// signed; a day after it was approved, if nobody signs; a day after it was made, if nobody decides.
func untilOfCSR(r *certificatesv1.CertificateSigningRequest) (until time.Time, limited bool) {
	if len(r.Status.Conditions) == 0 {
		return r.CreationTimestamp.Add(pendingCSR), true
	}
	earliest := func(at time.Time) {
		if !limited || at.Before(until) {
			until, limited = at, true
		}
	}
	for _, c := range r.Status.Conditions {
		kept := decidedCSR
		if c.Type == certificatesv1.CertificateApproved && len(r.Status.Certificate) == 0 {
			kept = pendingCSR
		}
		if !c.LastUpdateTime.IsZero() {
			earliest(c.LastUpdateTime.Add(kept))
		}
	}
	if block, _ := pem.Decode(r.Status.Certificate); block != nil {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			earliest(certificate.NotAfter)
		}
	}
	return until, limited
}

func (r rule[T]) controller(c *client.Client, now func() time.Time) *controller.Controller {
	var empty T
	kind := c.KindOf(empty)
	return &controller.Controller{
		Name: r.name, Watches: []client.Object{kind.New()}, Workers: 1,
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(obj T) bool {
				if _, limited := r.until(obj); limited {
					enqueue(controller.KeyOf(obj))
				}
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if event.New != nil {
				if _, limited := r.until(event.New.(T)); limited {
					enqueue(controller.KeyOf(event.New))
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			obj, ok := client.Get[T](v, key.Namespace, key.Name)
			if !ok {
				return controller.Result{}, nil
			}
			until, limited := r.until(obj)
			if !limited {
				return controller.Result{}, nil
			}
			if left := until.Sub(now()); left > 0 {
				return controller.Result{After: left}, nil
			}
			err := c.Delete(ctx, obj, client.IfUID(obj.GetUID()))
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				err = nil // it is another one now
			}
			return controller.Result{}, err
		},
	}
}
