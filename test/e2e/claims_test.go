package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestClaimsAreBoundToVolumes(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	t.Cleanup(func() { kubectl(t, "delete", "pv", "e2e-small", "e2e-large") })
	apply(t, `
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-large}
spec: {capacity: {storage: 10Gi}, accessModes: [ReadWriteOnce], storageClassName: e2e, persistentVolumeReclaimPolicy: Retain, hostPath: {path: /srv/large}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-small}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: e2e, persistentVolumeReclaimPolicy: Retain, hostPath: {path: /srv/small}}
`)
	kubectl(t, "wait", "--for=jsonpath={.status.phase}=Available", "pv/e2e-small", "pv/e2e-large", "--timeout=30s")
	apply(t, in(ns, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: e2e, resources: {requests: {storage: 500Mi}}}
`))
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Bound", "pvc/data", "--timeout=30s")
	contains(t, kubectl(t, "-n", ns, "get", "pvc", "data"), "Bound", "e2e-small", "1Gi", "RWO")
	kubectl(t, "-n", ns, "delete", "pvc", "data", "--timeout=30s")
	kubectl(t, "wait", "--for=jsonpath={.status.phase}=Released", "pv/e2e-small", "--timeout=30s")
}

// TestPodsMountClaims: pods write to volumes of the host's folders through claims, read-only where they say so, and with their group. The
// data outlives the pods.
func TestPodsMountClaims(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "local"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kubectl(t, "delete", "pv", "e2e-host-"+ns, "e2e-local-"+ns, "e2e-block-"+ns, "--wait=false")
	})
	image := filepath.Join(root, "image")
	if err := os.WriteFile(image, append([]byte("a device"), make([]byte, 1<<20-8)...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", device).Run(); err != nil {
			t.Errorf("losetup --detach: %v", err)
		}
	})
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-block-%[1]s}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: %[1]s-block, volumeMode: Block, hostPath: {path: %[3]s}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-host-%[1]s}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: %[1]s-host, hostPath: {path: %[2]s/host, type: DirectoryOrCreate}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-local-%[1]s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: %[1]s-local
  local: {path: %[2]s/local}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [worker-1]}]}]}}
`, ns, root, device))
	apply(t, in(ns, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: block}
spec: {accessModes: [ReadWriteOnce], storageClassName: %s-block, volumeMode: Block, resources: {requests: {storage: 1Gi}}}
`, ns)))
	for _, kind := range []string{"host", "local"} {
		apply(t, in(ns, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[2]s}
spec: {accessModes: [ReadWriteOnce], storageClassName: %[1]s-%[2]s, resources: {requests: {storage: 1Gi}}}
`, ns, kind)))
	}
	pod := func(name, command, readOnly string) string {
		return in(ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: worker-1
  restartPolicy: Never
  securityContext: {runAsUser: 1000, fsGroup: 4321}
  initContainers:
  - name: owner
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "chmod 777 /host; head -c 8 /dev/disk && (echo changed > /dev/disk || true)"]
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: host, mountPath: /host}]
    volumeDevices: [{name: block, devicePath: /dev/disk}]
  containers:
  - name: c
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, %q]
    volumeMounts: [{name: host, mountPath: /host}, {name: local, mountPath: /local}, {name: local, mountPath: /part, subPath: a/b}]
  volumes:
  - {name: host, persistentVolumeClaim: {claimName: host, readOnly: %[3]s}}
  - {name: local, persistentVolumeClaim: {claimName: local, readOnly: %[3]s}}
  - {name: block, persistentVolumeClaim: {claimName: block, readOnly: %[3]s}}
`, name, command, readOnly))
	}
	apply(t, pod("writer", "echo host > /host/f && echo local > /local/f && echo part > /part/f && stat -c %g /local", "false"))
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=60s")
	contains(t, kubectl(t, "-n", ns, "logs", "writer"), "4321")
	contains(t, kubectl(t, "-n", ns, "logs", "writer", "-c", "owner"), "a device")
	apply(t, pod("reader", "cat /host/f /local/f /local/a/b/f; touch /host/g; touch /local/g; true", "true"))
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reader", "--timeout=60s")
	contains(t, kubectl(t, "-n", ns, "logs", "reader"), "host", "local", "part", "/host/g: Read-only file system", "/local/g: Read-only file system")
	contains(t, kubectl(t, "-n", ns, "logs", "reader", "-c", "owner"), "changed", "Operation not permitted")
	kubectl(t, "-n", ns, "delete", "pod", "writer", "reader", "--timeout=30s")
	if b, err := os.ReadFile(filepath.Join(root, "local", "a", "b", "f")); err != nil || string(b) != "part\n" {
		t.Errorf("%q, %v", b, err)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "e2e-local-"+ns) {
		t.Error("the volume is still mounted")
	}
}

// TestTheDefaultClassProvisions: a claim that names no class gets a folder on the node of its first pod, which outlives its pods, grows with
// the claim, and is removed with it. So does an ephemeral volume, with its pod.
func TestTheDefaultClassProvisions(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	pod := func(name, command string) string {
		return in(ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  tolerations: [{key: node.kubernetes.io/disk-pressure, operator: Exists}] # a full machine concerns other tests
  securityContext: {runAsUser: 1000}
  containers:
  - name: c
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, %q]
    volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}}
`, name, command))
	}
	apply(t, in(ns, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
`))
	apply(t, pod("writer", "echo kept > /data/f && echo gone > /scratch/f"))
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=90s")
	scratch := kubectl(t, "-n", ns, "get", "pvc", "writer-scratch", "-o", "jsonpath={.spec.volumeName}")
	kubectl(t, "-n", ns, "delete", "pod", "writer", "--timeout=30s")
	volume := kubectl(t, "-n", ns, "get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}")
	path := kubectl(t, "get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
	contains(t, kubectl(t, "get", "pv", volume, "-o", "yaml"), "kontiki.io/local-path-state: made", "kontiki.io/local-path-quota: ", "storageClassName: local-path")
	kubectl(t, "-n", ns, "patch", "pvc", "data", "--patch", `{"spec": {"resources": {"requests": {"storage": "20Mi"}}}}`)
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.capacity.storage}=20Mi", "pvc/data", "--timeout=30s")
	apply(t, pod("reader", "cat /data/f; cat /scratch/f; true"))
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reader", "--timeout=90s")
	contains(t, kubectl(t, "-n", ns, "logs", "reader"), "kept", "can't open '/scratch/f'")
	if b, err := os.ReadFile(filepath.Join(path, "f")); err != nil || string(b) != "kept\n" {
		t.Errorf("%q, %v", b, err)
	}
	kubectl(t, "-n", ns, "delete", "pod", "reader", "--timeout=30s")
	kubectl(t, "-n", ns, "delete", "pvc", "data", "--timeout=30s")
	kubectl(t, "wait", "--for=delete", "pv/"+volume, "pv/"+scratch, "--timeout=60s")
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}
