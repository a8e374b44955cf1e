package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// DeletionProtection is the annotation that protects an object from deletion if its value is "true". On a Namespace it protects also what
// is in it.
const DeletionProtection = "kontiki.io/deletion-protection"

// deletionProtection refuses the deletion of an object with the annotation, whoever asks for it, also the cluster's own controllers: so it
// survives the deletion of its owner, and keeps a namespace that is being deleted. What is in a namespace with the annotation is
// protected from deletion by users, but not from controllers, which carry out what users declared. Objects that have a controller, which
// would make them again, and events are not. A deletion that has begun goes on. It cannot be disabled.
func deletionProtection() objects.Step {
	return objects.Step{
		Name:    "DeletionProtection",
		Handles: func(a *objects.Attributes) bool { return a.Operation == objects.OpDelete && a.Subresource == "" },
		Validate: func(_ context.Context, a *objects.Attributes) error {
			old, ok := a.Old.(metav1.Object)
			if !ok || old.GetDeletionTimestamp() != nil {
				return nil
			}
			if protected(old) {
				return a.Forbid("the annotation %s protects it from deletion: remove the annotation first", DeletionProtection)
			}
			if a.Trusted || old.GetNamespace() == "" || metav1.GetControllerOfNoCopy(old) != nil || a.Kind.Kind == "Event" {
				return nil
			}
			namespace, ok, err := objects.Stored[*corev1.Namespace](a, "", old.GetNamespace())
			if err != nil || !ok || namespace.DeletionTimestamp != nil || !protected(namespace) {
				return err
			}
			return a.Forbid("the annotation %s of the namespace %s protects it from deletion: remove that annotation first", DeletionProtection, namespace.Name)
		},
	}
}

func protected(obj metav1.Object) bool { return obj.GetAnnotations()[DeletionProtection] == "true" }
