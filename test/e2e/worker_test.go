package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podsapi "k8s.io/kubelet/pkg/apis/pods/v1alpha1"
)

// readyCondition is the Ready condition of a node.
func readyCondition(name string) (corev1.NodeCondition, error) {
	node, err := env.Set.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return corev1.NodeCondition{}, err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c, nil
		}
	}
	return corev1.NodeCondition{}, fmt.Errorf("node %s has no Ready condition", name)
}

func awaitNode(t *testing.T, name string, want corev1.ConditionStatus) corev1.NodeCondition {
	t.Helper()
	var last corev1.NodeCondition
	eventually(t, time.Minute, fmt.Sprintf("node %s to be Ready=%s", name, want), func() (err error) {
		if last, err = readyCondition(name); err == nil && last.Status != want {
			err = fmt.Errorf("it is %s: %s", last.Status, last.Reason)
		}
		return err
	})
	return last
}

// endpoints are the addresses that a service leads to.
func endpoints(t *testing.T, namespace, service string) string {
	t.Helper()
	e, err := env.Set.CoreV1().Endpoints(namespace).Get(context.Background(), service, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var ips []string
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			ips = append(ips, a.IP)
		}
	}
	return strings.Join(ips, " ")
}

func TestAWorkerReturnsBeforeItsPodsAreReplaced(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, toolPod("server", "worker-1", "tools", "serve")))
	apply(t, in(ns, strings.TrimPrefix(service("web", "server"), "\n---\n")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	eventually(t, 20*time.Second, "the service to have its endpoint", func() error {
		if endpoints(t, ns, "web") == "" {
			return errNotYet
		}
		return nil
	})
	before := containerIDs(t, ns)
	t.Cleanup(func() { cable(t, "worker-1", true) })
	cable(t, "worker-1", false)
	awaitNode(t, "worker-1", corev1.ConditionUnknown)
	eventually(t, 20*time.Second, "the lost pod to leave its service", func() error {
		if ips := endpoints(t, ns, "web"); ips != "" {
			return errors.New(ips)
		}
		return nil
	})
	cable(t, "worker-1", true)
	awaitNode(t, "worker-1", corev1.ConditionTrue)
	// The pod on the paused worker is ready again, without having been restarted.
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=30s")
	eventually(t, 20*time.Second, "the service to have its endpoint again", func() error {
		if endpoints(t, ns, "web") == "" {
			return errNotYet
		}
		return nil
	})
	sameContainers(t, before, containerIDs(t, ns))
}

func TestAPausedWorker(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, toolPod("server", "worker-1", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	before := containerIDs(t, ns)
	pid, err := env.Pid("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	was := awaitNode(t, "worker-1", corev1.ConditionTrue)

	// Three seconds: a slow disk, a debugger, a moved virtual machine. The pause is the fault, so it is slept.
	signal(syscall.SIGSTOP)
	time.Sleep(3 * time.Second)
	signal(syscall.SIGCONT)
	for range 100 { // as long as the doubt about it could last
		now, err := readyCondition("worker-1")
		if err != nil {
			t.Fatal(err)
		}
		if now.Status != corev1.ConditionTrue || !now.LastTransitionTime.Equal(&was.LastTransitionTime) {
			t.Fatalf("after a pause of 3 s: %+v", now)
		}
		time.Sleep(100 * time.Millisecond)
	}

	// About as long as it takes to be lost, and shorter than its session lasts: whether it was declared lost or not, it is healthy
	// afterwards, and stays so.
	signal(syscall.SIGSTOP)
	time.Sleep(8500 * time.Millisecond)
	middle, err := readyCondition("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after a pause of 8.5 s it is Ready=%s", middle.Status)
	signal(syscall.SIGCONT)
	awaitNode(t, "worker-1", corev1.ConditionTrue)
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=30s")

	// Longer: it is lost, and ready again when it continues.
	signal(syscall.SIGSTOP)
	paused := time.Now()
	awaitNode(t, "worker-1", corev1.ConditionUnknown)
	t.Logf("a paused worker is unknown after %s", time.Since(paused).Round(100*time.Millisecond))
	time.Sleep(30*time.Second - time.Since(paused))
	signal(syscall.SIGCONT)
	awaitNode(t, "worker-1", corev1.ConditionTrue)
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=30s")
	sameContainers(t, before, containerIDs(t, ns))
}

var sessionBegins = regexp.MustCompile(`time=(\S+) .*msg="session begins" master=(\S+):6444`)

// session is the master that a worker has its session with, by the worker's log, how many it has had, and since when.
func session(t *testing.T, worker string) (master string, count int, since time.Time) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(env.Dir, "logs", worker+".log"))
	if err != nil {
		t.Fatal(err)
	}
	all := sessionBegins.FindAllStringSubmatch(string(data), -1)
	if len(all) == 0 {
		return "", 0, time.Time{}
	}
	last := all[len(all)-1]
	since, err = time.Parse(time.RFC3339Nano, last[1])
	if err != nil {
		t.Fatal(err)
	}
	for i := range masters {
		name := fmt.Sprintf("master-%d", i+1)
		if strings.HasSuffix(last[2], fmt.Sprintf(".%d", 11+i)) {
			return name, len(all), since
		}
	}
	t.Fatalf("the log of %s names no known master: %s", worker, last[0])
	return "", 0, time.Time{}
}

func TestAWorkerChangesMasters(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, toolPod("server", "worker-1", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	before := containerIDs(t, ns)
	for _, fault := range []struct {
		name      string
		take, put func(master string)
	}{
		{"been killed", func(m string) { must(t, "dev", "kill", m) }, func(m string) { must(t, "dev", "start", m) }},
		{"vanished", func(m string) { cable(t, m, false) }, func(m string) { cable(t, m, true) }},
	} {
		t.Run("it has "+fault.name, func(t *testing.T) {
			healthy(t)
			old, count, _ := session(t, "worker-1")
			awaitNode(t, "worker-1", corev1.ConditionTrue)
			was := lastChange(t, "worker-1")
			put := func() { fault.put(old) }
			defer func() { put() }()
			fault.take(old)
			at := time.Now()
			eventually(t, 30*time.Second, "a session with another master", func() error {
				if now, n, _ := session(t, "worker-1"); n == count || now == old {
					return fmt.Errorf("session %d with %s", n, now)
				}
				return nil
			})
			now, _, since := session(t, "worker-1")
			t.Logf("from %s, which has %s, to %s: %s after the fault", old, fault.name, now, max(since.Sub(at), 0).Round(time.Millisecond))
			// The new session is used, and the worker was never declared lost.
			name := fmt.Sprint("after-", count)
			apply(t, in(ns, toolPod(name, "worker-1", "tools", "serve")))
			kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
			if is := lastChange(t, "worker-1"); is != was {
				t.Errorf("the node's condition changed at %s", is)
			}
			put()
			put = func() {}
			healthy(t)
		})
	}
	sameContainers(t, before, containerIDs(t, ns))
}

func TestAnAgentStartsAgainInAFullOutage(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, toolPod("server", "worker-2", "tools", "serve")))
	apply(t, in(ns, toolPod("neighbour", "worker-1", "tools", "serve")))
	apply(t, in(ns, strings.TrimPrefix(service("web", "server"), "\n---\n")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "pod/neighbour", "--timeout=60s")
	address := strings.TrimSpace(kubectl(t, "-n", ns, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"))
	before := containerIDs(t, ns)
	served := func() error {
		out, err := inHost(t, "worker-1", "curl", "-sS", "-m", "2", "http://"+address+"/")
		if err == nil && !strings.Contains(out, "server") {
			err = fmt.Errorf("the service answers %q", out)
		}
		return err
	}
	resolved := func() error {
		out, err := inHost(t, "worker-1", "busybox", "nslookup", "web."+ns+".svc.cluster.local", "10.96.0.10")
		if err == nil && !strings.Contains(out, address) {
			err = fmt.Errorf("DNS answers %q, want %s", out, address)
		}
		return err
	}
	eventually(t, 30*time.Second, "the service to answer", served)
	eventually(t, 30*time.Second, "its name to resolve", resolved)
	for i := range masters {
		must(t, "dev", "kill", fmt.Sprintf("master-%d", i+1))
	}
	t.Cleanup(func() {
		for i := range masters {
			must(t, "dev", "start", fmt.Sprintf("master-%d", i+1))
		}
		healthy(t)
		eventually(t, time.Minute, "workers to be ready", func() error { return nodesReady(workers) })
		sameContainers(t, before, containerIDs(t, ns))
		kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "pod/neighbour", "--timeout=30s")
	})
	must(t, "dev", "kill", "worker-1")
	if err := served(); err != nil {
		t.Errorf("without masters and agent: %v", err)
	}
	if err := resolved(); err == nil {
		t.Error("the agent is dead, and its DNS answers: the test shows nothing")
	}
	// Routing must come from the data on disk as well, not from rules that the kernel has kept.
	if out, err := inHost(t, "worker-1", "nft", "flush", "ruleset"); err != nil {
		t.Fatal(err, out)
	}
	if err := served(); err == nil {
		t.Error("the rules are gone, and the service answers: the test shows nothing")
	}
	must(t, "dev", "start", "worker-1")
	eventually(t, 30*time.Second, "DNS to answer from what is on disk", resolved)
	eventually(t, 30*time.Second, "the service to answer", served)
	eventually(t, 30*time.Second, "the worker's Pods API to know its pod", func() error { return podsAPIHas(t, "worker-1", ns, "neighbour") })
}

// podsAPIHas looks for a pod that runs, as an agent on the node does that needs no master.
func podsAPIHas(t *testing.T, node, ns, name string) error {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(hostDir(node), "kubelet", "pods-api", "pods-api.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	list, err := podsapi.NewPodsClient(conn).ListPods(within(t, 10*time.Second), &podsapi.ListPodsRequest{})
	if err != nil {
		return err
	}
	for _, data := range list.Pods {
		pod := &corev1.Pod{}
		if err := pod.Unmarshal(data); err != nil {
			t.Fatal(err)
		}
		if pod.Namespace == ns && pod.Name == name && pod.Status.Phase == corev1.PodRunning {
			return nil
		}
	}
	return fmt.Errorf("it lists %d pods, none of which is %s and runs", len(list.Pods), name)
}

// lastChange returns when a node's Ready condition changed last. It uses a new connection each time: the one that tests share may
// lead to a master that is cut off.
func lastChange(t *testing.T, node string) string {
	t.Helper()
	return kubectl(t, "get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].lastTransitionTime}`)
}

// address is a host's address in the cluster's network.
func address(t *testing.T, host string) string {
	t.Helper()
	kind, number, ok := strings.Cut(host, "-")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		t.Fatalf("%q is no host", host)
	}
	if kind == "master" {
		return fmt.Sprintf("10.89.0.%d", 10+n)
	}
	return fmt.Sprintf("10.89.0.%d", 100+n)
}

// part drops what one host sends to others, until the test ends or the returned function is called.
func part(t *testing.T, host string, from ...string) (heal func()) {
	t.Helper()
	namespace := hostNamespace(t, host)
	route := func(verb, to string) error {
		out, err := exec.Command("ip", "-n", namespace, "route", verb, "blackhole", address(t, to)+"/32").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s a route of %s to %s: %w: %s", verb, host, to, err, out)
		}
		return err
	}
	heal = sync.OnceFunc(func() {
		for _, to := range from {
			if err := route("del", to); err != nil {
				t.Error(err)
			}
		}
	})
	for _, to := range from {
		if err := route("add", to); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(heal)
	return heal
}

func TestAWorkerLeavesAMasterThatHasLostTheOthers(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	old, count, _ := session(t, "worker-1")
	was := lastChange(t, "worker-1")
	var others []string
	for i := range masters {
		if name := fmt.Sprintf("master-%d", i+1); name != old {
			others = append(others, name)
		}
	}
	heal := part(t, old, others...)
	eventually(t, 30*time.Second, "a session with a master that has a quorum", func() error {
		if now, n, _ := session(t, "worker-1"); n == count || now == old {
			return fmt.Errorf("session %d with %s", n, now)
		}
		return nil
	})
	// The forwarder may still lead to the master that was parted: ask one that can answer.
	ask := func(args ...string) error {
		_, err := inHost(t, others[0], append([]string{env.Kontiki, "kubectl", "--kubeconfig", env.Kubeconfig(), "--server", "https://" + address(t, others[0]) + ":6443", "-n", ns}, args...)...)
		return err
	}
	eventually(t, 30*time.Second, "a pod to be made", func() error {
		return ask("run", "after", "--image", "kontiki/tools:1", "--overrides", `{"spec":{"nodeName":"worker-1"}}`, "--command", "--", "tools", "serve")
	})
	if err := ask("wait", "--for=condition=Ready", "pod/after", "--timeout=30s"); err != nil {
		t.Error(err)
	}
	heal()
	healthy(t)
	if now := lastChange(t, "worker-1"); now != was {
		t.Errorf("the node's condition changed at %s", now)
	}
}

func TestALeaderThatCannotReachAWorkerDoesNotLoseIt(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	leader, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	was := lastChange(t, "worker-1")
	part(t, leader, "worker-1")
	eventually(t, 30*time.Second, "a session with another master", func() error {
		if now, _, _ := session(t, "worker-1"); now == leader {
			return fmt.Errorf("it is with %s", now)
		}
		return nil
	})
	// Neither gossip nor the leader's probes reach it, for longer than any period of doubt.
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		if now := lastChange(t, "worker-1"); now != was {
			t.Fatalf("the node's condition changed at %s", now)
		}
	}
	apply(t, in(ns, toolPod("after", "worker-1", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/after", "--timeout=60s")
}

// TestReplaceAWorkerMachine is the procedure of that name in docs/operations.md: the machine died, and another one joins under its
// name. (The containers of the dead one still exist, since it is the same machine; the new worker must not keep them.)
func TestReplaceAWorkerMachine(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, `
apiVersion: v1
kind: Pod
metadata: {name: lost}
spec:
  nodeName: worker-2
  tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}
  containers:
  - {name: c, image: "kontiki/tools:1", command: [sh, -c, "while sleep 1; do : on-the-lost-machine; done"]}
`))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/lost", "--timeout=60s")
	processes := func() string {
		out, _ := exec.Command("pgrep", "-f", "on-the-lost-machine").CombinedOutput() // it fails if there is none
		return string(out)
	}
	if processes() == "" {
		t.Fatal("the pod's process is not found: this test could not see it go")
	}
	must(t, "dev", "kill", "worker-2")
	t.Cleanup(func() {
		if _, err := env.Pid("worker-2"); err != nil {
			must(t, "dev", "start", "worker-2")
		}
		eventually(t, time.Minute, "workers to be ready", func() error { return nodesReady(workers) })
	})
	awaitNode(t, "worker-2", corev1.ConditionUnknown)
	eventually(t, 30*time.Second, "the pod to be evicted", func() error {
		pod, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), "lost", metav1.GetOptions{})
		if err == nil && pod.DeletionTimestamp == nil {
			err = errNotYet
		}
		return err
	})
	kubectl(t, "delete", "node", "worker-2")
	kubectl(t, "-n", ns, "wait", "--for=delete", "pod/lost", "--timeout=30s")
	// The new machine has no data.
	for _, name := range []string{"identity", "agent/assignments"} {
		if err := os.RemoveAll(filepath.Join(hostDir("worker-2"), name)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "dev", "start", "worker-2")
	eventually(t, time.Minute, "the new machine to be a worker", func() error { return nodesReady(workers) })
	apply(t, in(ns, toolPod("after", "worker-2", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/after", "--timeout=60s")
	eventually(t, time.Minute, "what is nobody's to be ended", func() error {
		if left := processes(); left != "" {
			return fmt.Errorf("processes of the lost pod: %s", left)
		}
		return nil
	})
}

func TestBusyCoresLoseNobody(t *testing.T) {
	healthy(t)
	eventually(t, time.Minute, "workers to be ready", func() error { return nodesReady(workers) })
	var before []string
	for i := range workers {
		before = append(before, lastChange(t, fmt.Sprintf("worker-%d", i+1)))
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var busy []*exec.Cmd
	for range 4 * runtime.NumCPU() {
		cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		busy = append(busy, cmd)
	}
	time.Sleep(20 * time.Second) // longer than any doubt lasts
	stop()
	for _, cmd := range busy {
		if err := cmd.Wait(); err == nil {
			t.Error("a busy process ended by itself")
		}
	}
	for i := range workers {
		if now := lastChange(t, fmt.Sprintf("worker-%d", i+1)); now != before[i] {
			t.Errorf("worker-%d changed at %s, with all cores busy", i+1, now)
		}
	}
}
