package admission_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

func pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i", Image: "x"}}, Containers: []corev1.Container{{Name: "c", Image: "x"}, {Name: "d", Image: "x"}}}}
	if change != nil {
		change(p)
	}
	return p
}

func of[T any](v T) *T { return &v }

func TestPodsGetWhatTheClusterGivesThem(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	account := func(name string, change func(*corev1.ServiceAccount)) {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
		change(sa)
		if _, err := client.Create(ctx, h.Client, sa); err != nil {
			t.Fatal(err)
		}
	}
	account("quiet", func(sa *corev1.ServiceAccount) { sa.AutomountServiceAccountToken = of(false) })
	account("pulls", func(sa *corev1.ServiceAccount) {
		sa.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
	})
	const path = "/var/run/secrets/kubernetes.io/serviceaccount"
	mounts := func(p *corev1.Pod) (n int) {
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for _, c := range list {
				for _, m := range c.VolumeMounts {
					if m.MountPath == path {
						n++
					}
				}
			}
		}
		return n
	}
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		check  func(*corev1.Pod) bool
		says   string
	}{
		{"a-runtime-class", func(p *corev1.Pod) { p.Spec.RuntimeClassName = of("gvisor") }, nil, `pod rejected: RuntimeClass "gvisor" not found`},
		{"overhead", func(p *corev1.Pod) { p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("1")} }, nil, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{"plain", nil, func(p *corev1.Pod) bool {
			return p.Spec.ServiceAccountName == "default" && p.Spec.DeprecatedServiceAccount == "default" && mounts(p) == 3 &&
				len(p.Spec.Volumes) == 1 && strings.HasPrefix(p.Spec.Volumes[0].Name, "kube-api-access-") && len(p.Spec.Volumes[0].Projected.Sources) == 3 &&
				*p.Spec.Priority == 0 && *p.Spec.PreemptionPolicy == corev1.PreemptLowerPriority && len(p.Spec.Tolerations) == 2 &&
				p.Spec.Tolerations[0].Key == corev1.TaintNodeNotReady && *p.Spec.Tolerations[0].TolerationSeconds == 300
		}, ""},
		{"no-token", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = of(false) }, func(p *corev1.Pod) bool { return mounts(p) == 0 && len(p.Spec.Volumes) == 0 }, ""},
		{"quiet-account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }, func(p *corev1.Pod) bool { return mounts(p) == 0 }, ""},
		{"quiet-account-overridden", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = "quiet", of(true)
		}, func(p *corev1.Pod) bool { return mounts(p) == 3 }, ""},
		{"own-mount", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: path}}
		}, func(p *corev1.Pod) bool {
			return mounts(p) == 3 && len(p.Spec.Containers[0].VolumeMounts) == 1 && len(p.Spec.Volumes) == 2
		}, ""},
		{"pull-secrets", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "pulls" }, func(p *corev1.Pod) bool { return p.Spec.ImagePullSecrets[0].Name == "registry" }, ""},
		{"own-pull-secrets", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.ImagePullSecrets = "pulls", []corev1.LocalObjectReference{{Name: "mine"}}
		}, func(p *corev1.Pod) bool {
			return len(p.Spec.ImagePullSecrets) == 1 && p.Spec.ImagePullSecrets[0].Name == "mine"
		}, ""},
		{"no-account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "missing" }, nil, `error looking up service account default/missing: serviceaccount "missing" not found`},
		{"critical", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }, func(p *corev1.Pod) bool { return *p.Spec.Priority == 2000001000 }, ""},
		{"no-class", func(p *corev1.Pod) { p.Spec.PriorityClassName = "missing" }, nil, "no PriorityClass with name missing was found"},
		{"own-priority", func(p *corev1.Pod) { p.Spec.Priority = of(int32(5)) }, nil, "the integer value of priority (5) must not be provided in pod spec"},
		{"tolerates-everything", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}, func(p *corev1.Pod) bool { return len(p.Spec.Tolerations) == 1 }, ""},
		{"tolerates-one", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: of(int64(7))}}
		}, func(p *corev1.Pod) bool {
			return len(p.Spec.Tolerations) == 2 && *p.Spec.Tolerations[0].TolerationSeconds == 7
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			created, err := client.Create(ctx, h.Client, pod(c.name, c.change))
			if c.says != "" {
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.says) {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !c.check(created) {
				t.Errorf("%+v", created.Spec)
			}
		})
	}
}

// TestAPodWaitsForTheAccountOfANewNamespace: creating a namespace and its pods at once must not fail because the service account
// does not exist yet.
func TestAPodWaitsForTheAccountOfANewNamespace(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	if _, err := client.Create(ctx, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}}); err != nil {
		t.Fatal(err)
	}
	started, done := make(chan struct{}), make(chan error)
	go func() {
		p := pod("p", func(p *corev1.Pod) { p.Namespace = "new" })
		close(started)
		_, err := client.Create(ctx, h.Client, p)
		done <- err
	}()
	<-started
	if _, err := client.Create(ctx, h.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "new"}}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestTheClustersNamespacesStay(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	for _, name := range []string{"default", "kube-system"} {
		err := h.Client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "this namespace may not be deleted") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
