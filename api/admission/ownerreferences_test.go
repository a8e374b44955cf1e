package admission_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

func TestOwnersAreSetByThoseWhoMayDelete(t *testing.T) {
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Admission.Enable = []string{"OwnerReferencesPermissionEnforcement"} })
	ctx := context.Background()
	role := func(name string, rules ...rbacv1.PolicyRule) {
		t.Helper()
		if _, err := client.Update(ctx, h.Client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}); err != nil {
			t.Fatal(err)
		}
	}
	rule := func(verbs, resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{""}, Resources: []string{resource}}
	}
	role("joe", rule("create,update,get", "configmaps"))
	if _, err := client.Create(ctx, h.Client, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "joe"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "joe"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "joe"}}}); err != nil {
		t.Fatal(err)
	}
	joe, err := kubernetes.NewForConfig(h.Config("joe"))
	if err != nil {
		t.Fatal(err)
	}
	object := func(name string, block bool, owners ...string) *corev1.ConfigMap {
		c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, owner := range owners {
			c.OwnerReferences = append(c.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Secret", Name: owner, UID: "u-1", BlockOwnerDeletion: &block})
		}
		return c
	}
	maps := joe.CoreV1().ConfigMaps("default")
	check := func(what, says string, err error) {
		t.Helper()
		if says == "" && err != nil || says != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", what, err, says)
		}
	}
	const cannotDelete, cannotBlock = "cannot set an ownerRef on a resource you can't delete: , <nil>", "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
	create := func(c *corev1.ConfigMap) error {
		_, err := maps.Create(ctx, c, metav1.CreateOptions{})
		return err
	}
	update := func(c *corev1.ConfigMap) error {
		_, err := maps.Update(ctx, c, metav1.UpdateOptions{})
		return err
	}
	check("a new object with an owner", "", create(object("a", false, "s")))
	check("a new object that blocks", cannotBlock, create(object("b", true, "s")))
	check("a new object without owners", "", create(object("b", false)))
	check("an owner afterwards", cannotDelete, update(object("b", false, "s")))
	check("the same owner", "", update(object("a", false, "s")))
	role("joe", rule("create,update,get,delete", "configmaps"))
	check("an owner, by one who may delete", "", update(object("b", false, "s")))
	check("a blocking owner, by one who may delete", cannotBlock, update(object("b", true, "s")))
	role("joe", rule("create,update,get,delete", "configmaps"), rule("update", "secrets/finalizers"))
	check("a blocking owner, by one who may set its finalizers", "", update(object("b", true, "s")))
	other := object("c", true, "s")
	other.OwnerReferences[0].Kind = "Nothing"
	check("a blocking owner of an unknown kind", `cannot find RESTMapping for APIVersion v1 Kind Nothing`, create(other))
}
