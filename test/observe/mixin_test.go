package observe

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mixin has the metrics and labels that the alerts of kubernetes-mixin (https://github.com/kubernetes-monitoring/kubernetes-mixin) read, by the alerts' names,
// with the labels by which they select or group. The rules themselves are not a Go module, and are not copied: each entry becomes a query of
// this test. Left out are alerts whose metrics this cluster does not have, which docs/metrics.md
// names, and those about the use of volumes (unseen).
var mixin = map[string][]string{
	"KubePodCrashLooping":              {"kube_pod_container_status_waiting_reason namespace pod container reason"},
	"KubePodNotReady":                  {"kube_pod_status_phase namespace pod phase", "kube_pod_owner namespace pod owner_kind"},
	"KubeDeploymentGenerationMismatch": {"kube_deployment_status_observed_generation namespace deployment", "kube_deployment_metadata_generation namespace deployment"},
	"KubeDeploymentReplicasMismatch": {"kube_deployment_spec_replicas namespace deployment", "kube_deployment_status_replicas_available namespace deployment",
		"kube_deployment_status_replicas_updated namespace deployment"},
	"KubeStatefulSetReplicasMismatch": {"kube_statefulset_status_replicas_ready namespace statefulset", "kube_statefulset_status_replicas namespace statefulset",
		"kube_statefulset_status_replicas_updated namespace statefulset", "kube_statefulset_replicas namespace statefulset"},
	"KubeStatefulSetGenerationMismatch": {"kube_statefulset_status_observed_generation namespace statefulset", "kube_statefulset_metadata_generation namespace statefulset"},
	"KubeStatefulSetUpdateNotRolledOut": {"kube_statefulset_status_current_revision namespace statefulset revision", "kube_statefulset_status_update_revision namespace statefulset revision"},
	"KubeDaemonSetRolloutStuck": {"kube_daemonset_status_current_number_scheduled namespace daemonset", "kube_daemonset_status_desired_number_scheduled namespace daemonset",
		"kube_daemonset_status_number_misscheduled namespace daemonset", "kube_daemonset_status_updated_number_scheduled namespace daemonset", "kube_daemonset_status_number_available namespace daemonset"},
	"KubeJobNotCompleted": {"kube_job_status_start_time namespace job_name", "kube_job_status_active namespace job_name"},
	"KubeJobFailed":       {"kube_job_failed namespace job_name"},
	"KubeHpaReplicasMismatch": {"kube_horizontalpodautoscaler_status_desired_replicas namespace horizontalpodautoscaler", "kube_horizontalpodautoscaler_status_current_replicas namespace horizontalpodautoscaler",
		"kube_horizontalpodautoscaler_spec_min_replicas namespace horizontalpodautoscaler", "kube_horizontalpodautoscaler_spec_max_replicas namespace horizontalpodautoscaler"},
	"KubeCPUOvercommit":            {"kube_node_status_allocatable node resource", "kube_pod_container_resource_requests namespace pod container resource node"},
	"KubeQuotaAlmostFull":          {"kube_resourcequota namespace resourcequota resource type"},
	"CPUThrottlingHigh":            {"container_cpu_cfs_throttled_periods_total namespace pod container", "container_cpu_cfs_periods_total namespace pod container"},
	"KubePersistentVolumeErrors":   {"kube_persistentvolume_status_phase persistentvolume phase"},
	"KubeVersionMismatch":          {"kubernetes_build_info git_version"},
	"KubeClientErrors":             {"rest_client_requests_total code"},
	"KubeAPIErrorBudgetBurn":       {"apiserver_request_sli_duration_seconds_bucket verb subresource scope le", "apiserver_request_sli_duration_seconds_count verb subresource", "apiserver_request_total verb code"},
	"KubeNodeNotReady":             {"kube_node_status_condition node condition status"},
	"KubeNodeUnreachable":          {"kube_node_spec_taint node key value effect"},
	"KubeletTooManyPods":           {"kube_pod_info namespace pod node", "kube_node_status_capacity node resource"},
	"KubeletPodStartUpLatencyHigh": {"kubelet_node_name node"},
}

// objects make the metrics of their kinds appear.
const objects = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: data}
spec:
  serviceName: data
  selector: {matchLabels: {app: data}}
  template:
    metadata: {labels: {app: data}}
    spec: {containers: [{name: c, image: "kontiki/tools:1", command: [tools, serve]}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec: {containers: [{name: c, image: "kontiki/tools:1", command: [tools, serve]}]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: folder}
spec: {capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], hostPath: {path: /tmp}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: some}
spec: {hard: {configmaps: "100"}}
`

// unread are metrics that appear with the first request of a master as a client, with their labels.
var unread = map[string][]string{"rest_client_requests_total": {"code", "method", "host"}}

// TestKubernetesMixin: the metrics and labels that upstream's alerts read are there in a real cluster.
func TestKubernetesMixin(t *testing.T) {
	c := start(t)
	c.run("kubectl", "apply", "-f", "-")
	file := filepath.Join(c.dir, "objects.yaml")
	if err := os.WriteFile(file, []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("kubectl", "apply", "-f", file)
	c.run("kubectl", "autoscale", "deployment", "web", "--min=1", "--max=2", "--cpu=50%")
	c.run("kubectl", "rollout", "status", "deployment/web", "--timeout=120s")
	c.run("kubectl", "rollout", "status", "statefulset/data", "--timeout=120s")
	c.run("kubectl", "rollout", "status", "daemonset/each", "--timeout=120s")
	c.run("kubectl", "wait", "job/fails", "--for=condition=Failed", "--timeout=120s")
	c.run("kubectl", "wait", "hpa/web", "--for=condition=AbleToScale", "--timeout=120s")
	c.run("kubectl", "wait", "pod/looker", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff", "--timeout=120s")
	c.run("kubectl", "taint", "nodes", "worker-1", "kept=for:PreferNoSchedule")
	t.Run("reference", func(t *testing.T) { checkReference(t, c) })
	found := c.scraped()
	for name, labels := range unread {
		if found[name] == nil {
			found[name] = map[string]bool{}
		}
		for _, label := range labels {
			found[name][label] = true
		}
	}
	for _, alert := range slices.Sorted(maps.Keys(mixin)) {
		for _, entry := range mixin[alert] {
			name, labels, _ := strings.Cut(entry, " ")
			text := "sum by (" + strings.ReplaceAll(labels, " ", ", ") + ") (" + name + ")"
			expr, err := parse.ParseExpr(text)
			if err != nil {
				t.Fatal(alert, err)
			}
			checkNames(t, query{alert, text}, expr, found)
		}
	}
}
