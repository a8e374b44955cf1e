package statemetrics_test

import (
	"compress/gzip"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/statemetrics"
	"github.com/kontiki/kontiki/test/harness"
)

// TestObjectsAreTold: the answer can be parsed, compressed or not, and has the metrics of each kind.
func TestObjectsAreTold(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	node, err := client.Create(ctx, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}}})
	if err != nil {
		t.Fatal(err)
	}
	node = node.DeepCopy()
	node.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := client.UpdateStatus(ctx, h.Client, node); err != nil {
		t.Fatal(err)
	}
	pod, err := client.Create(ctx, h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: "w1", Containers: []corev1.Container{{Name: "c", Image: "i",
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Image: "i", RestartCount: 3, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: `Crash "Loop" \ Off`}}}}
	if _, err := client.UpdateStatus(ctx, h.Client, pod); err != nil {
		t.Fatal(err)
	}
	set := map[string]string{"a": "b"}
	if _, err := client.Create(ctx, h.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: new(int32(7)), Selector: &metav1.LabelSelector{MatchLabels: set},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: set}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}); err != nil {
		t.Fatal(err)
	}

	handler := statemetrics.Handler(h.Client.View)
	get := func(encoding string) string {
		t.Helper()
		r, w := httptest.NewRequest("GET", "/metrics/state", nil), httptest.NewRecorder()
		r.Header.Set("Accept-Encoding", encoding)
		handler.ServeHTTP(w, r)
		var body io.Reader = w.Body
		if w.Header().Get("Content-Encoding") == "gzip" {
			var err error
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		} else if encoding == "gzip" {
			t.Error("the answer is not compressed")
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	text := get("")
	if get("gzip") != text {
		t.Error("the compressed answer is another one")
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(families) < 30 {
		t.Errorf("%d families", len(families))
	}
	for _, want := range []string{
		`kube_node_spec_taint{node="w1",key="k",value="v",effect="NoSchedule"} 1`,
		`kube_node_status_capacity{node="w1",resource="cpu",unit="core"} 1.5`,
		`kube_node_status_capacity{node="w1",resource="memory",unit="byte"} 1073741824`,
		`kube_node_status_condition{node="w1",condition="Ready",status="true"} 1`,
		`kube_node_status_condition{node="w1",condition="Ready",status="false"} 0`,
		`kube_pod_status_phase{namespace="default",pod="p",uid="` + string(pod.UID) + `",phase="Running"} 1`,
		`kube_pod_status_phase{namespace="default",pod="p",uid="` + string(pod.UID) + `",phase="Pending"} 0`,
		`kube_pod_container_status_restarts_total{namespace="default",pod="p",uid="` + string(pod.UID) + `",container="c"} 3`,
		`kube_pod_container_status_waiting_reason{namespace="default",pod="p",uid="` + string(pod.UID) + `",container="c",reason="Crash \"Loop\" \\ Off"} 1`,
		`kube_pod_container_resource_requests{namespace="default",pod="p",uid="` + string(pod.UID) + `",container="c",node="w1",resource="cpu",unit="core"} 0.25`,
		`kube_deployment_spec_replicas{namespace="default",deployment="d"} 7`,
		`kube_namespace_status_phase{namespace="default",phase="Active"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
}
