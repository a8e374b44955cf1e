package admission_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

// TestAWorkloadFollowsWhatItsWriterMayUpdate: a roll-back writes the earlier content of what is followed.
func TestAWorkloadFollowsWhatItsWriterMayUpdate(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	deploys := rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"apps"}, Resources: []string{"*"}}
	maps := rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}
	secrets := rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"mine"}}
	user := grantRules(t, h, "user", deploys, maps, secrets).AppsV1().Deployments("default")
	admin := h.Clientset().AppsV1().Deployments("default")
	deployment := func(name, follows, config string, from ...string) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
		if follows != "" {
			d.Annotations = map[string]string{"kontiki.io/rollout-on-change": follows}
		}
		if config != "" {
			d.Spec.Template.Annotations = map[string]string{"kontiki.io/config": config}
		}
		for _, name := range from {
			d.Spec.Template.Spec.Containers[0].EnvFrom = append(d.Spec.Template.Spec.Containers[0].EnvFrom,
				corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}})
		}
		return d
	}
	forbidden := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `secret/theirs is followed`) || !strings.Contains(err.Error(), `cannot update resource "secrets"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := user.Create(ctx, deployment("a", "configmap/app, secret/mine", ""), metav1.CreateOptions{})
	ok("what the user may update", err)
	_, err = user.Create(ctx, deployment("none", "", "", "theirs"), metav1.CreateOptions{})
	ok("nothing is followed", err)
	_, err = user.Create(ctx, deployment("b", "secret/mine, secret/theirs", ""), metav1.CreateOptions{})
	forbidden("a Secret of others", err)
	_, err = user.Create(ctx, deployment("b", "*", "", "theirs"), metav1.CreateOptions{})
	forbidden("all that the template refers to", err)
	_, err = user.Update(ctx, deployment("a", "*", "", "theirs"), metav1.UpdateOptions{})
	forbidden("an update that follows more", err)
	// One that somebody else made may be changed, but not the configuration of its pods.
	_, err = admin.Create(ctx, deployment("theirs", "*", "one", "theirs"), metav1.CreateOptions{})
	ok("the administrator's", err)
	changed := deployment("theirs", "*", "one", "theirs")
	changed.Spec.Template.Spec.Containers[0].Image = "other"
	_, err = user.Update(ctx, changed, metav1.UpdateOptions{})
	ok("another image", err)
	_, err = user.Update(ctx, deployment("theirs", "*", "two", "theirs"), metav1.UpdateOptions{})
	forbidden("another configuration", err)
	_, err = admin.Update(ctx, deployment("theirs", "*", "two", "theirs"), metav1.UpdateOptions{})
	ok("another configuration by the administrator", err)
}
