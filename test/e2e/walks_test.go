package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/identity"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster"
)

// Procedures of docs/operations.md with the operator's own commands: of `kontiki dev`, only the network namespaces of the hosts are
// used.

// process is kontiki on a host, as a service manager runs it.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	log string
}

// run starts kontiki on a host; it is stopped at the end of the test at the latest.
func run(t *testing.T, host string, args ...string) *process {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), host)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// Not `ip netns exec`, which would hide the control groups.
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + hostNamespace(t, host), env.Kontiki}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t, cmd, log.Name()}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("kontiki %s:\n%s", strings.Join(args, " "), p.said())
		}
	})
	return p
}

// stop stops it by SIGTERM.
func (p *process) stop() {
	p.t.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("kontiki stopped with: %v\n%s", err, p.said())
	}
}

func (p *process) said() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// addAddress gives a host an additional address, as a new machine or a move to another network would.
func addAddress(t *testing.T, host, address string) {
	t.Helper()
	ip := func(verb string) {
		if out, err := exec.Command("ip", "-n", hostNamespace(t, host), "addr", verb, address+"/24", "dev", "eth0").CombinedOutput(); err != nil {
			t.Errorf("ip addr %s %s on %s: %v: %s", verb, address, host, err, out)
		}
	}
	ip("add")
	t.Cleanup(func() { ip("del") })
}

// createToken runs the command as if on a master's host: it enters the network of a development cluster's host by itself.
func createToken(t *testing.T, host, role string) string {
	t.Helper()
	out, err := kontiki("token", "create", "--role", role, "--data-dir", hostDir(host))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(out)
}

// mastersAre waits until these masters are in the cluster and it is healthy.
func mastersAre(t *testing.T, names ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the masters to be %v, and well", names), func() error {
		s, degraded := clusterStatus(t)
		var have []string
		for _, m := range s.Members {
			have = append(have, m.Name)
		}
		if degraded || !slices.Equal(have, names) {
			return fmt.Errorf("%v, problems: %v", have, s.Problems)
		}
		return nil
	})
}

