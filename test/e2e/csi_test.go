package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const csiDriver = "folders.csi.kontiki.test"

// csiVendor is a CSI driver as vendors install them: a DaemonSet with the node service, and a Deployment that provisions, attaches and expands.
func csiVendor(ns, volumes string) string {
	return fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: %[1]s}
spec: {attachRequired: true, podInfoOnMount: true, fsGroupPolicy: File, volumeLifecycleModes: [Persistent, Ephemeral]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-csi}
provisioner: %[1]s
allowVolumeExpansion: true
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: csi, namespace: %[2]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-csi}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: csi, namespace: %[2]s}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: csi-controller, namespace: %[2]s}
spec:
  selector: {matchLabels: {app: csi-controller}}
  template:
    metadata: {labels: {app: csi-controller}}
    spec:
      serviceAccountName: csi
      terminationGracePeriodSeconds: 1
      containers:
      - name: controller
        image: kontiki/csidriver:1
        args: [-mode=controller]
        volumeMounts: [{name: volumes, mountPath: /volumes}]
      volumes: [{name: volumes, hostPath: {path: %[3]s}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: csi-node, namespace: %[2]s}
spec:
  selector: {matchLabels: {app: csi-node}}
  template:
    metadata: {labels: {app: csi-node}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: driver
        image: kontiki/csidriver:1
        args: [-registration=/registration/%[1]s-reg.sock]
        env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        securityContext: {privileged: true}
        volumeMounts:
        - {name: volumes, mountPath: /volumes}
        - {name: socket, mountPath: /csi}
        - {name: registration, mountPath: /registration}
        - {name: pods, mountPath: /var/lib/kubelet/pods, mountPropagation: Bidirectional}
        - {name: plugins, mountPath: /var/lib/kubelet/plugins, mountPropagation: Bidirectional}
      volumes:
      - {name: volumes, hostPath: {path: %[3]s}}
      - {name: socket, hostPath: {path: /var/lib/kubelet/plugins/%[1]s, type: DirectoryOrCreate}}
      - {name: registration, hostPath: {path: /var/lib/kubelet/plugins_registry, type: Directory}}
      - {name: pods, hostPath: {path: /var/lib/kubelet/pods, type: Directory}}
      - {name: plugins, hostPath: {path: /var/lib/kubelet/plugins, type: Directory}}
`, csiDriver, ns, volumes)
}

// csiPod runs a command with the volume of the claim "data" at /data.
func csiPod(name, node, command string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeSelector: {kubernetes.io/hostname: %s}
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 4321}
  containers:
  - name: c
    image: kontiki/tools:1
    command: [sh, -c, %q]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`, name, node, command)
}

// csiMounts returns what drivers have mounted for pods on all nodes.
func csiMounts(t *testing.T) (out []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], env.Dir) && (strings.Contains(f[4], "kubernetes.io~csi") || strings.Contains(f[4], "globalmount")) {
			out = append(out, f[4])
		}
	}
	return out
}

