package overview_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cmd/kontiki/overview"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "KubeletStopped", Message: "no session", LastTransitionTime: ago(5 * time.Minute)}}}}
}

func pod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: ago(time.Hour)}, Spec: corev1.PodSpec{NodeName: node,
		Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	if change != nil {
		change(p)
	}
	return p
}

func crashing(p *corev1.Pod) {
	p.Status.Conditions[0].Status = corev1.ConditionFalse
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
}

func options(s *cluster.Status, client *fake.Clientset) overview.Options {
	return overview.Options{Client: client, Now: func() time.Time { return now },
		Status: func(context.Context) (*cluster.Status, error) { return s, nil },
		Usage: func(context.Context) (map[string]corev1.ResourceList, error) {
			return map[string]corev1.ResourceList{"a": {corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("2Gi")}}, nil
		}}
}

func TestAHealthyCluster(t *testing.T) {
	three := int32(3)
	o := options(&cluster.Status{Leader: "m1", FailuresTolerated: 1, Members: []cluster.MemberStatus{{Health: cluster.HealthOK}, {Health: cluster.HealthOK}, {Health: cluster.HealthOK}}},
		fake.NewClientset(node("a", corev1.ConditionTrue), pod("p", "a", nil), pod("done", "a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
			&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &three}, Status: appsv1.DeploymentStatus{AvailableReplicas: 3}}))
	report, err := overview.Gather(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := report.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Masters     3 of 3 healthy, m1 leads, 1 more may fail", "Workers     1 of 1 ready", "Pods        1 ready, 1 finished", "Workloads   1 has all its pods",
		"Claims      none", "Warnings    none in the last hour", "cpu                 0.5 (12%)       1 (25%)     4", "memory              2.0 GiB (25%)   0 B (0%)    8.0 GiB",
		"pods                -               1 (1%)      110", "Nothing needs attention.",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
	o.Usage = func(context.Context) (map[string]corev1.ResourceList, error) {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, "nodes")
	}
	if report, err = overview.Gather(context.Background(), o); err != nil || report.Resources[0].Used != nil {
		t.Errorf("without metrics: %v, %+v", err, report)
	}
}

func TestWhatNeedsAttention(t *testing.T) {
	three := int32(3)
	ended := ago(10 * time.Minute)
	client := fake.NewClientset(
		node("a", corev1.ConditionTrue), node("b", corev1.ConditionUnknown),
		pod("crash-1", "a", crashing), pod("crash-2", "a", crashing),
		pod("homeless", "", func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }),
		pod("new", "", func(p *corev1.Pod) {
			p.CreationTimestamp, p.Status = ago(time.Second), corev1.PodStatus{Phase: corev1.PodPending}
		}),
		pod("gated", "", func(p *corev1.Pod) {
			p.Spec.SchedulingGates, p.Status = []corev1.PodSchedulingGate{{Name: "g"}}, corev1.PodStatus{Phase: corev1.PodPending}
		}),
		pod("stuck", "a", func(p *corev1.Pod) { p.DeletionTimestamp, p.Finalizers = &ended, []string{"example.com/f"} }),
		pod("slow", "a", func(p *corev1.Pod) {
			p.Status.Conditions[0].Status, p.Status.Conditions[0].LastTransitionTime = corev1.ConditionFalse, ago(3*time.Minute)
		}),
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &three}, Status: appsv1.DeploymentStatus{AvailableReplicas: 1}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", CreationTimestamp: ago(time.Hour)}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "e1"}, Type: corev1.EventTypeWarning, Reason: "BackOff", Count: 8, LastTimestamp: ago(time.Minute)},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "e2"}, Type: corev1.EventTypeWarning, Reason: "Failed", EventTime: metav1.NewMicroTime(now)},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "old"}, Type: corev1.EventTypeWarning, Reason: "Old", Count: 9, LastTimestamp: ago(2 * time.Hour)},
	)
	o := options(&cluster.Status{Leader: "", FailuresTolerated: -1, Members: []cluster.MemberStatus{{Health: cluster.HealthOK}, {}}, Problems: []string{"master m2 does not answer"}}, client)
	report, err := overview.Gather(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"claims without a volume: shop/data for 60m (kontiki kubectl describe pvc data -n shop)",
		"deployments with too few pods: shop/d has 1 of 3",
		"master m2 does not answer (kontiki cluster status)",
		"nodes that are not ready: b since 5m, KubeletStopped: no session (kontiki kubectl describe node b)",
		"pods in CrashLoopBackOff: shop/crash-1 and 1 more (kontiki why crash-1 -n shop)",
		"pods that are not ready: shop/slow for 3m (kontiki why slow -n shop)",
		"pods that do not end: shop/stuck, 10m after its time was over (kontiki why stuck -n shop)",
		"pods without a node: shop/homeless for 60m (kontiki why homeless -n shop)",
	}
	if got := strings.Join(report.Attention, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("attention:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
	if got := fmt.Sprint(report.Pods, report.Workers, report.Warnings); got != "{0 3 3 1 0 0} {2 1 0} map[BackOff:8 Failed:1]" {
		t.Error(got)
	}
	var out bytes.Buffer
	if err := report.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"no leader, writes have stopped", "9 in the last hour: BackOff 8, Failed 1", "\nNeeds attention:\n  - claims"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("no %q in\n%s", text, out.String())
		}
	}
}
