// Package cases_test holds faults that people reported of systems like this one, tried with the real binary: a cluster, its
// runtime and kubectl. What can be shown without a cluster is tested beside the code; here is what several parts do together.
package cases_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/ociimage"
	"github.com/kontiki/kontiki/test/devcluster"
)

// shell is an image with a shell that is never pulled.
const shell = "docker.io/cases/shell:1"

// env is the cluster that the cases share: one master, one worker.
var env *devcluster.Cluster

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) (code int) {
	var err error
	env, err = devcluster.Start(os.Stdout, 1, 1)
	defer func() {
		if code != 0 {
			env.ShowLogs(os.Stderr)
		}
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
	}()
	if err == nil {
		err = importShell()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func importShell() error {
	image, err := ociimage.Busybox(shell)
	if err != nil {
		return err
	}
	archive, err := os.CreateTemp("", "cases-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(archive.Name())
	if err := errors.Join(ociimage.Write(archive, image), archive.Close()); err != nil {
		return err
	}
	_, err = env.Run("image", "import", archive.Name())
	return err
}

// kase is one case in a namespace of its own.
type kase struct {
	t         *testing.T
	namespace string
}

func newCase(t *testing.T) *kase {
	t.Helper()
	k := &kase{t, "case-" + strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))}
	k.namespace = k.namespace[:min(len(k.namespace), 60)]
	if _, err := env.Run("kubectl", "create", "namespace", k.namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, err := env.Run("kubectl", "-n", k.namespace, "describe", "pods")
			t.Logf("%s %v", out, err)
		}
		if _, err := env.Run("kubectl", "delete", "namespace", k.namespace, "--timeout=90s"); err != nil {
			t.Error(err)
		}
	})
	return k
}

// kubectl runs kubectl in the case's namespace.
func (k *kase) kubectl(args ...string) (string, error) {
	return env.Run(append([]string{"kubectl", "-n", k.namespace}, args...)...)
}

func (k *kase) must(args ...string) string {
	k.t.Helper()
	out, err := k.kubectl(args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

func (k *kase) apply(manifest string) {
	k.t.Helper()
	manifest = strings.ReplaceAll(manifest, "SHELL", shell)
	if _, err := env.RunWith(strings.NewReader(manifest), "kubectl", "-n", k.namespace, "apply", "-f", "-"); err != nil {
		k.t.Fatal(err)
	}
}

// pod waits until a pod is as it should be.
func (k *kase) pod(name, what string, is func(*corev1.Pod) bool) *corev1.Pod {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var last *corev1.Pod
	for {
		p, err := env.Set.CoreV1().Pods(k.namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			if last = p; is(p) {
				return p
			}
		}
		select {
		case <-ctx.Done():
			k.t.Fatalf("waited for pod %s to be %s: %v, %+v", name, what, err, last.Status)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (k *kase) running(name string) *corev1.Pod {
	k.t.Helper()
	return k.pod(name, "running", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodRunning && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Ready
	})
}

func (k *kase) ended(name string, phase corev1.PodPhase) *corev1.Pod {
	k.t.Helper()
	return k.pod(name, string(phase), func(p *corev1.Pod) bool { return p.Status.Phase == phase })
}

// TestObjectsVolumesAreReadOnly: what shows objects of the cluster is not to be written, neither through subPath, and
// the agent's own writes arrive.
func TestObjectsVolumesAreReadOnly(t *testing.T) {
	k := newCase(t)
	k.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {a.txt: one}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {b.txt: hush}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {x: "1"}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: cm, configMap: {name: cm}}
  - {name: se, secret: {secretName: s}}
  - {name: dw, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: pr, projected: {sources: [{configMap: {name: cm}}, {secret: {name: s}}]}}
  containers:
  - name: c
    image: SHELL
    command: [sleep, "1000"]
    volumeMounts:
    - {name: cm, mountPath: /v/cm}
    - {name: se, mountPath: /v/se}
    - {name: dw, mountPath: /v/dw}
    - {name: pr, mountPath: /v/pr}
    - {name: cm, mountPath: /v/one.txt, subPath: a.txt}
`)
	k.running("p")
	for _, target := range []string{"/v/cm/new", "/v/se/new", "/v/dw/new", "/v/pr/new", "/v/cm/a.txt", "/v/se/b.txt", "/v/one.txt"} {
		if out, err := k.kubectl("exec", "p", "--", "sh", "-c", "echo x > "+target); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
			t.Errorf("%s: %s %v", target, out, err)
		}
	}
	if out := k.must("exec", "p", "--", "cat", "/v/cm/a.txt", "/v/one.txt", "/v/se/b.txt"); out != "oneonehush" {
		t.Errorf("%q", out)
	}
	k.must("patch", "configmap", "cm", "-p", `{"data":{"a.txt":"two"}}`)
	deadline := time.Now().Add(30 * time.Second)
	for out := ""; out != "two"; {
		if out = k.must("exec", "p", "--", "cat", "/v/cm/a.txt"); time.Now().After(deadline) {
			t.Fatalf("an update does not arrive: %q", out)
		}
	}
}

// TestSpecialFilesUnderSubPath: a FIFO, or a socket, is mounted like a file; nobody opens it, so nobody waits.
func TestSpecialFilesUnderSubPath(t *testing.T) {
	k := newCase(t)
	for i := range 5 { // more than the node starts at once
		k.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: f%d}
spec:
  terminationGracePeriodSeconds: 1
  initContainers: [{name: i, image: SHELL, command: [mkfifo, /d/pipe], volumeMounts: [{name: d, mountPath: /d}]}]
  containers: [{name: c, image: SHELL, command: [sh, -c, "test -p /p && exec sleep 1000"], volumeMounts: [{name: d, mountPath: /p, subPath: pipe}]}]
  volumes: [{name: d, emptyDir: {}}]
`, i))
	}
	k.apply("{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: SHELL, command: [sleep, '1000']}]}}")
	k.running("plain")
	for i := range 5 {
		k.running(fmt.Sprint("f", i))
	}
}

