package apiserver

//lint:file-ignore SA1019 ComponentStatus is deprecated and served

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// components returns the statuses of the components that clients of upstream look for. Here they are parts of the masters: they work
// if the cluster has a leader that this master follows.
func components(ready func(context.Context) error) func(context.Context, objects.Asked) []registry.Object {
	return func(ctx context.Context, _ objects.Asked) (out []registry.Object) {
		condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
		if ready != nil {
			if err := ready(ctx); err != nil {
				condition = corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Message: "not ready", Error: err.Error()}
			}
		}
		for _, name := range []string{"controller-manager", "etcd-0", "scheduler"} {
			out = append(out, &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{condition}})
		}
		return out
	}
}
