package pods

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
)

func TestSwapOfContainers(t *testing.T) {
	of := func(request, limit string) corev1.PodSpec {
		r := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
		if request != "" {
			r.Requests[corev1.ResourceMemory] = resource.MustParse(request)
		}
		if limit != "" {
			r.Limits[corev1.ResourceMemory] = resource.MustParse(limit)
		}
		return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: r}}}
	}
	important := of("1Gi", "2Gi")
	important.Priority = new(int32(systemCritical))
	guaranteed := of("1Gi", "1Gi")
	guaranteed.Containers[0].Resources.Limits[corev1.ResourceCPU] = resource.MustParse("1")
	node := &corev1.Node{Status: corev1.NodeStatus{Capacity: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("8Gi")}}}
	for name, c := range map[string]struct {
		behavior SwapBehavior
		spec     corev1.PodSpec
		static   bool
		no       bool // swap for containers on this host
		want     int64
	}{
		"an eighth of the memory":          {LimitedSwap, of("1Gi", "2Gi"), false, false, 512 << 20},
		"without a limit":                  {LimitedSwap, of("2Gi", ""), false, false, 1 << 30},
		"NoSwap":                           {NoSwap, of("1Gi", "2Gi"), false, false, 0},
		"a host that cannot":               {LimitedSwap, of("1Gi", "2Gi"), false, true, 0},
		"a request as large as the limit":  {LimitedSwap, of("1Gi", "1Gi"), false, false, 0},
		"no request":                       {LimitedSwap, of("", ""), false, false, 0},
		"a Guaranteed pod":                 {LimitedSwap, guaranteed, false, false, 0},
		"a critical pod":                   {LimitedSwap, important, false, false, 0},
		"a static pod":                     {LimitedSwap, of("1Gi", "2Gi"), true, false, 0},
		"more than the node has of memory": {LimitedSwap, of("9Gi", ""), false, false, 0},
	} {
		rt := fake.New()
		rt.SetFeatures(runtime.Features{Swap: !c.no})
		m := New(Config{Runtime: rt, Swap: c.behavior, SwapTotal: 4 << 30, Node: func() *corev1.Node { return node }, Static: func(types.UID) bool { return c.static }})
		pod := &corev1.Pod{Spec: c.spec}
		if got := m.swapOf(pod, resources.LimitsOf(pod, &pod.Spec.Containers[0])); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	for name, want := range map[string]SwapBehavior{"": NoSwap, "NoSwap": NoSwap, "LimitedSwap": LimitedSwap} {
		if got, err := ParseSwapBehavior(name); got != want || err != nil {
			t.Errorf("%q is %q, %v", name, got, err)
		}
	}
	if got, err := ParseSwapBehavior("UnlimitedSwap"); err == nil {
		t.Errorf("UnlimitedSwap is %q", got)
	}
}

// TestSeccompOfPodsThatSayNothing: the node's default is for them alone.
func TestSeccompOfPodsThatSayNothing(t *testing.T) {
	profile := func(kind corev1.SeccompProfileType) *corev1.SeccompProfile { return &corev1.SeccompProfile{Type: kind} }
	for _, c := range []struct {
		name           string
		byDefault      bool
		pod, container *corev1.SeccompProfile
		want           string
	}{
		{"nothing", false, nil, nil, "unconfined"},
		{"the default", true, nil, nil, "runtime/default"},
		{"an unconfined pod", true, profile(corev1.SeccompProfileTypeUnconfined), nil, "unconfined"},
		{"an unconfined container", true, nil, profile(corev1.SeccompProfileTypeUnconfined), "unconfined"},
		{"a container in an unconfined pod", true, profile(corev1.SeccompProfileTypeUnconfined), profile(corev1.SeccompProfileTypeRuntimeDefault), "runtime/default"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{SeccompProfile: c.pod},
			Containers: []corev1.Container{{Name: "c", SecurityContext: &corev1.SecurityContext{SeccompProfile: c.container}}}}}
		s, err := securityOf(pod, &pod.Spec.Containers[0], seccompConfig{byDefault: c.byDefault})
		if err != nil || s.Seccomp != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, s.Seccomp, err, c.want)
		}
	}
}
