package main

import (
	"context"
	"fmt"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// prepare creates the namespace, the target, and a service account that may do with its objects what the workload does. It returns the
// configuration of a client with the account's token.
func prepare(ctx context.Context, s system, t target) (*rest.Config, error) {
	const account = "load"
	set, err := clientset(s.admin())
	if err != nil {
		return nil, err
	}
	if _, err := set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if t.define != nil {
		if err := t.define(ctx, set); err != nil {
			return nil, err
		}
	}
	if _, err := set.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if _, err := set.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: namespace}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{t.group}, Resources: []string{t.resource, t.resource + "/status"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
	}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if _, err := set.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: account},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: namespace},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	hours := int64(6 * 3600)
	token, err := set.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	admin := s.admin()
	config := &rest.Config{Host: admin.Host, BearerToken: token.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAFile: admin.CAFile, CAData: admin.CAData}}
	return config, awaitAccess(ctx, s, config, t)
}

// awaitAccess waits until every API server lets the account create objects: the namespace has its default account, and the servers know of the
// binding and of the target.
func awaitAccess(ctx context.Context, s system, config *rest.Config, t target) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond) // another program: there is no event to wait for
	defer tick.Stop()
	for i, endpoint := range s.endpoints() {
		config := rest.CopyConfig(config)
		config.Dial = endpoint
		set, err := clientset(config)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("first-%d", i)
		for {
			if err = t.create(ctx, set, name); err == nil || apierrors.IsAlreadyExists(err) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("no object can be created: %w", err)
			case <-tick.C:
			}
		}
		if err := t.remove(ctx, set, name); err != nil {
			return err
		}
	}
	return nil
}