// TestADriversDaemonSetServesVolumes: a CSI driver that is installed as vendors' are serves claims and volumes that pods define, over the death of
// an agent, the move of a pod to another node, an expansion; and nothing is left in the end.
func TestADriversDaemonSetServesVolumes(t *testing.T) {
	healthy(t)
	vendors(t)
	ns := namespace(t)
	volumes := filepath.Join(env.Dir, "csi-volumes")
	if err := os.Mkdir(volumes, 0o755); err != nil {
		t.Fatal(err)
	}
	apply(t, csiVendor(ns, volumes))
	t.Cleanup(func() {
		kubectl(t, "delete", "csidriver/"+csiDriver, "storageclass/e2e-csi", "clusterrolebinding/e2e-csi", "--ignore-not-found")
	})
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/csi-node", "--timeout=90s")
	rollout(t, ns, "csi-controller")
	for _, node := range []string{"worker-1", "worker-2"} {
		eventually(t, time.Minute, "the driver in the CSINode of "+node, func() error {
			n, err := env.Set.StorageV1().CSINodes().Get(context.Background(), node, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(n.Spec.Drivers) != 1 || n.Spec.Drivers[0].Name != csiDriver || n.Spec.Drivers[0].NodeID != "id-of-"+node || !slices.Equal(n.Spec.Drivers[0].TopologyKeys, []string{"topology." + csiDriver + "/node"}) {
				return fmt.Errorf("its drivers are %+v", n.Spec.Drivers)
			}
			return nil
		})
		contains(t, kubectl(t, "get", "node", node, "-o", "jsonpath={.metadata.labels}"), `"topology.`+csiDriver+`/node":"id-of-`+node+`"`)
	}

	apply(t, in(ns, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: e2e-csi, resources: {requests: {storage: 1Gi}}}
`))
	apply(t, in(ns, csiPod("first", "worker-1", "echo kept > /data/f; sleep 1000000")))
	waitReady(t, ns, "first")
	contains(t, kubectl(t, "-n", ns, "exec", "first", "--", "stat", "-c", "%g", "/data"), "4321")
	if n := len(csiMounts(t)); n != 2 {
		t.Errorf("%d mounts, want one that is staged and one that is published: %v", n, csiMounts(t))
	}
	attached := func() (nodes []string) {
		t.Helper()
		list, err := env.Set.StorageV1().VolumeAttachments().List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list.Items {
			if a.Spec.Attacher == csiDriver {
				nodes = append(nodes, a.Spec.NodeName)
			}
		}
		return nodes
	}
	if got := attached(); !slices.Equal(got, []string{"worker-1"}) {
		t.Errorf("it is attached to %v", got)
	}

	if used := kubectl(t, "get", "node", "worker-1", "-o", "jsonpath={.status.volumesInUse}"); !strings.Contains(used, "kubernetes.io/csi/"+csiDriver+"^") {
		t.Errorf("the node says that it uses %q", used)
	}

	// The file system grows while the pod uses it.
	kubectl(t, "-n", ns, "patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.capacity.storage}=2Gi", "pvc/data", "--timeout=60s")
	contains(t, kubectl(t, "-n", ns, "get", "events", "--field-selector", "involvedObject.name=first"), "FileSystemResizeSuccessful")
	eventually(t, 30*time.Second, "the statistics of the volume", func() error {
		var s stats.Summary
		if err := json.Unmarshal([]byte(kubectl(t, "get", "--raw", "/api/v1/nodes/worker-1/proxy/stats/summary")), &s); err != nil {
			return err
		}
		for _, p := range s.Pods {
			for _, v := range p.VolumeStats {
				if v.PVCRef != nil && v.PVCRef.Name == "data" && v.PVCRef.Namespace == ns && *v.CapacityBytes == 2<<30 {
					return nil
				}
			}
		}
		return errors.New("there are none with 2 GiB")
	})

	// The agent dies: the pod goes on, and the next process knows what is mounted.
	before := kubectl(t, "-n", ns, "get", "pod", "first", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	must(t, "dev", "kill", "worker-1")
	contains(t, kubectl(t, "-n", ns, "get", "pod", "first", "-o", "jsonpath={.status.phase}"), "Running")
	must(t, "dev", "start", "worker-1")
	kubectl(t, "wait", "--for=condition=Ready", "node/worker-1", "--timeout=60s")
	eventually(t, time.Minute, "the pod to be usable", func() error {
		out, err := kontiki("kubectl", "-n", ns, "exec", "first", "--", "cat", "/data/f")
		if err == nil && !strings.Contains(out, "kept") {
			err = fmt.Errorf("its file has %q", out)
		}
		return err
	})
	if after := kubectl(t, "-n", ns, "get", "pod", "first", "-o", "jsonpath={.status.containerStatuses[0].containerID}"); after != before {
		t.Errorf("the container was restarted: %s, %s", before, after)
	}

	// A second pod on another node waits until the first is gone.
	apply(t, in(ns, csiPod("second", "worker-2", "cat /data/f; sleep 1000000")))
	eventually(t, time.Minute, "the event", func() error {
		if out := kubectl(t, "-n", ns, "get", "events", "--field-selector", "involvedObject.name=second"); !strings.Contains(out, "FailedAttachVolume") {
			return errNotYet
		}
		return nil
	})
	kubectl(t, "-n", ns, "delete", "pod", "first", "--timeout=60s")
	waitReady(t, ns, "second")
	if words := said(t, ns, "second", "c"); !slices.Equal(words, []string{"kept"}) {
		t.Errorf("the second pod found %q", words)
	}
	if got := attached(); !slices.Equal(got, []string{"worker-2"}) {
		t.Errorf("it is attached to %v", got)
	}

	// A volume that the pod defines itself.
	apply(t, in(ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: inline}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: kontiki/tools:1
    command: [sh, -c, "echo $(cat /data/pod.name) $(cat /data/colour); sleep 1000000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, csi: {driver: %s, volumeAttributes: {colour: blue}}}]
`, csiDriver)))
	waitReady(t, ns, "inline")
	if words := said(t, ns, "inline", "c"); !slices.Equal(words, []string{"inline", "blue"}) {
		t.Errorf("the pod with a volume of its own found %q", words)
	}

	// In the end nothing is left.
	kubectl(t, "-n", ns, "delete", "pod", "second", "inline", "--timeout=60s")
	kubectl(t, "-n", ns, "delete", "pvc", "data", "--timeout=60s")
	eventually(t, time.Minute, "the volume to be removed", func() error {
		list, err := env.Set.CoreV1().PersistentVolumes().List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(list.Items, func(pv corev1.PersistentVolume) bool { return pv.Spec.CSI == nil || pv.Spec.CSI.Driver != csiDriver })
		if len(left)+len(attached()) > 0 {
			return fmt.Errorf("%d volumes, attached to %v", len(left), attached())
		}
		return nil
	})
	if left := csiMounts(t); len(left) > 0 {
		t.Errorf("%v are still mounted", left)
	}
	if left, err := os.ReadDir(filepath.Join(volumes, "volumes")); err != nil || len(left) > 0 {
		t.Errorf("the driver still has %v, %v", left, err)
	}

	// The driver goes, and with it the nodes' entries.
	kubectl(t, "-n", ns, "delete", "daemonset/csi-node", "--timeout=60s")
	eventually(t, time.Minute, "the driver to go", func() error {
		list, err := env.Set.StorageV1().CSINodes().List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list.Items, func(n storagev1.CSINode) bool { return len(n.Spec.Drivers) > 0 }) {
			return errNotYet
		}
		return nil
	})
}
