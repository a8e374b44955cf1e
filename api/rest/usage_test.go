package rest_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"
	metrics "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// TestMetricsAreServed: both versions of metrics.k8s.io, in JSON and protobuf, selected by labels and names, as a table, and only for those
// who may read them.
func TestMetricsAreServed(t *testing.T) {
	local := usage.NewLocal()
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Usage = usage.NewDirectory(usage.Config{Local: local}) })
	h.Roles()
	ctx := t.Context()
	if _, err := client.Create(ctx, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1", Labels: map[string]string{"zone": "a"}}}); err != nil {
		t.Fatal(err)
	}
	report := &nodev1.UsageReport{Node: &nodev1.NodeUsage{Time: time.Now().UnixNano(), Compute: &nodev1.ComputeUsage{CpuNanocores: 250e6, WindowMs: 15_000, MemoryWorkingSetBytes: 3 << 20}}}
	for _, name := range []string{"web-1", "web-2", "db"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name[:2]}}, Spec: corev1.PodSpec{NodeName: "w1", Containers: []corev1.Container{{Name: "c", Image: "x"}}}}
		made, err := client.Create(ctx, h.Client, pod)
		if err != nil {
			t.Fatal(err)
		}
		made = made.DeepCopy()
		made.Status.Phase = corev1.PodRunning
		if _, err := client.UpdateStatus(ctx, h.Client, made); err != nil {
			t.Fatal(err)
		}
		report.Pods = append(report.Pods, &nodev1.PodUsage{Namespace: "default", Name: name, Uid: string(made.UID), Complete: true, Containers: []*nodev1.ContainerUsage{
			{Name: "c", Time: time.Now().UnixNano(), Compute: &nodev1.ComputeUsage{CpuNanocores: 5e6, WindowMs: 15_000, MemoryWorkingSetBytes: 1 << 20}},
			{Name: "s", Time: time.Now().UnixNano(), Compute: &nodev1.ComputeUsage{CpuNanocores: 1e6, WindowMs: 15_000, MemoryWorkingSetBytes: 1 << 20}},
		}})
	}
	encoded, err := proto.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := local.Put("w1", encoded, func(*nodev1.PodUsage) bool { return true }); err != nil {
		t.Fatal(err)
	}

	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		config := clientrest.CopyConfig(h.Config("admin", "system:masters"))
		config.ContentType, config.AcceptContentTypes = contentType, contentType
		set, err := metrics.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		nodes, err := set.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{LabelSelector: "zone=a"})
		if err != nil || len(nodes.Items) != 1 || nodes.Items[0].Usage.Cpu().String() != "250m" || nodes.Items[0].Usage.Memory().String() != "3Mi" || nodes.Items[0].Labels["zone"] != "a" {
			t.Errorf("%s: nodes %v, %v", contentType, nodes, err)
		}
		pods, err := set.MetricsV1beta1().PodMetricses("").List(ctx, metav1.ListOptions{LabelSelector: "app=we"})
		if err != nil || len(pods.Items) != 2 || pods.Items[0].Name != "web-1" || len(pods.Items[0].Containers) != 2 || pods.Items[0].Window.Duration != 15*time.Second {
			t.Errorf("%s: pods %v, %v", contentType, pods, err)
		}
		pods, err = set.MetricsV1beta1().PodMetricses("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=db"})
		if err != nil || len(pods.Items) != 1 || pods.Items[0].Name != "db" {
			t.Errorf("%s: the pod of a name: %v, %v", contentType, pods, err)
		}
		if one, err := set.MetricsV1beta1().PodMetricses("default").Get(ctx, "db", metav1.GetOptions{}); err != nil || one.Name != "db" || one.Timestamp.IsZero() {
			t.Errorf("%s: %v, %v", contentType, one, err)
		}
		if _, err := set.MetricsV1beta1().PodMetricses("default").Get(ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: a pod that does not exist: %v", contentType, err)
		}
	}

	body := do(t, h, "GET", "/apis/metrics.k8s.io/v1/namespaces/default/pods", "", nil, "application/json;as=Table;g=meta.k8s.io;v=v1").Body.Bytes()
	var table metav1.Table
	if err := json.Unmarshal(body, &table); err != nil {
		t.Fatal(err, string(body))
	}
	if len(table.Rows) != 3 || len(table.ColumnDefinitions) != 4 || table.Rows[0].Cells[1] != "6m" || table.Rows[0].Cells[2] != "2Mi" || table.Rows[0].Cells[3] != "15s" {
		t.Errorf("the table is %s", body)
	}
	discovery := do(t, h, "GET", "/apis/metrics.k8s.io/v1beta1", "", nil, "").Body.String()
	for _, want := range []string{`"kind":"PodMetrics"`, `"verbs":["get","list"]`, `"name":"nodes"`} {
		if !strings.Contains(discovery, want) {
			t.Errorf("there is no %s in %s", want, discovery)
		}
	}

	// Who may view a namespace sees what its pods use; nodes only with a right to them in the whole cluster.
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "view"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:aggregated-metrics-reader"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "jane"}}}
	if _, err := client.Create(context.Background(), h.Client, binding); err != nil {
		t.Fatal(err)
	}
	jane, err := metrics.NewForConfig(h.Config("jane"))
	if err != nil {
		t.Fatal(err)
	}
	if pods, err := jane.MetricsV1beta1().PodMetricses("default").List(ctx, metav1.ListOptions{}); err != nil || len(pods.Items) != 3 {
		t.Errorf("jane sees %v, %v", pods, err)
	}
	if _, err := jane.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane sees nodes: %v", err)
	}
	if _, err := jane.MetricsV1beta1().PodMetricses("kube-system").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane sees another namespace: %v", err)
	}
}
