// Package serviceaccount creates in every namespace what pods need to access the API: the service account "default" and the
// ConfigMap "kube-root-ca.crt" with the cluster's CA.
package serviceaccount

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

const (
	account     = "default"
	rootCA      = "kube-root-ca.crt"
	rootCAKey   = "ca.crt"
	description = "kubernetes.io/description"
	usage       = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// New returns the controller. ca returns the PEM bundle of the CAs that clients should trust, and a channel that is closed when it
// has changed; nil if it never does.
func New(c *client.Client, ca func() ([]byte, <-chan struct{})) *controller.Controller {
	r := reconciler{c, ca}
	return &controller.Controller{
		Name:    "serviceaccount",
		Watches: []client.Object{&corev1.Namespace{}, &corev1.ServiceAccount{}, &corev1.ConfigMap{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(ns *corev1.Namespace) bool {
				enqueue(controller.Key{Name: ns.Name})
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *corev1.Namespace:
				enqueue(controller.Key{Name: obj.Name})
			case *corev1.ServiceAccount:
				if obj.Name == account && event.New == nil {
					enqueue(controller.Key{Name: obj.Namespace})
				}
			case *corev1.ConfigMap:
				if obj.Name == rootCA {
					enqueue(controller.Key{Name: obj.Namespace})
				}
			}
		},
		Source:    r.follow,
		Reconcile: r.reconcile,
	}
}

// follow updates every namespace's bundle when the CAs change.
func (r reconciler) follow(ctx context.Context, enqueue func(controller.Key)) error {
	for {
		_, changed := r.ca()
		client.Each(r.client.View(), "", func(ns *corev1.Namespace) bool {
			enqueue(controller.Key{Name: ns.Name})
			return true
		})
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type reconciler struct {
	client *client.Client
	ca     func() ([]byte, <-chan struct{})
}

func (r reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	ns, ok := client.Get[*corev1.Namespace](v, "", key.Name)
	if !ok || ns.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	if _, ok := client.Get[*corev1.ServiceAccount](v, ns.Name, account); !ok {
		_, err := client.Create(ctx, r.client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: account}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return controller.Result{}, err
		}
	}
	return controller.Result{}, r.publish(ctx, v, ns.Name)
}

// publish creates the ConfigMap with the CAs, or restores what it should contain.
func (r reconciler) publish(ctx context.Context, v client.View, namespace string) error {
	bundle, _ := r.ca()
	wanted := string(bundle)
	stored, ok := client.Get[*corev1.ConfigMap](v, namespace, rootCA)
	if !ok {
		return r.create(ctx, namespace, wanted)
	}
	if len(stored.Data) == 1 && stored.Data[rootCAKey] == wanted && len(stored.BinaryData) == 0 && stored.Annotations[description] != "" {
		return nil
	}
	if stored.Immutable != nil && *stored.Immutable {
		// Somebody made it so, and nobody can change it any more. Another one has the right content, also after the next change of the CAs.
		err := r.client.Delete(ctx, stored, client.IfUID(stored.UID))
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // it is another one now, and will be enqueued
		}
		if err == nil {
			err = r.create(ctx, namespace, wanted)
		}
		if apierrors.IsAlreadyExists(err) {
			return nil // finalizers keep it; its end will be enqueued
		}
		return err
	}
	mended := stored.DeepCopy()
	mended.Data, mended.BinaryData = map[string]string{rootCAKey: wanted}, nil
	metav1.SetMetaDataAnnotation(&mended.ObjectMeta, description, usage)
	_, err := client.Update(ctx, r.client, mended)
	return err
}

func (r reconciler) create(ctx context.Context, namespace, bundle string) error {
	_, err := client.Create(ctx, r.client, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: rootCA, Annotations: map[string]string{description: usage}},
		Data:       map[string]string{rootCAKey: bundle},
	})
	return err
}
