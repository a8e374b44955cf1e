package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// vendorPlugin is Kubernetes' sample device plugin, which offers two devices Dev-1 and Dev-2 as example.com/resource. For each it returns a mount
// of a file and a CDI device that sets CDI_DEVICE.
func vendorPlugin(ns string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: plugin, namespace: %s}
spec:
  selector: {matchLabels: {app: plugin}}
  template:
    metadata: {labels: {app: plugin}}
    spec:
      terminationGracePeriodSeconds: 5
      nodeSelector: {kubernetes.io/hostname: worker-1}
      containers:
      - name: plugin
        image: kontiki/sample-device-plugin:1
        env: [{name: PLUGIN_SOCK_DIR, value: /var/lib/kubelet/device-plugins}, {name: CDI_ENABLED, value: "1"}]
        securityContext: {privileged: true}
        volumeMounts:
        - {name: plugins, mountPath: /var/lib/kubelet/device-plugins}
        - {name: cdi, mountPath: /var/run/cdi}
        - {name: tmp, mountPath: /tmp}
      volumes:
      - {name: plugins, hostPath: {path: /var/lib/kubelet/device-plugins}}
      - {name: cdi, hostPath: {path: /var/run/cdi, type: DirectoryOrCreate}}
      - {name: tmp, hostPath: {path: /tmp}}
`, ns)
}

// shellPod is a pod that says what it got, and goes on. Its fields after the container's are in further.
func shellPod(ns, name, script, container, further string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
%s
  containers:
  - name: c
    image: kontiki/tools:1
    command: [sh, -c, %q]
%s
`, name, ns, further, script+"; sleep 1000000", container)
}

const oneDevice = `    resources: {limits: {example.com/resource: 1}}`

// amounts returns how much of a resource a node has, and how much can be given away.
func amounts(t *testing.T, node string, name corev1.ResourceName) (capacity, allocatable int64, known bool) {
	t.Helper()
	n, err := env.Set.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, known := n.Status.Capacity[name]
	a := n.Status.Allocatable[name]
	return c.Value(), a.Value(), known
}

// offers waits until a node has that much of a resource.
func offers(t *testing.T, node string, name corev1.ResourceName, capacity, allocatable int64) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("%s to have %d and %d of %s", node, capacity, allocatable, name), func() error {
		if c, a, known := amounts(t, node, name); c != capacity || a != allocatable || !known {
			return fmt.Errorf("it has %d and %d (known: %v)", c, a, known)
		}
		return nil
	})
}

func waitReady(t *testing.T, ns string, names ...string) {
	t.Helper()
	for _, name := range names {
		kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=90s")
	}
}

// said returns the words that a pod's container has written, once there are some.
func said(t *testing.T, ns, name, container string) []string {
	t.Helper()
	var words []string
	eventually(t, 30*time.Second, "words of "+name, func() error {
		out, err := kontiki("kubectl", "-n", ns, "logs", name, "-c", container)
		if words = strings.Fields(out); err == nil && len(words) == 0 {
			return errNotYet
		}
		return err
	})
	return words
}

// monitored returns the devices of a pod's container, as a monitoring agent on the node reads them.
func monitored(t *testing.T, node, ns, pod string) string {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(hostDir(node), "kubelet", "pod-resources", "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, err := podresourcesv1.NewPodResourcesListerClient(conn).Get(within(t, 10*time.Second), &podresourcesv1.GetPodResourcesRequest{PodNamespace: ns, PodName: pod})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range r.PodResources.Containers[0].Devices {
		out = append(out, d.ResourceName+" "+strings.Join(d.DeviceIds, ","))
	}
	for _, id := range r.PodResources.Containers[0].CpuIds {
		out = append(out, fmt.Sprint("cpu ", id))
	}
	return strings.Join(out, "; ")
}

// vendors imports the images of vendors on all nodes.
func vendors(t *testing.T) {
	t.Helper()
	archive := os.Getenv("VENDORS")
	if archive == "" {
		t.Fatal("VENDORS is not set: `make vendors` builds the archive")
	}
	must(t, "image", "import", archive)
}

