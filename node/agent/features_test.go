package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/runtime"
)

const waitForever = `trap "exit 0" TERM; while :; do sleep 0.05; done`

func podVolume(name string, s corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: s}
}

func TestRealVolumesAndEnvironment(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(w.dir, "from-host")
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	mode := int32(0o400)
	seconds := int64(3600)
	c := sh(waitForever)
	c.Env = []corev1.EnvVar{
		{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "password"}}},
		{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "LIMIT", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		{Name: "BOTH", Value: "$(PASSWORD)@$(DB_SERVICE_HOST)"},
	}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "CM_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "config", MountPath: "/config"}, {Name: "secret", MountPath: "/secret", ReadOnly: true}, {Name: "scratch", MountPath: "/scratch"},
		{Name: "host", MountPath: "/host", ReadOnly: true}, {Name: "memory", MountPath: "/memory"}, {Name: "projected", MountPath: "/projected"},
		{Name: "scratch", MountPath: "/part", SubPath: "a/b"}, {Name: "config", MountPath: "/single/key", SubPath: "greeting"},
	}
	second := sh("echo from-second > /scratch/x; " + waitForever)
	second.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	p := testPod("full", c, second)
	p.Labels = map[string]string{"app": "full"}
	p.Spec.ServiceAccountName = "robot"
	group := int64(7777)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	p.Spec.Volumes = []corev1.Volume{
		podVolume("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}),
		podVolume("secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}}),
		podVolume("scratch", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		podVolume("memory", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}),
		podVolume("host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: ptr(corev1.HostPathDirectory)}}),
		podVolume("projected", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}),
	}
	w.master.service(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.1.1", Ports: []corev1.ServicePort{{Port: 5432}}}})
	w.master.pod(p)
	w.master.awaitEvent("FailedMount", `MountVolume.SetUp failed for volume "config" : configmap "cm" not found`)
	w.master.config(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"greeting": "hello"}})
	w.master.secret(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"password": []byte("sesame")}})
	w.master.awaitPod(p.UID, "running", running)

	for _, c := range []struct{ what, script, want string }{
		{"a secret in the environment", "echo $PASSWORD", "sesame"},
		{"the pod's address", "echo $POD", "10.244.0.1"},
		{"a limit", "echo $LIMIT", "64"},
		{"expansion, also of services' variables", "echo $BOTH", "sesame@10.96.1.1"},
		{"a whole config map with a prefix", "echo $CM_greeting", "hello"},
		{"a config map's file", "cat /config/greeting", "hello"},
		{"a secret's file, its mode with the group", "cat /secret/password; stat -L -c %a:%g /secret/password", "sesame440:7777"},
		{"a shared emptyDir", "until [ -e /scratch/x ]; do sleep 0.05; done; cat /scratch/x; stat -c %g /scratch", "from-second\n7777"},
		{"a folder of the host, read only", "cat /host/file; touch /host/y 2>/dev/null || echo -refused", "of the host-refused"},
		{"memory is bounded", "head -c 2000000 /dev/zero > /memory/x 2>/dev/null || stat -c %s /memory/x", "1048576"},
		{"a token", "cat /projected/token", "token-1-for-default/robot"},
		{"labels", "cat /projected/labels", `app="full"`},
		{"a part of a volume", "echo deep > /part/z; cat /scratch/a/b/z", "deep"},
		{"one file of a volume", "cat /single/key", "hello"},
		{"the group", "id -G | tr ' ' '\\n' | grep 7777", "7777"},
	} {
		if got := strings.TrimSpace(w.exec(p, "c1", "sh", "-c", c.script)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	// A changed config map reaches the running container.
	w.master.config(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"greeting": "good bye", "more": "1"}})
	if got := strings.TrimSpace(w.exec(p, "c1", "sh", "-c", "until grep -q bye /config/greeting; do sleep 0.05; done; cat /config/more")); got != "1" {
		t.Errorf("updated config map: %q", got)
	}
	w.master.delete(p, 5)
	w.master.awaitEnd(p.UID)
	w.master.remove("pods", "default", "full")
	w.awaitGone(p)
	if b, err := os.ReadFile(filepath.Join(host, "file")); err != nil || string(b) != "of the host" {
		t.Errorf("the host's file after the pod's end: %q, %v", b, err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestRealInitContainersAndMessages(t *testing.T) {
	w := newWorld(t)
	p := testPod("job", sh("cat /scratch/x; echo the end > /dev/termination-log; exit 3"))
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.Volumes = []corev1.Volume{podVolume("scratch", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})}
	mount := []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	p.Spec.Containers[0].VolumeMounts = mount
	init := p.Spec.Containers[0]
	init.Name, init.Command = "prepare", []string{"sh", "-c", "echo prepared > /scratch/x"}
	p.Spec.InitContainers = []corev1.Container{init}
	w.master.pod(p)
	s := w.master.awaitPod(p.UID, "failed", func(s corev1.PodStatus) bool { return s.Phase == corev1.PodFailed })
	end := s.ContainerStatuses[0].State.Terminated
	if end == nil || end.ExitCode != 3 || end.Reason != "Error" || end.Message != "the end\n" {
		t.Errorf("terminated %+v", end)
	}
	if i := s.InitContainerStatuses[0]; i.State.Terminated == nil || i.State.Terminated.Reason != "Completed" || !i.Ready {
		t.Errorf("init container %+v", i)
	}
	w.master.awaitEnd(p.UID) // an ended pod holds nothing but its log
	b, err := os.ReadFile(filepath.Join(w.dir, "logs", "default_job_uid-job", "c1", "0.log"))
	if err != nil || !strings.HasSuffix(string(b), "stdout F prepared\n") {
		t.Errorf("log %q, %v", b, err)
	}
	w.master.remove("pods", "default", "job")
	w.awaitGone(p)
}

// consumer is a ServiceConsumer that remembers.
type consumer struct {
	mu    sync.Mutex
	names []string
	told  chan struct{}
}

func (c *consumer) SetServices(services []*corev1.Service, _ []*discoveryv1.EndpointSlice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names = nil
	for _, s := range services {
		c.names = append(c.names, s.Name)
	}
	select {
	case c.told <- struct{}{}:
	default:
	}
}

func TestRealAgentRestartsWithoutMasters(t *testing.T) {
	w := newWorld(t)
	w.master.service(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.1.1"}})
	w.master.put("nodes", "Node", "v1", &metav1.ObjectMeta{Name: "node-1"}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24"}})
	p := testPod("stays", sh(waitForever))
	q := testPod("dies", sh(`until [ -e /dev/shm/go ]; do sleep 0.05; done; exit 6`))
	w.master.pod(p)
	w.master.pod(q)
	before := w.master.awaitPod(p.UID, "running", running)
	w.master.awaitPod(q.UID, "running", running)
	w.master.stop()
	w.stop()

	// While nobody looks one container ends.
	if err := os.WriteFile(filepath.Join(w.dir, "rt", "sandboxes", string(q.UID), "shm", "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := &consumer{told: make(chan struct{}, 1)}
	w.network = &fakeNetwork{pods: w.network.pods, next: w.network.next}
	w.consumers = []ServiceConsumer{c}
	w.start()
	select {
	case <-c.told:
	case <-time.After(10 * time.Second):
		t.Fatal("services on disk are not told")
	}
	if len(c.names) != 1 || c.names[0] != "db" {
		t.Errorf("services %v", c.names)
	}
	deadline := time.Now().Add(20 * time.Second)
	var restarted runtime.Container
	for restarted.Attempt == 0 && time.Now().Before(deadline) {
		list, _ := w.runtime.ListContainers(context.Background(), string(q.UID))
		for _, c := range list {
			if c.State == runtime.StateRunning || c.Attempt > restarted.Attempt {
				restarted = c
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	if restarted.Attempt == 0 {
		t.Error("with no master, an ended container is not restarted")
	}
	list, err := w.runtime.ListContainers(context.Background(), string(p.UID))
	if err != nil || len(list) != 1 || "containerd://"+list[0].ID != before.ContainerStatuses[0].ContainerID || list[0].State != runtime.StateRunning {
		t.Errorf("the other pod after the restart: %+v, %v", list, err)
	}
	w.network.mu.Lock()
	cidr := w.network.config.PodCIDR.String()
	w.network.mu.Unlock()
	if cidr != "10.244.0.0/24" {
		t.Errorf("network is configured with %s", cidr)
	}

	// The master comes back, and has forgotten one pod.
	l, err := net.Listen("tcp", w.master.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.master.remove("pods", "default", "dies")
	w.master.serve(l)
	w.awaitGone(q)
	s := w.master.awaitPod(p.UID, "running", running)
	if s.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("restart count %d", s.ContainerStatuses[0].RestartCount)
	}
}

func TestRealOrphansAreRemoved(t *testing.T) {
	w := newWorld(t)
	p := testPod("gone", sh(waitForever))
	w.master.pod(p)
	w.master.awaitPod(p.UID, "running", running)
	w.stop()
	// All that the agent knew is lost, and the pod is no longer assigned.
	if err := os.Remove(filepath.Join(w.dir, "agent", "assignments")); err != nil {
		t.Fatal(err)
	}
	w.master.remove("pods", "default", "gone")
	w.start()
	w.awaitGone(p)
}

func TestRealLivenessAndHooks(t *testing.T) {
	w := newWorld(t)
	c := sh(`touch /alive; ` + waitForever)
	c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/alive"}}}, PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 1, SuccessThreshold: 1}
	c.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo started > /shared/post"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo stopped > /shared/pre"}}},
	}
	shared := filepath.Join(w.dir, "shared")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	p := testPod("probed", c)
	p.Spec.Volumes = []corev1.Volume{podVolume("shared", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared, Type: ptr(corev1.HostPathDirectoryOrCreate)}})}
	w.master.pod(p)
	w.master.awaitPod(p.UID, "running", running)
	w.exec(p, "c1", "sh", "-c", "until [ -e /shared/post ]; do sleep 0.05; done; rm /alive")
	w.master.awaitEvent("Unhealthy", "Liveness probe failed: cat: can't open '/alive': No such file or directory\n")
	w.master.awaitEvent("Killing", "Container c1 failed liveness probe, will be restarted")
	s := w.master.awaitPod(p.UID, "restarted", func(s corev1.PodStatus) bool { return running(s) && s.ContainerStatuses[0].RestartCount == 1 })
	if last := s.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 0 {
		t.Errorf("last state %+v", last)
	}
	if b, err := os.ReadFile(filepath.Join(shared, "pre")); err != nil || string(b) != "stopped\n" {
		t.Errorf("preStop wrote %q, %v", b, err)
	}
}

func TestRealRestartKeepsNetworkAndSandbox(t *testing.T) {
	w := newWorld(t)
	p := testPod("crash", sh("exit 1"))
	w.master.pod(p)
	s := w.master.awaitPod(p.UID, "in back-off", func(s corev1.PodStatus) bool {
		return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].State.Waiting != nil && s.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	if want := fmt.Sprintf("back-off 10s restarting failed container=c1 pod=crash_default(%s)", p.UID); s.ContainerStatuses[0].State.Waiting.Message != want {
		t.Errorf("message %q, want %q", s.ContainerStatuses[0].State.Waiting.Message, want)
	}
	if s.ContainerStatuses[0].RestartCount != 1 || s.PodIP != "10.244.0.1" || s.Phase != corev1.PodRunning {
		t.Errorf("status %+v", s)
	}
}
