// Package apiservices maintains APIServices: one for each group version that the masters serve, the condition of those that extension API servers
// serve, and the ConfigMap by which these servers know the masters. Requests are passed on by package aggregation.
//
// Names, labels, conditions, reasons and messages are those of k8s.io/kube-aggregator. What a user has changed of an APIService stays: one that
// names a service has its group version served by that, also in the place of a built-in one such as metrics.k8s.io.
package apiservices

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Config has what the controllers are made of.
type Config struct {
	Client *client.Client
	// Served returns the group versions that the masters serve, and a channel that is closed when they may have changed.
	Served func() ([]GroupVersion, <-chan struct{})
	// Check asks an extension API server whether it serves its group version.
	Check func(context.Context, *apiregistrationv1.APIService) error
	// Authentication returns what the ConfigMap contains, and a channel that is closed when it has changed.
	Authentication func() (map[string]string, <-chan struct{})
}

// GroupVersion is one that the masters serve. Custom says that it has only custom resources.
type GroupVersion struct {
	Group, Version string
	Custom         bool
}

// New returns the controllers.
func New(c Config) []*controller.Controller {
	return []*controller.Controller{newRegistration(c), newAvailability(c), newAuthentication(c)}
}

// the is the ConfigMap that extension API servers read.
var the = controller.Key{Namespace: metav1.NamespaceSystem, Name: "extension-apiserver-authentication"}

// newAuthentication returns the controller that publishes how the masters authenticate users, and themselves as the front proxy
// (k8s.io/kubernetes/pkg/controlplane/controller/clusterauthenticationtrust).
func newAuthentication(c Config) *controller.Controller {
	return &controller.Controller{
		Name: "cluster-authentication-trust", Watches: []client.Object{&corev1.ConfigMap{}}, Workers: 1,
		Start: func(_ client.View, enqueue func(controller.Key)) { enqueue(the) },
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if key := controller.KeyOf(event.Object()); key == the {
				enqueue(key)
			}
		},
		Source: func(ctx context.Context, enqueue func(controller.Key)) error {
			for {
				_, changed := c.Authentication()
				enqueue(the)
				select {
				case <-changed:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			wanted, _ := c.Authentication()
			stored, ok := client.Get[*corev1.ConfigMap](v, key.Namespace, key.Name)
			if !ok {
				_, err := client.Create(ctx, c.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: wanted})
				if apierrors.IsAlreadyExists(err) {
					err = nil // its creation enqueues it
				}
				return controller.Result{}, err
			}
			changed := stored.DeepCopy()
			if changed.Data == nil {
				changed.Data = map[string]string{}
			}
			maps.Copy(changed.Data, wanted)
			if maps.Equal(changed.Data, stored.Data) {
				return controller.Result{}, nil
			}
			_, err := client.Update(ctx, c.Client, changed)
			return controller.Result{}, err
		},
	}
}