func TestADevicePluginsDevicesAreEachGivenToOneContainer(t *testing.T) {
	healthy(t)
	vendors(t)
	ns := namespace(t)
	t.Cleanup(func() {
		for _, path := range []string{"/tmp/Dev-1", "/tmp/Dev-2", "/var/run/cdi/example.com.json"} {
			os.Remove(path)
		}
	})
	apply(t, vendorPlugin(ns))
	offers(t, "worker-1", "example.com/resource", 2, 2)
	const script = "ls /tmp | grep ^Dev; echo $CDI_DEVICE"
	apply(t, shellPod(ns, "a", script, oneDevice, ""))
	apply(t, shellPod(ns, "b", script, oneDevice, ""))
	waitReady(t, ns, "a", "b")
	device := func(name string) string {
		t.Helper()
		words := said(t, ns, name, "c")
		if len(words) != 2 || words[1] != "CDI-"+words[0] {
			t.Fatalf("pod %s got %q, want a device and its CDI device", name, words)
		}
		return words[0]
	}
	if device("a") == device("b") {
		t.Fatalf("both pods have %s", device("a"))
	}
	if s := getPod(t, ns, "a").Status.ContainerStatuses[0].AllocatedResourcesStatus; len(s) != 1 || len(s[0].Resources) != 1 ||
		string(s[0].Resources[0].ResourceID) != device("a") || s[0].Resources[0].Health != corev1.ResourceHealthStatusHealthy {
		t.Errorf("the pod's status says %v of its devices", s)
	}
	if got := monitored(t, "worker-1", ns, "a"); got != "example.com/resource "+device("a") {
		t.Errorf("monitoring agents read %q of pod a", got)
	}
	apply(t, shellPod(ns, "forced", script, oneDevice, "  nodeName: worker-1"))
	eventually(t, 30*time.Second, "the pod that the node cannot take to fail", func() error {
		p := getPod(t, ns, "forced")
		if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "UnexpectedAdmissionError" {
			return fmt.Errorf("%s: %s", p.Status.Phase, p.Status.Reason)
		}
		contains(t, p.Status.Message, "requested number of devices unavailable for example.com/resource. Requested: 1, Available: 0")
		return nil
	})

	// The agent dies, and comes back: nothing is restarted, and nobody else gets the devices.
	before := containerIDs(t, ns)
	must(t, "dev", "kill", "worker-1")
	must(t, "dev", "start", "worker-1")
	offers(t, "worker-1", "example.com/resource", 2, 2) // the plugin has registered again
	had := device("a")
	apply(t, shellPod(ns, "waits", script, oneDevice, ""))
	eventually(t, 30*time.Second, "the scheduler to find no device", func() error {
		out, err := kontiki("kubectl", "-n", ns, "describe", "pod", "waits")
		if err == nil && !strings.Contains(out, "Insufficient example.com/resource") {
			return errNotYet
		}
		return err
	})
	sameContainers(t, before, containerIDs(t, ns))
	kubectl(t, "-n", ns, "delete", "pod", "a", "--wait=false")
	waitReady(t, ns, "waits")
	if got := device("waits"); got != had {
		t.Errorf("the freed device is %s, the next pod has %s", had, got)
	}

	// The vendor updates its plugin.
	kubectl(t, "-n", ns, "rollout", "restart", "daemonset/plugin")
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/plugin", "--timeout=120s")
	offers(t, "worker-1", "example.com/resource", 2, 2)
	kubectl(t, "-n", ns, "delete", "daemonset", "plugin")
	offers(t, "worker-1", "example.com/resource", 2, 0)
}

// vendorDriver is Kubernetes' test driver of dynamic resource allocation, with four devices a node. A claim's configuration sets variables in the
// containers that use it.
func vendorDriver(ns, driver string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: driver, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %[1]s-driver}
rules:
- {apiGroups: [resource.k8s.io], resources: [resourceclaims], verbs: [get]}
- {apiGroups: [resource.k8s.io], resources: [resourceclaims/status], verbs: [patch, update]}
- {apiGroups: [""], resources: [nodes], verbs: [get]}
- {apiGroups: [resource.k8s.io], resources: [resourceslices], verbs: [get, list, watch, create, update, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s-driver}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s-driver}
subjects: [{kind: ServiceAccount, name: driver, namespace: %[1]s}]
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: %[1]s}
spec:
  extendedResourceName: %[2]s/device
  selectors: [{cel: {expression: device.driver == "%[2]s"}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: driver, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: driver}}
  template:
    metadata: {labels: {app: driver}}
    spec:
      terminationGracePeriodSeconds: 5
      serviceAccountName: driver
      nodeSelector: {kubernetes.io/hostname: worker-1}
      containers:
      - name: driver
        image: kontiki/dra-test-driver:1
        args: [kubelet-plugin, --drivername=%[2]s, --node-name=$(NODE), --num-devices=4]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        securityContext: {privileged: true}
        volumeMounts:
        - {name: registry, mountPath: /var/lib/kubelet/plugins_registry}
        - {name: plugin, mountPath: /var/lib/kubelet/plugins/%[2]s}
        - {name: cdi, mountPath: /var/run/cdi}
      volumes:
      - {name: registry, hostPath: {path: /var/lib/kubelet/plugins_registry}}
      - {name: plugin, hostPath: {path: /var/lib/kubelet/plugins/%[2]s, type: DirectoryOrCreate}}
      - {name: cdi, hostPath: {path: /var/run/cdi, type: DirectoryOrCreate}}