// TestASlowReaderOfExec: all output arrives, however slowly it is read, and although the command ended long before.
func TestASlowReaderOfExec(t *testing.T) {
	k := newCase(t)
	k.apply("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: SHELL, command: [sleep, '1000']}]}}")
	k.running("p")
	const size = 6_000_000
	slow := &pausingWriter{pause: 12 * time.Second} // longer than a silent stream is waited for; kubectl pings meanwhile
	err := env.RunTo(slow, "kubectl", "-n", k.namespace, "exec", "p", "--", "head", "-c", fmt.Sprint(size), "/dev/zero")
	if err != nil || slow.n != size {
		t.Errorf("%d bytes of %d, %v", slow.n, size, err)
	}
	if out, err := k.kubectl("exec", "p", "--", "sh", "-c", "exit 37"); err == nil || !strings.Contains(err.Error(), "exit code 37") {
		t.Errorf("%s %v", out, err)
	}
}

// pausingWriter pauses after its first bytes.
type pausingWriter struct {
	pause time.Duration
	n     int
}

func (w *pausingWriter) Write(b []byte) (int, error) {
	if w.n == 0 {
		time.Sleep(w.pause)
	}
	w.n += len(b)
	return len(b), nil
}

var _ io.Writer = (*pausingWriter)(nil)

// TestShortContainersOfOnePod: the shim that they share ends with the last one, and takes no other's start along.
func TestShortContainersOfOnePod(t *testing.T) {
	k := newCase(t)
	var containers bytes.Buffer
	for i := range 6 {
		fmt.Fprintf(&containers, "  - {name: c%d, image: SHELL, command: [sh, -c, 'head -c 5000 /dev/zero > /dev/null']}\n", i)
	}
	for i := range 8 {
		k.apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: p%d}\nspec:\n  restartPolicy: Never\n  containers:\n%s", i, containers.String()))
		k.ended(fmt.Sprint("p", i), corev1.PodSucceeded)
	}
}

// TestWhatANodeRefuses: a pod that cannot run as it says, or does not fit, is Failed with a reason.
func TestWhatANodeRefuses(t *testing.T) {
	k := newCase(t)
	pod := func(name, spec string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  nodeName: worker-1\n  terminationGracePeriodSeconds: 0\n  %s\n", name, spec)
	}
	const c = "containers: [{name: c, image: SHELL, command: [sleep, '1000']%s}]"
	port := fmt.Sprintf(c, ", ports: [{containerPort: 8080, hostPort: 31556}]")
	k.apply(pod("first", port))
	k.running("first")
	for name, spec := range map[string]struct{ spec, reason, message string }{
		"nodeports":       {port, "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		"outofcpu":        {fmt.Sprintf(c, ", resources: {requests: {cpu: '500'}}"), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 500000"},
		"outofmemory":     {fmt.Sprintf(c, ", resources: {requests: {memory: 9000Gi}}"), "OutOfmemory", "Node didn't have enough resource: memory"},
		"nodeaffinity":    {"nodeSelector: {no: such}\n  " + fmt.Sprintf(c, ""), "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		"sysctlforbidden": {"securityContext: {sysctls: [{name: vm.laptop_mode, value: '7'}]}\n  " + fmt.Sprintf(c, ""), "SysctlForbidden", `forbidden sysctl: "vm.laptop_mode" not allowlisted`},
		"users": {"hostUsers: false\n  volumes: [{name: v, emptyDir: {}}]\n  " + fmt.Sprintf(c, ", volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]"),
			"PodFeatureUnsupported", "Pod requires node features that are not available: containers[c].volumeMounts[v].mountPropagation with hostUsers: false"},
	} {
		k.apply(pod(name, spec.spec))
		p := k.ended(name, corev1.PodFailed)
		if p.Status.Reason != spec.reason || !strings.HasPrefix(p.Status.Message, "Pod was rejected: "+spec.message) {
			t.Errorf("%s: %s %s", name, p.Status.Reason, p.Status.Message)
		}
	}
	k.apply(pod("root", "securityContext: {runAsNonRoot: true, runAsUser: 0}\n  "+fmt.Sprintf(c, "")))
	k.pod("root", "refused to run as root", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError" &&
			strings.HasPrefix(p.Status.ContainerStatuses[0].State.Waiting.Message, "container's runAsUser breaks non-root policy")
	})
}

