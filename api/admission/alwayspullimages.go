package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/objects"
)

// alwaysPullImages makes every container pull its image, so that nobody uses an image that is on a node without the credentials for it.
func alwaysPullImages() objects.Step {
	return objects.Step{
		Name: "AlwaysPullImages",
		Handles: func(a *objects.Attributes) bool {
			return a.Is(pods, "") && (a.Operation == objects.OpCreate || a.Operation == objects.OpUpdate && hasNewImages(a))
		},
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			eachImage(a.Object.(*corev1.Pod), func(_ string, policy *corev1.PullPolicy, _ *field.Path) { *policy = corev1.PullAlways })
			return nil
		},
		Validate: func(_ context.Context, a *objects.Attributes) (err error) {
			eachImage(a.Object.(*corev1.Pod), func(_ string, policy *corev1.PullPolicy, path *field.Path) {
				if *policy != corev1.PullAlways && err == nil {
					err = a.Forbid("%w", field.NotSupported(path, *policy, []corev1.PullPolicy{corev1.PullAlways}))
				}
			})
			return err
		},
	}
}

// eachImage calls visit for every image that a pod uses.
func eachImage(pod *corev1.Pod, visit func(image string, policy *corev1.PullPolicy, path *field.Path)) {
	spec := field.NewPath("spec")
	for name, list := range map[string][]corev1.Container{"initContainers": pod.Spec.InitContainers, "containers": pod.Spec.Containers} {
		for i := range list {
			visit(list[i].Image, &list[i].ImagePullPolicy, spec.Child(name).Index(i).Child("imagePullPolicy"))
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		visit(c.Image, &c.ImagePullPolicy, spec.Child("ephemeralContainers").Index(i).Child("imagePullPolicy"))
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			visit(image.Reference, &image.PullPolicy, spec.Child("volumes").Index(i).Child("image", "pullPolicy"))
		}
	}
}

func hasNewImages(a *objects.Attributes) bool {
	old, isPod := a.Old.(*corev1.Pod)
	pod, _ := a.Object.(*corev1.Pod)
	if !isPod || pod == nil {
		return false
	}
	had, has := sets.New[string](), sets.New[string]()
	eachImage(old, func(image string, _ *corev1.PullPolicy, _ *field.Path) { had.Insert(image) })
	eachImage(pod, func(image string, _ *corev1.PullPolicy, _ *field.Path) { has.Insert(image) })
	return !had.IsSuperset(has)
}