// TestAMachineIsReplacedUnderANewName and moves: a master's machine is lost, another one joins with a token from the command, and
// the old master is removed. Then the new one gets another address, and restarts with its data alone.
func TestAMachineIsReplacedUnderANewName(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "configmap", "kept")
	must(t, "dev", "kill", "master-3")
	t.Cleanup(func() {
		newMachine(t, "master-3")
		mastersAre(t, "master-1", "master-2", "master-3")
	})
	dir := filepath.Join(env.Dir, "hosts", "master-4")
	addAddress(t, "master-3", "10.89.0.24")
	p := run(t, "master-3", append([]string{"server", "--no-agent", "--name", "master-4", "--node-ip", "10.89.0.24", "--data-dir", dir,
		"--join", address(t, "master-1") + ":6444", "--token", createToken(t, "master-1", "master")}, sharedFlags...)...)
	eventually(t, time.Minute, "the new master to have its vote", func() error {
		s, _ := clusterStatus(t)
		for _, m := range s.Members {
			if m.Name == "master-4" && m.Role == cluster.StatusVoter && m.Health == cluster.HealthOK {
				return nil
			}
		}
		return fmt.Errorf("%v", s.Problems)
	})
	contains(t, must(t, "cluster", "remove", "master-3"), "removed")
	mastersAre(t, "master-1", "master-2", "master-4")

	// It moves, without a token or any addresses.
	p.stop()
	addAddress(t, "master-3", "10.89.0.25")
	p = run(t, "master-3", append([]string{"server", "--no-agent", "--name", "master-4", "--node-ip", "10.89.0.25", "--data-dir", dir}, sharedFlags...)...)
	eventually(t, time.Minute, "the master to be known by its new address", func() error {
		if m := member(t, "master-4"); m.Address != "10.89.0.25:6444" || m.APIAddress != "10.89.0.25:6443" || m.Health != cluster.HealthOK {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	mastersAre(t, "master-1", "master-2", "master-4")
	if out, err := inHost(t, "master-1", env.Kontiki, "kubectl", "--kubeconfig", env.Kubeconfig(), "--server", "https://10.89.0.25:6443", "-n", ns, "get", "configmap", "kept"); err != nil {
		t.Errorf("what was written, on its new address: %v: %s", err, out)
	}
	// It leads from there, too.
	contains(t, must(t, "cluster", "transfer", "master-4"), "master-4 leads")
	kubectl(t, "-n", ns, "create", "configmap", "led")
	p.stop()
	contains(t, must(t, "cluster", "remove", "master-4"), "removed")
	mastersAre(t, "master-1", "master-2")
}

// withoutPlace are the flags of an agent that `kontiki dev` started, without those that say where it is and whom it joins.
func withoutPlace(t *testing.T, host string) (flags []string) {
	t.Helper()
	pid, err := env.Pid(host)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")[1:]
	for i := 0; i < len(args); i++ {
		if slices.Contains([]string{"--join", "--token", "--node-ip"}, args[i]) {
			i++
			continue
		}
		flags = append(flags, args[i])
	}
	return flags
}

// TestAWorkerMachineIsReplacedAsPlanned: it is drained and deleted, and another one joins under its name with a token from the
// command. Then that one gets another address, and restarts with its data alone, with its containers untouched.
func TestAWorkerMachineIsReplacedAsPlanned(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, deployment(ns, "web", 2))
	rollout(t, ns, "web")
	kubectl(t, "drain", "worker-2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s")
	t.Cleanup(func() {
		if _, err := env.Pid("worker-2"); err != nil {
			must(t, "dev", "start", "worker-2")
		}
		awaitNode(t, "worker-2", corev1.ConditionTrue)
	})
	rollout(t, ns, "web")
	for _, pod := range pods(t, ns, "app=web") {
		if pod.Spec.NodeName == "worker-2" && pod.DeletionTimestamp == nil {
			t.Errorf("%s is on the worker that was drained", pod.Name)
		}
	}
	flags := withoutPlace(t, "worker-2")
	must(t, "dev", "stop", "worker-2")
	kubectl(t, "delete", "node", "worker-2")
	// A new machine has no mount of the kubelet's folder either.
	if err := syscall.Unmount(filepath.Join(hostDir("worker-2"), "kubelet"), syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
		t.Fatal(err)
	}
	if err := os.RemoveAll(hostDir("worker-2")); err != nil {
		t.Fatal(err)
	}
	p := run(t, "worker-2", append(flags, "--node-ip", address(t, "worker-2"), "--join", address(t, "master-1")+":6444", "--token", createToken(t, "master-1", "worker"))...)
	awaitNode(t, "worker-2", corev1.ConditionTrue)
	apply(t, in(ns, toolPod("server", "worker-2", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	containers := containerIDs(t, ns)

	// It moves.
	p.stop()
	addAddress(t, "worker-2", "10.89.0.112")
	p = run(t, "worker-2", append(flags, "--node-ip", "10.89.0.112")...)
	at := func(want string) {
		t.Helper()
		eventually(t, time.Minute, "the worker to be at "+want, func() error {
			node, err := env.Set.CoreV1().Nodes().Get(context.Background(), "worker-2", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, a := range node.Status.Addresses {
				if a.Type == corev1.NodeInternalIP && a.Address == want {
					return nil
				}
			}
			return fmt.Errorf("%v", node.Status.Addresses)
		})
		awaitNode(t, "worker-2", corev1.ConditionTrue)
		eventually(t, time.Minute, "the master to reach the agent at "+want, func() error {
			_, err := kontiki("kubectl", "-n", ns, "exec", "server", "--", "cat", "/etc/hosts")
			return err
		})
	}
	at("10.89.0.112")
	p.stop()
	must(t, "dev", "start", "worker-2")
	at(address(t, "worker-2"))
	sameContainers(t, containers, containerIDs(t, ns))
}

// serviceAccountToken makes a token of the service account default; known says whether the API knows whose a token is.
func serviceAccountToken(t *testing.T, namespace string) string {
	t.Helper()
	return strings.TrimSpace(kubectl(t, "-n", namespace, "create", "token", "default", "--duration=24h"))
}

func known(t *testing.T, token string) bool {
	t.Helper()
	out, err := inHost(t, "master-1", "curl", "-sSk", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Authorization: Bearer "+token, "https://"+address(t, "master-1")+":6443/api")
	if err != nil || out != "200" && out != "401" && out != "403" {
		t.Fatalf("ask with a token: %q %v", out, err)
	}
	return out != "401"
}

// TestEverythingIsLostButASnapshotAndIdentity: a new cluster replaces one of which only two files are left.
func TestEverythingIsLostButASnapshotAndIdentity(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "secret", "generic", "password", "--from-literal=word=hush-hush")
	apply(t, in(ns, toolPod("server", "worker-2", "tools", "serve")))
	apply(t, deployment(ns, "web", 2))
	rollout(t, ns, "web")
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	token, containers := serviceAccountToken(t, ns), containerIDs(t, ns)
	for _, pod := range pods(t, ns, "") {
		if pod.Spec.NodeName != "worker-2" {
			delete(containers, pod.Name+"/c")
		}
	}
	if !known(t, token) || known(t, token+"x") {
		t.Fatal("the token cannot be told from another one: the test would show nothing")
	}
	must(t, "dev", "stop", "worker-2") // its containers shall go on; worker-1 sees an empty cluster
	safe := t.TempDir()
	snapshot := filepath.Join(safe, "state.snapshot")
	must(t, "snapshot", "save", snapshot)
	for from, to := range map[string]string{filepath.Join(hostDir("master-2"), "identity.json"): "identity.json", env.Kubeconfig(): "kubeconfig"} {
		copyFile(t, from, filepath.Join(safe, to))
	}
	before, _ := clusterStatus(t)
	for i := range masters {
		must(t, "dev", "kill", fmt.Sprint("master-", i+1))
	}
	for i := range masters {
		if err := os.RemoveAll(hostDir(fmt.Sprint("master-", i+1))); err != nil {
			t.Fatal(err)
		}
	}

	if err := os.MkdirAll(hostDir("master-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(safe, "identity.json"), filepath.Join(hostDir("master-1"), "identity.json"))
	must(t, "dev", "start", "master-1")
	eventually(t, time.Minute, "the new cluster to serve the old kubeconfig", func() error {
		_, err := kontiki("kubectl", "--kubeconfig", filepath.Join(safe, "kubeconfig"), "get", "namespaces")
		return err
	})
	contains(t, must(t, "snapshot", "restore", snapshot), "restored revision")
	must(t, "dev", "start", "worker-2")
	must(t, "dev", "start", "master-2")
	must(t, "dev", "start", "master-3")
	healthy(t)
	eventually(t, time.Minute, "workers to be ready", func() error { return nodesReady(workers) })
	eventually(t, time.Minute, "the deployment to be whole", func() error {
		n := 0
		for _, pod := range pods(t, ns, "app=web") {
			if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning && ready(&pod) {
				n++
			}
		}
		if n != 2 {
			return fmt.Errorf("%d of its pods are ready", n)
		}
		return nil
	})
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	sameContainers(t, containers, containerIDs(t, ns))
	if word := kubectl(t, "-n", ns, "get", "secret", "password", "-o", "jsonpath={.data.word}"); word != "aHVzaC1odXNo" {
		t.Errorf("the secret is %q", word)
	}
	if !known(t, token) {
		t.Error("the service account's token is not known")
	}
	if after, _ := clusterStatus(t); after.Revision <= before.Revision || after.ClusterID != before.ClusterID {
		t.Errorf("revision %d of cluster %s, before %d of %s", after.Revision, after.ClusterID, before.Revision, before.ClusterID)
	}
	apply(t, in(ns, toolPod("after", "worker-1", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/after", "--timeout=60s")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestAStolenMaster removes a master whose disk a thief has, and changes every key on it. Afterwards the thief's data gives no
// access.
func TestAStolenMaster(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "secret", "generic", "password", "--from-literal=word=hush-hush")
	for i := range workers {
		apply(t, in(ns, toolPod(fmt.Sprint("server-", i+1), fmt.Sprint("worker-", i+1), "tools", "serve")))
	}
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	token, containers := serviceAccountToken(t, ns), containerIDs(t, ns)
	joinToken := createToken(t, "master-1", "master")

	// The thief calls another master as the stolen one. A directory of the thief's own, with what that takes.
	stolen := t.TempDir()
	for _, file := range []string{"identity.json", "admin.kubeconfig"} {
		copyFile(t, filepath.Join(hostDir("master-2"), file), filepath.Join(stolen, file))
	}
	data, err := os.ReadFile(filepath.Join(hostDir("master-2"), "member.json"))
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(address(t, "master-2")+":6444"), []byte(address(t, "master-1")+":6444"), 1)
	if err := os.WriteFile(filepath.Join(stolen, "member.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	asMaster := func() (string, error) {
		return inHost(t, "master-2", env.Kontiki, "token", "list", "--data-dir", stolen)
	}
	asAdmin := func() (string, error) {
		return inHost(t, "master-2", env.Kontiki, "kubectl", "--kubeconfig", filepath.Join(stolen, "admin.kubeconfig"), "--server", "https://"+address(t, "master-1")+":6443", "get", "secrets", "-A")
	}
	for what, try := range map[string]func() (string, error){"as a master": asMaster, "as the administrator": asAdmin} {
		if out, err := try(); err != nil {
			t.Fatalf("the thief opens nothing %s, so that the test would show nothing: %v: %s", what, err, out)
		}
	}

	must(t, "dev", "kill", "master-2")
	t.Cleanup(func() {
		newMachine(t, "master-2")
		healthy(t)
	})
	must(t, "cluster", "remove", "master-2")
	old := certs(t)
	oldKey := secretKeyOf(t, "master-1")
	for _, key := range []string{"ca", "gossip-key", "secret-key", "token-key"} {
		must(t, "cluster", "certs", "rotate-"+key)
	}
	eventually(t, time.Minute, "every worker to have moved, and the keys to be in use", func() error {
		now := certs(t)
		if now.issuing() == old.issuing() || len(now.Rotations) > 2 { // those of the CA and of tokens wait for their end
			return fmt.Errorf("%v", now.Rotations)
		}
		for _, worker := range now.Workers {
			if worker.Issuer != now.issuing() || worker.Master == "" {
				return fmt.Errorf("%+v", worker)
			}
		}
		return nil
	})
	if !known(t, token) {
		t.Error("a token of the old key does not hold until the end of the rotation")
	}
	must(t, "cluster", "certs", "rotate-ca", "--finish")
	eventually(t, time.Minute, "the kubeconfig of the new CA", func() error {
		_, err := kontiki("cluster", "certs")
		return err
	})
	must(t, "cluster", "certs", "rotate-token-key", "--finish")
	eventually(t, time.Minute, "the old key of tokens to be dropped", func() error {
		if known(t, token) {
			return errNotYet
		}
		return nil
	})

	// Tokens of the old CA admit no host, and are revoked; every Secret is encrypted with a new key.
	out, err := inHost(t, "master-1", env.Kontiki, "token", "list", "--data-dir", hostDir("master-1"))
	if err != nil {
		t.Fatal(err, out)
	}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "master" {
			if out, err := inHost(t, "master-1", env.Kontiki, "token", "revoke", fields[0], "--data-dir", hostDir("master-1")); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	}
	secrets := kubectl(t, "get", "secrets", "-A", "-o", "json")
	contains(t, secrets, "password")
	if _, err := kontikiWith(strings.NewReader(secrets), "kubectl", "replace", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	newKey := secretKeyOf(t, "master-1")
	file := filepath.Join(t.TempDir(), "state.snapshot")
	must(t, "snapshot", "save", file)
	state, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if oldKey == newKey || bytes.Contains(state, []byte(":"+oldKey+":")) || !bytes.Contains(state, []byte(":"+newKey+":")) {
		t.Errorf("Secrets are sealed with the key %s of before, now it is %s", oldKey, newKey)
	}

	for what, try := range map[string]func() (string, error){"as a master": asMaster, "as the administrator": asAdmin} {
		if out, err := try(); err == nil {
			t.Errorf("the thief is let in %s: %s", what, out)
		}
	}
	if out, err := inHost(t, "master-2", env.Kontiki, "server", "--no-agent", "--name", "thief", "--node-ip", address(t, "master-2"), "--data-dir", filepath.Join(t.TempDir(), "server"),
		"--join", address(t, "master-1")+":6444", "--token", joinToken); err == nil || !strings.Contains(out, "token") {
		t.Errorf("an old token: %v: %s", err, out)
	}
	healthyAre(t, masters-1)
	sameContainers(t, containers, containerIDs(t, ns))
	if word := kubectl(t, "-n", ns, "get", "secret", "password", "-o", "jsonpath={.data.word}"); word != "aHVzaC1odXNo" {
		t.Errorf("the secret is %q", word)
	}
}

// secretKeyOf returns the id of the key with which a master encrypts Secrets.
func secretKeyOf(t *testing.T, host string) string {
	t.Helper()
	id, err := identity.Load(hostDir(host))
	if err != nil {
		t.Fatal(err)
	}
	return id.CurrentSecretKey
}
