// Package trustbundle publishes the CAs of the API's serving certificates as a ClusterTrustBundle of the signer
// kubernetes.io/kube-apiserver-serving, as upstream's controller does. The bundle's name contains a hash of its content, so that
// another one takes its place when the CAs change, and the old one goes when the new one is there.
package trustbundle

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Signer is the signer's name.
const Signer = "kubernetes.io/kube-apiserver-serving"

// the is the one key of the controller.
var the = controller.Key{Name: Signer}

// New returns the controller. ca returns the PEM bundle of the CAs, and a channel that is closed when it has changed; nil if it never
// does.
func New(c *client.Client, ca func() ([]byte, <-chan struct{})) *controller.Controller {
	p := publisher{c, ca}
	return &controller.Controller{
		Name: "kube-apiserver-serving-clustertrustbundle-publisher", Watches: []client.Object{&certificatesv1.ClusterTrustBundle{}}, Workers: 1,
		Start: func(_ client.View, enqueue func(controller.Key)) { enqueue(the) },
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if event.Object().(*certificatesv1.ClusterTrustBundle).Spec.SignerName == Signer {
				enqueue(the)
			}
		},
		Source:    p.follow,
		Reconcile: p.reconcile,
	}
}

type publisher struct {
	client *client.Client
	ca     func() ([]byte, <-chan struct{})
}

// follow publishes the CAs again when they change.
func (p publisher) follow(ctx context.Context, enqueue func(controller.Key)) error {
	for {
		_, changed := p.ca()
		enqueue(the)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p publisher) reconcile(ctx context.Context, v client.View, _ controller.Key) (controller.Result, error) {
	bundle, _ := p.ca()
	if len(bundle) == 0 {
		return controller.Result{}, nil
	}
	hash := sha256.Sum256(bundle)
	name := fmt.Sprintf("%s:%x", strings.ReplaceAll(Signer, "/", ":"), hash[:12])
	if err := p.publish(ctx, v, name, string(bundle)); err != nil {
		return controller.Result{}, err
	}
	var old []*certificatesv1.ClusterTrustBundle
	client.Each(v, "", func(b *certificatesv1.ClusterTrustBundle) bool {
		if b.Spec.SignerName == Signer && b.Name != name && b.DeletionTimestamp == nil {
			old = append(old, b)
		}
		return true
	})
	return controller.Result{}, controller.Each(old, func(b *certificatesv1.ClusterTrustBundle) error {
		err := p.client.Delete(ctx, b, client.IfUID(b.UID))
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil // it is another one now, and will be enqueued
		}
		return err
	})
}

// publish creates the bundle, or restores its content.
func (p publisher) publish(ctx context.Context, v client.View, name, bundle string) error {
	stored, ok := client.Get[*certificatesv1.ClusterTrustBundle](v, "", name)
	if !ok {
		_, err := client.Create(ctx, p.client, &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: Signer, TrustBundle: bundle},
		})
		return err
	}
	if stored.Spec.TrustBundle == bundle {
		return nil
	}
	mended := stored.DeepCopy()
	mended.Spec.TrustBundle = bundle
	_, err := client.Update(ctx, p.client, mended)
	return err
}
