package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
)

func TestRunAsNonRootIsOfTheOutcome(t *testing.T) {
	yes, no, root, user := true, false, int64(0), int64(1000)
	broken := `container's runAsUser breaks non-root policy (pod: "a_ns(uid-a)", container: c1)`
	for _, c := range []struct {
		name string
		pod  *corev1.PodSecurityContext
		ctr  *corev1.SecurityContext
		want string
	}{
		{"the image's user is a name", &corev1.PodSecurityContext{RunAsNonRoot: &yes}, nil, `container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: "a_ns(uid-a)", container: c1)`},
		{"all in the pod", &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &root}, nil, broken},
		{"all in the container", nil, &corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &root}, broken},
		{"an empty context of the container", &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &root}, &corev1.SecurityContext{}, broken},
		{"the policy in the pod, the user in the container", &corev1.PodSecurityContext{RunAsNonRoot: &yes}, &corev1.SecurityContext{RunAsUser: &root}, broken},
		{"the container takes the policy back", &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &root}, &corev1.SecurityContext{RunAsNonRoot: &no}, ""},
		{"the container has another user", &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &root}, &corev1.SecurityContext{RunAsUser: &user}, ""},
		{"no user, and the image's is root", &corev1.PodSecurityContext{RunAsNonRoot: &yes}, nil, `container has runAsNonRoot and image will run as root (pod: "a_ns(uid-a)", container: c1)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				p := pod("a", corev1.RestartPolicyAlways, trap)
				p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = c.pod, c.ctr
				if strings.Contains(c.want, "(web)") {
					n.rt.SetUser(image, "web")
				}
				n.m.Update(p)
				w := n.status(p).ContainerStatuses[0].State.Waiting
				if c.want == "" {
					n.running(p, "c1")
				} else if w == nil || w.Reason != "CreateContainerConfigError" || w.Message != c.want {
					t.Errorf("waiting %+v", w)
				}
			})
		})
	}
}

func TestVolumesThatShowObjectsAreReadOnly(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.paths = map[string]string{}
		for name, source := range map[string]corev1.VolumeSource{
			"cm": {ConfigMap: &corev1.ConfigMapVolumeSource{}}, "secret": {Secret: &corev1.SecretVolumeSource{}},
			"down": {DownwardAPI: &corev1.DownwardAPIVolumeSource{}}, "projected": {Projected: &corev1.ProjectedVolumeSource{}},
			"empty": {EmptyDir: &corev1.EmptyDirVolumeSource{}}, "host": {HostPath: &corev1.HostPathVolumeSource{Path: "/x"}},
		} {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/v/" + name},
				corev1.VolumeMount{Name: name, MountPath: "/sub/" + name, SubPath: "part"})
			n.paths[name] = "/volumes/" + name
		}
		n.m.Update(p)
		seen := 0
		for _, m := range n.rt.Config(n.running(p, "c1").ID).Mounts {
			name := filepath.Base(m.ContainerPath)
			if n.paths[name] == "" {
				continue
			}
			seen++
			if want := name != "empty" && name != "host"; m.ReadOnly != want {
				t.Errorf("%s is read-only: %v", m.ContainerPath, m.ReadOnly)
			}
		}
		if seen != 12 {
			t.Errorf("%d mounts", seen)
		}
	})
}

func TestVariablesFromFiles(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		dir := filepath.Join(n.dir, "volume")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write := func(name, content string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("app.env", "# made by init\n\n  TOKEN='s3cret' # the token\nMANY='one\ntwo'\nEMPTY= 'x'\nLAST='99'\n")
		write("bad.env", "A ='1'\n")
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out.env")); err != nil {
			t.Fatal(err)
		}
		n.paths = map[string]string{"v": dir}
		yes := true
		from := func(file, key string, optional *bool) corev1.EnvVar {
			return corev1.EnvVar{Name: "V", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "v", Path: file, Key: key, Optional: optional}}}
		}
		for i, c := range []struct {
			env       corev1.EnvVar
			want, err string // want "-" for a variable that is not set
		}{
			{from("app.env", "TOKEN", nil), "s3cret", ""},
			{from("app.env", "MANY", nil), "one\ntwo", ""},
			{from("app.env", "LAST", nil), "99", ""},
			{from("app.env", "NONE", nil), "", `environment variable key "NONE" not found in file "app.env"`},
			{from("app.env", "EMPTY", nil), "", `environment variable key "EMPTY" not found in file "app.env"`},
			{from("app.env", "NONE", &yes), "-", ""},
			{from("bad.env", "A", nil), "", "couldn't parse env file"},
			{from("none.env", "A", nil), "", "couldn't parse env file"},
			{from("out.env", "A", nil), "", "couldn't parse env file"},
		} {
			p := pod(string(rune('a'+i)), corev1.RestartPolicyAlways, trap)
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			p.Spec.Containers[0].Env = []corev1.EnvVar{c.env}
			n.m.Update(p)
			if c.err != "" {
				if w := n.status(p).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, c.err) {
					t.Errorf("%d: waiting %+v", i, w)
				}
				continue
			}
			env := n.rt.Config(n.running(p, "c1").ID).Env
			at := slices.IndexFunc(env, func(v runtime.KeyValue) bool { return v.Name == "V" })
			if c.want == "-" && at >= 0 || c.want != "-" && (at < 0 || env[at].Value != c.want) {
				t.Errorf("%d: environment %v", i, env)
			}
		}
	})
}

func TestBytesThatAreNoTextAreNoVariables(t *testing.T) {
	for _, bad := range []string{"caf\xe9", "a\x00b"} {
		bubble(t, func(t *testing.T, n *node) {
			n.secrets = map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte(bad)}}}
			p := pod("a", corev1.RestartPolicyAlways, trap)
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "L", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}}}
			n.m.Update(p)
			w := n.status(p).ContainerStatuses[0].State.Waiting
			if w == nil || w.Reason != "CreateContainerError" || w.Message != `environment variable "L": its value is not valid UTF-8 or contains a NUL byte` {
				t.Errorf("waiting %+v", w)
			}
		})
	}
}

func TestTerminationMessages(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyNever)
		long := strings.Repeat("x", 5000) + "end"
		for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Image: image, Command: []string{"write", name}, TerminationMessagePath: "/dev/termination-log"})
		}
		contents := map[string]string{"a": long, "b": long, "c": long, "d": long, "e": "caf\xe9", "f": ""}
		n.rt.Program("write", func(_ context.Context, proc *fake.Process) int {
			name := proc.Args[1]
			path := filepath.Join(n.dir, "pods", "uid-a", messageFile(name, 0))
			if err := os.WriteFile(path, []byte(contents[name]), 0o666); err != nil {
				return 1
			}
			return 0
		})
		n.m.Update(p)
		total := 0
		for _, s := range n.status(p).ContainerStatuses {
			m := s.State.Terminated
			if m == nil || m.ExitCode != 0 {
				t.Fatalf("%+v", s)
			}
			total += len(m.Message)
			switch s.Name {
			case "a":
				if len(m.Message) != 12288/6 || !strings.HasSuffix(m.Message, "end") {
					t.Errorf("%d bytes that end with %q", len(m.Message), m.Message[len(m.Message)-3:])
				}
			case "e":
				if m.Message != "caf\uFFFD" {
					t.Errorf("%q", m.Message)
				}
			}
		}
		if total > 12288 {
			t.Errorf("%d bytes for a pod", total)
		}
		one := pod("a", corev1.RestartPolicyNever, "write|a")
		one.UID, one.Spec.Containers[0].TerminationMessagePath = "uid-one", "/dev/termination-log"
		n.rt.Program("write", func(context.Context, *fake.Process) int {
			_ = os.WriteFile(filepath.Join(n.dir, "pods", "uid-one", messageFile("c1", 0)), []byte(long), 0o666)
			return 0
		})
		n.m.Update(one)
		if m := n.status(one).ContainerStatuses[0].State.Terminated.Message; len(m) != 4096 || !strings.HasSuffix(m, "end") {
			t.Errorf("one container's message has %d bytes", len(m))
		}
	})
	log := filepath.Join(t.TempDir(), "pod", "c", "0.log")
	var lines strings.Builder
	for i := range 200 {
		fmt.Fprintf(&lines, "2026-01-01T00:00:00.000000000Z stdout F %d\n", i+1)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(log), 0o755), os.WriteFile(log, []byte(lines.String()), 0o644)); err != nil {
		t.Fatal(err)
	}
	if tail := strings.Fields(logTail(log)); len(tail) != 80 || tail[0] != "121" || tail[79] != "200" {
		t.Errorf("the log's last lines: %v", tail)
	}
	if got := lastBytes("aäöü", 4); got != "öü" {
		t.Errorf("%q", got)
	}
	if got := lastBytes("aäöü", 3); got != "ü" {
		t.Errorf("%q", got)
	}
}

func TestANameThatTheKernelDoesNotTakeIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		yes := true
		p.Spec.Hostname, p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "a-rather-long-host-name-that-goes-on", "and-a-subdomain", &yes
		n.m.Update(p)
		if s := n.status(p); s.Phase != corev1.PodPending || s.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("%+v", s)
		}
		want := "Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain, FQDN a-rather-long-host-name-that-goes-on.and-a-subdomain.ns.svc.cluster.local is too long (64 characters is the max, 73 characters requested)"
		if said := n.said("FailedCreatePodSandBox"); len(said) == 0 || said[0] != want {
			t.Errorf("said %q", said)
		}
	})
}

func TestHostnames(t *testing.T) {
	p := pod(strings.Repeat("a", 62)+".bcd", corev1.RestartPolicyAlways, trap)
	if h := hostname(p); h != strings.Repeat("a", 62) {
		t.Errorf("a long name is cut to %q", h)
	}
	override := strings.Repeat("o", 64)
	p.Spec.HostnameOverride, p.Spec.Hostname = &override, "web"
	if h := hostname(p); h != override {
		t.Errorf("an override becomes %q", h)
	}
}

func TestAHooksOutputIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.rt.Program("noisy", func(_ context.Context, p *fake.Process) int {
			for range 1000 {
				if _, err := p.Stdout.Write(make([]byte, 4096)); err != nil {
					return 2
				}
			}
			return 1
		})
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		c := n.running(p, "c1")
		w := n.m.workers[p.UID]
		err := w.hook(context.Background(), p, &p.Spec.Containers[0], c.ID, &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"noisy"}}})
		if err == nil || errors.Is(err, context.Canceled) || len(err.Error()) > 64<<10 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

func TestLogsAreLinkedWhereCollectorsLook(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		c := n.running(p, "c1")
		link := filepath.Join(n.dir, "links", "a_ns_c1-"+c.ID+".log")
		if target, err := os.Readlink(link); err != nil || target != filepath.Join(n.dir, "logs", "ns_a_uid-a", "c1", "0.log") || target != c.LogPath {
			t.Errorf("%s, %v", target, err)
		}
		stale := filepath.Join(n.dir, "links", "gone.log")
		if err := os.Symlink(filepath.Join(n.dir, "logs", "ns_gone_uid", "c", "0.log"), stale); err != nil {
			t.Fatal(err)
		}
		n.m.Sweep()
		n.status(p)
		if _, err := os.Lstat(link); err != nil {
			t.Error(err)
		}
		n.m.Update(deleting(p, 1))
		n.hasEnded(p)
		n.m.Remove(p.UID)
		n.status(p)
		for _, l := range []string{link, stale} {
			if _, err := os.Lstat(l); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", l, err)
			}
		}
	})
	long := pod(strings.Repeat("n", 253), corev1.RestartPolicyAlways, trap)
	if name := filepath.Base(logLink("/x", long, strings.Repeat("c", 63), strings.Repeat("f", 64))); len(name) != 255 || !strings.HasSuffix(name, "ff.log") {
		t.Errorf("%d: %s", len(name), name)
	}
}

func TestImageVolumes(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		const files = "docker.io/test/files:1"
		n.rt.Provide(files)
		p := pod("a", corev1.RestartPolicyAlways, "sleep|5", trap)
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: files, PullPolicy: corev1.PullAlways}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		dir := filepath.Join(n.dir, "image")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		n.paths = map[string]string{"v": dir}
		n.m.Update(p)
		c := n.running(p, "c1")
		mount := slices.IndexFunc(n.rt.Config(c.ID).Mounts, func(m runtime.Mount) bool { return m.ContainerPath == "/v" })
		if m := n.rt.Config(c.ID).Mounts[mount]; m.HostPath != dir || !m.ReadOnly {
			t.Errorf("mount %+v", m)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "image")); err != nil || len(b) == 0 {
			t.Error(err)
		}
		time.Sleep(7 * time.Second) // its second attempt
		n.running(p, "c1")
		count := func(call string) (n2 int) {
			for _, c := range n.rt.Calls() {
				if c == call {
					n2++
				}
			}
			return n2
		}
		if pulls, mounts := count("PullImage "+files), count("MountImage sha256:"+fmt.Sprintf("%064x", []byte(files)[:22])); pulls != 1 || mounts != 1 {
			t.Errorf("%d pulls, %d mounts: %v", pulls, mounts, n.rt.Calls())
		}
		q := pod("b", corev1.RestartPolicyAlways, trap)
		q.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "docker.io/test/none:1", PullPolicy: corev1.PullNever}}}}
		q.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		n.m.Update(q)
		if w := n.status(q).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ErrImageNeverPull" {
			t.Errorf("an image that is not there: %+v", w)
		}
	})
}

func TestAPanicIsOfOnePod(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p, q := pod("a", corev1.RestartPolicyAlways, trap), pod("b", corev1.RestartPolicyAlways, trap)
		n.volPanic = map[types.UID]bool{p.UID: true}
		n.m.Update(p)
		n.m.Update(q)
		n.running(q, "c1")
		if said := n.said("FailedSync"); len(said) == 0 || !strings.Contains(said[0], "a volume that nobody thought of") {
			t.Errorf("said %q", said)
		}
		n.mu.Lock()
		n.volPanic = nil
		n.mu.Unlock()
		time.Sleep(afterPanic + time.Second)
		n.running(p, "c1")
		n.m.Update(deleting(p, 1))
		if !n.hasEnded(p) {
			t.Error("it does not end")
		}
	})
}