// TestPrivilegedContainersAndDebuggers: what looks after nodes runs privileged, what looks into pods joins their processes.
func TestPrivilegedContainersAndDebuggers(t *testing.T) {
	k := newCase(t)
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: priv}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: SHELL
    command: [sh, -c, "mkdir -p /mnt && mount -t tmpfs x /mnt && test -c /dev/kmsg && touch /sys/fs/cgroup/x 2>/dev/null; mount | grep -q '/mnt'"]
    securityContext: {privileged: true}
---
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: SHELL, command: [sleep, "12347"]}]
`)
	k.ended("priv", corev1.PodSucceeded)
	k.running("app")
	k.must("debug", "app", "--image="+shell, "--image-pull-policy=Never", "--container=look", "--target=c", "--", "ps", "-o", "args")
	k.pod("app", "debugged", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Terminated != nil && s[0].State.Terminated.ExitCode == 0
	})
	if out := k.must("logs", "app", "-c", "look"); !strings.Contains(out, "sleep 12347") {
		t.Errorf("the debugger sees %q", out)
	}
}

// TestSidecarsPreStop: its hook begins with the pod's termination, beside the main container's end.
func TestSidecarsPreStop(t *testing.T) {
	k := newCase(t)
	dir := t.TempDir()
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{name: h, hostPath: {path: ` + dir + `}}]
  initContainers:
  - name: side
    image: SHELL
    restartPolicy: Always
    command: [sh, -c, "trap 'echo side ended >> /h/log; exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo side hook >> /h/log"]}}}
    volumeMounts: [{name: h, mountPath: /h}]
  containers:
  - name: c
    image: SHELL
    command: [sh, -c, "trap 'while ! grep -q hook /h/log; do sleep 0.1; done; echo main ended >> /h/log; exit 0' TERM; while :; do sleep 0.1; done"]
    volumeMounts: [{name: h, mountPath: /h}]
`)
	k.running("p")
	k.must("delete", "pod", "p", "--timeout=60s")
	b, err := os.ReadFile(dir + "/log")
	if err != nil || string(b) != "side hook\nmain ended\nside ended\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestAnImageAsAVolume: its files are there, read-only, also a part of them, and nothing is left of it afterwards.
func TestAnImageAsAVolume(t *testing.T) {
	k := newCase(t)
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  volumes: [{name: v, image: {reference: SHELL, pullPolicy: IfNotPresent}}]
  containers:
  - name: c
    image: SHELL
    command: [sh, -c, "test -x /v/bin/busybox && test -e /part/sh && ! touch /v/x 2>/dev/null"]
    volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /part, subPath: bin}]
`)
	k.ended("p", corev1.PodSucceeded)
	k.must("delete", "pod", "p", "--timeout=60s")
}

// TestAPodThatFillsTheDisk: a limit of local storage is kept by evicting its pod.
func TestAPodThatFillsTheDisk(t *testing.T) {
	k := newCase(t)
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
  containers: [{name: c, image: SHELL, command: [sh, -c, "head -c 3000000 /dev/zero > /v/f; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
	p := k.ended("p", corev1.PodFailed)
	if p.Status.Reason != "Evicted" || p.Status.Message != `Usage of EmptyDir volume "v" exceeds the limit "1Mi". ` {
		t.Errorf("%s: %q", p.Status.Reason, p.Status.Message)
	}
	if s := p.Status.ContainerStatuses[0].State; s.Terminated == nil {
		t.Errorf("it is Failed, and its container is %+v", s)
	}
}
