package admission_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

// TestAServiceWakesWhatItsWriterMayScale: nobody scales by a connection what they could not scale themselves.
func TestAServiceWakesWhatItsWriterMayScale(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	services := rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"services"}}
	scale := rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{"apps"}, Resources: []string{"deployments/scale"}, ResourceNames: []string{"mine"}}
	user := grantRules(t, h, "user", services, scale).CoreV1().Services("default")
	admin := h.Clientset().CoreV1().Services("default")
	service := func(name, wakes string) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		if wakes != "" {
			s.Annotations = map[string]string{"kontiki.io/wake": wakes}
		}
		return s
	}
	forbidden := func(what string, err error, says string) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want: %s", what, err, says)
		}
	}
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := user.Create(ctx, service("a", "Deployment/mine"), metav1.CreateOptions{})
	ok("what the user may scale", err)
	_, err = user.Create(ctx, service("b", "Deployment/theirs"), metav1.CreateOptions{})
	forbidden("what the user may not scale", err, `cannot update resource "deployments/scale"`)
	_, err = user.Create(ctx, service("b", "DaemonSet/x"), metav1.CreateOptions{})
	forbidden("a kind that has no scale", err, "want KIND/NAME")
	headless := service("b", "Deployment/mine")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	_, err = user.Create(ctx, headless, metav1.CreateOptions{})
	forbidden("a headless service", err, "headless")
	patch := func(what string) error {
		_, err := user.Patch(ctx, "a", "application/merge-patch+json", []byte(what), metav1.PatchOptions{})
		return err
	}
	forbidden("an update", patch(`{"metadata":{"annotations":{"kontiki.io/wake":"Deployment/theirs"}}}`), "cannot update")
	forbidden("no TCP port any more", patch(`{"spec":{"ports":[{"port":53,"protocol":"UDP"}]}}`), "no TCP port")
	ok("another change", patch(`{"metadata":{"labels":{"a":"b"}}}`))
	// What somebody else has set may stay when other fields change.
	_, err = admin.Create(ctx, service("theirs", "Deployment/theirs"), metav1.CreateOptions{})
	ok("the administrator's", err)
	_, err = user.Patch(ctx, "theirs", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	ok("a label of that", err)
}