`, ns, driver)
}

// slicesOf returns how many devices a driver offers.
func slicesOf(t *testing.T, driver string) (devices int) {
	t.Helper()
	list, err := env.Set.ResourceV1().ResourceSlices().List(context.Background(), metav1.ListOptions{FieldSelector: "spec.driver=" + driver})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		devices += len(s.Spec.Devices)
	}
	return devices
}

// cdiFiles returns the CDI specifications that a driver has written for claims.
func cdiFiles(t *testing.T, driver string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir("/var/run/cdi")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), driver) {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestADRADriversDevicesAreClaimed(t *testing.T) {
	healthy(t)
	vendors(t)
	ns := namespace(t)
	const driver = "test-driver.example.com"
	t.Cleanup(func() {
		for _, name := range cdiFiles(t, driver) { // the driver forgets what it had prepared when it is restarted
			os.Remove("/var/run/cdi/" + name)
		}
		kubectl(t, "delete", "deviceclass/"+ns, "clusterrole/"+ns+"-driver", "clusterrolebinding/"+ns+"-driver", "--ignore-not-found")
	})
	apply(t, vendorDriver(ns, driver))
	offered := func(n int) {
		t.Helper()
		eventually(t, 90*time.Second, fmt.Sprintf("%d devices of the driver", n), func() error {
			if got := slicesOf(t, driver); got != n {
				return fmt.Errorf("there are %d", got)
			}
			return nil
		})
	}
	offered(4)
	apply(t, in(ns, fmt.Sprintf(`
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one}
spec:
  spec:
    devices:
      requests: [{name: device, exactly: {deviceClassName: %[1]s}}]
      config: [{opaque: {driver: %[2]s, parameters: {color: red}}}]
`, ns, driver)))
	apply(t, in(ns, fmt.Sprintf(`
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: shared}
spec:
  devices:
    requests: [{name: device, exactly: {deviceClassName: %[1]s}}]
    config: [{opaque: {driver: %[2]s, parameters: {color: blue}}}]
`, ns, driver)))
	const script = "env | grep -i color || echo none"
	uses := func(claim string) string {
		return "  resourceClaims: [{name: mine, " + claim + "}]"
	}
	const claims = `    resources: {claims: [{name: mine}]}
  - name: other
    image: kontiki/tools:1
    command: [sh, -c, "env | grep -i color || echo none; sleep 1000000"]`
	apply(t, shellPod(ns, "own", script, claims, uses("resourceClaimTemplateName: one")))
	apply(t, shellPod(ns, "first", script, claims, uses("resourceClaimName: shared")))
	apply(t, shellPod(ns, "second", script, claims, uses("resourceClaimName: shared")))
	apply(t, shellPod(ns, "extended", script, "    resources: {limits: {"+driver+"/device: 1}}", ""))
	waitReady(t, ns, "own", "first", "second", "extended")
	for name, want := range map[string]string{"own": "red", "first": "blue", "second": "blue"} {
		if got := strings.Join(said(t, ns, name, "c"), " "); !strings.Contains(got, want) {
			t.Errorf("container of %s: %q, want %s", name, got, want)
		}
		if got := said(t, ns, name, "other"); got[0] != "none" {
			t.Errorf("the container of %s that uses no claim got %q", name, got)
		}
	}
	if got := len(cdiFiles(t, driver)); got != 3 {
		t.Errorf("the driver has prepared %d claims, want 3: %v", got, cdiFiles(t, driver))
	}

	// The agent dies: what is running goes on, and claims are unprepared later.
	before := containerIDs(t, ns)
	must(t, "dev", "kill", "worker-1")
	must(t, "dev", "start", "worker-1")
	eventually(t, time.Minute, "workers to be ready", func() error { return nodesReady(workers) })
	sameContainers(t, before, containerIDs(t, ns))
	eventually(t, time.Minute, "claims to be prepared and unprepared again", func() error {
		_, err := kontiki("kubectl", "-n", ns, "delete", "pod", "own", "first", "--ignore-not-found", "--timeout=30s")
		return err
	})
	if got := cdiFiles(t, driver); len(got) != 2 {
		t.Errorf("the claim of one pod that is gone was to be unprepared, the others are used: %v", got)
	}
	kubectl(t, "-n", ns, "rollout", "restart", "daemonset/driver")
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/driver", "--timeout=120s")
	apply(t, shellPod(ns, "third", script, claims, uses("resourceClaimTemplateName: one")))
	waitReady(t, ns, "third")
	if got := strings.Join(said(t, ns, "third", "c"), " "); !strings.Contains(got, "red") {
		t.Errorf("the container of the pod after the driver's restart: %q", got)
	}
	kubectl(t, "-n", ns, "delete", "pod", "second", "third", "extended", "--timeout=90s")
	offered(4)
	kubectl(t, "-n", ns, "delete", "daemonset", "driver")
	offered(0)
}
