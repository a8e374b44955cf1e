package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/amount"
)

// podResizeValidator refuses new sizes of a pod that its node could never give it.
func podResizeValidator() objects.Step {
	return objects.Step{
		Name: "PodResizeValidator",
		Handles: func(a *objects.Attributes) bool {
			return a.Operation == objects.OpUpdate && a.Is(pods, "resize")
		},
		Validate: func(_ context.Context, a *objects.Attributes) error {
			pod, old := a.Object.(*corev1.Pod), a.Old.(*corev1.Pod)
			if pod.Spec.NodeName == "" || pod.Generation == old.Generation {
				return nil
			}
			node, ok, err := objects.Stored[*corev1.Node](a, "", pod.Spec.NodeName)
			switch {
			case err != nil:
				return err
			case !ok:
				return a.Forbid("node %q not found", pod.Spec.NodeName)
			}
			if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != "linux" {
				return because(a.Forbid("pod resize is only supported on linux nodes, node %q is %q", node.Name, os), "UnsupportedPlatform")
			}
			if lacks := notAllocatable(pod, node); len(lacks) > 0 {
				return because(a.Forbid("node didn't have enough allocatable resources: %s", strings.Join(lacks, "; ")), "NodeCapacity")
			}
			return nil
		},
	}
}

func notAllocatable(pod *corev1.Pod, node *corev1.Node) (lacks []string) {
	requests, allocatable := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}), node.Status.Allocatable
	if cpu, most := requests.Cpu(), allocatable.Cpu(); cpu.Cmp(*most) > 0 {
		lacks = append(lacks, fmt.Sprintf("cpu, requested: %d, allocatable: %d", amount.Milli(cpu), amount.Milli(most)))
	}
	if memory, most := requests.Memory(), allocatable.Memory(); memory.Cmp(*most) > 0 {
		lacks = append(lacks, fmt.Sprintf("memory, requested: %d, allocatable: %d", amount.Value(memory), amount.Value(most)))
	}
	return lacks
}

// because adds a cause to a refusal.
func because(err error, cause metav1.CauseType) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return err
}
