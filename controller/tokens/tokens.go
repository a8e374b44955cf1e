// Package tokens fills in Secrets of type kubernetes.io/service-account-token, which hold a long-lived token of a service account,
// as upstream's tokens controller does: with the token, the CAs and the namespace. A Secret whose service account does not exist is
// deleted, and a deleted Secret is removed from its service account's list.
package tokens

import (
	"bytes"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Issuer signs the tokens.
type Issuer interface {
	IssueLegacy(account metav1.Object, secret string) (string, error)
	// Verifies says whether a token's signature is valid. Changed returns a channel that is closed when the keys have changed.
	Verifies(token string) bool
	Changed() <-chan struct{}
}

// New returns the controller. ca returns the PEM bundle of the CAs that clients should trust, and a channel that is closed when it
// has changed; nil if it never does.
func New(c *client.Client, issuer Issuer, ca func() ([]byte, <-chan struct{})) *controller.Controller {
	r := reconciler{c, issuer, ca}
	return &controller.Controller{
		Name:    "tokens",
		Watches: []client.Object{&corev1.Secret{}, &corev1.ServiceAccount{}},
		Start:   func(v client.View, enqueue func(controller.Key)) { each(v, all, enqueue) },
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *corev1.Secret:
				if obj.Type == corev1.SecretTypeServiceAccountToken {
					enqueue(controller.KeyOf(obj))
				}
			case *corev1.ServiceAccount:
				if event.Old == nil || event.New == nil {
					each(v, controller.KeyOf(obj).String(), enqueue)
				}
			}
		},
		Source:    r.follow,
		Reconcile: r.reconcile,
	}
}

// all is the key under which byAccount has every token Secret.
const all = ""

// byAccount finds token Secrets by their service account.
var byAccount = client.NewIndex(func(s *corev1.Secret, add func(string)) {
	if s.Type == corev1.SecretTypeServiceAccountToken {
		add(all)
		add(controller.Key{Namespace: s.Namespace, Name: s.Annotations[corev1.ServiceAccountNameKey]}.String())
	}
})

// byListed finds service accounts by the Secrets that they list.
var byListed = client.NewIndex(func(sa *corev1.ServiceAccount, add func(string)) {
	for _, ref := range sa.Secrets {
		add(controller.Key{Namespace: sa.Namespace, Name: ref.Name}.String())
	}
})

// each enqueues the Secrets that byAccount has under a key.
func each(v client.View, key string, enqueue func(controller.Key)) {
	for _, s := range byAccount.Any(v, key) {
		enqueue(controller.KeyOf(s))
	}
}

type reconciler struct {
	client *client.Client
	issuer Issuer
	ca     func() ([]byte, <-chan struct{})
}

// follow enqueues every token Secret when the CAs or the keys change.
func (r reconciler) follow(ctx context.Context, enqueue func(controller.Key)) error {
	for {
		keys := r.issuer.Changed()
		_, changed := r.ca()
		each(r.client.View(), all, enqueue)
		select {
		case <-keys:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	stored, ok := client.Get[*corev1.Secret](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, r.unlist(ctx, v, key)
	}
	if stored.Type != corev1.SecretTypeServiceAccountToken || stored.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	account, ok := client.Get[*corev1.ServiceAccount](v, key.Namespace, stored.Annotations[corev1.ServiceAccountNameKey])
	if uid := stored.Annotations[corev1.ServiceAccountUIDKey]; !ok || uid != "" && uid != string(account.UID) {
		err := r.client.Delete(ctx, stored, client.IfUID(stored.UID))
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return controller.Result{}, err
	}
	filled, err := r.fill(stored, account)
	if err != nil || filled == nil {
		return controller.Result{}, err
	}
	_, err = client.Update(ctx, r.client, filled)
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return controller.Result{}, err
}

// fill returns the Secret with everything that it should have, nil if it already has that.
func (r reconciler) fill(stored *corev1.Secret, account *corev1.ServiceAccount) (*corev1.Secret, error) {
	bundle, _ := r.ca()
	token := stored.Data[corev1.ServiceAccountTokenKey]
	needsToken := len(token) == 0 || !r.issuer.Verifies(string(token))
	needsCA := len(bundle) > 0 && !bytes.Equal(stored.Data[corev1.ServiceAccountRootCAKey], bundle)
	needsNamespace := len(stored.Data[corev1.ServiceAccountNamespaceKey]) == 0
	if !needsToken && !needsCA && !needsNamespace {
		return nil, nil
	}
	s := stored.DeepCopy()
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	if needsToken {
		issued, err := r.issuer.IssueLegacy(account, s.Name)
		if err != nil {
			return nil, err
		}
		s.Data[corev1.ServiceAccountTokenKey] = []byte(issued)
	}
	if needsCA {
		s.Data[corev1.ServiceAccountRootCAKey] = bundle
	}
	if needsNamespace {
		s.Data[corev1.ServiceAccountNamespaceKey] = []byte(s.Namespace)
	}
	s.Annotations[corev1.ServiceAccountNameKey], s.Annotations[corev1.ServiceAccountUIDKey] = account.Name, string(account.UID)
	return s, nil
}

// unlist removes a deleted Secret from the lists of service accounts.
func (r reconciler) unlist(ctx context.Context, v client.View, key controller.Key) error {
	names := func(ref corev1.ObjectReference) bool { return ref.Name == key.Name }
	for _, sa := range byListed.Any(v, key.String()) {
		mended := sa.DeepCopy()
		mended.Secrets = slices.DeleteFunc(mended.Secrets, names)
		if _, err := client.Update(ctx, r.client, mended); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
