package pods

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/runtime"
)

func pullSecretOf(name, password string) *corev1.Secret {
	s := &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson}
	s.Name, s.Namespace, s.UID = name, "ns", types.UID("uid-of-"+name)
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	s.Data = map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{"docker.io":{"auth":%q}}}`, auth)}
	return s
}

func using(name, image string, policy corev1.PullPolicy, secrets ...string) *corev1.Pod {
	p := pod(name, corev1.RestartPolicyAlways, trap)
	p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, policy
	for _, s := range secrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	return p
}

func (n *node) waits(p *corev1.Pod) string {
	n.t.Helper()
	w := n.status(p).ContainerStatuses[0].State.Waiting
	if w == nil {
		return ""
	}
	return w.Reason
}

func (n *node) pulls() int {
	return len(slices.DeleteFunc(n.rt.Calls(), func(s string) bool { return !strings.HasPrefix(s, "PullImage") }))
}

func TestImagesOfSecretsNeedThem(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		const private = "docker.io/test/private:1"
		n.rt.ProvidePrivately(private, "right")
		n.secrets = map[string]*corev1.Secret{"a": pullSecretOf("a", "right"), "same": pullSecretOf("same", "right"), "wrong": pullSecretOf("wrong", "wrong")}
		n.m.Update(using("first", private, corev1.PullIfNotPresent, "wrong", "a"))
		n.running(using("first", private, ""), "c1")
		if said := n.said("Pulled"); len(said) != 1 || !strings.HasPrefix(said[0], `Successfully pulled image "docker.io/test/private:1" in 0s (0s including waiting). Image size: `) {
			t.Errorf("said %q", said)
		}
		for _, c := range []struct {
			pod  *corev1.Pod
			want string
		}{
			{using("none", private, corev1.PullIfNotPresent), "ErrImagePull"},
			{using("never", private, corev1.PullNever), "ErrImageNeverPull"},
			{using("wrong", private, corev1.PullIfNotPresent, "wrong"), "ErrImagePull"},
			{using("again", private, corev1.PullNever, "a"), ""},
			{using("same", private, corev1.PullNever, "same"), ""}, // another Secret with the same credentials
			{using("before", image, corev1.PullNever), ""},         // an image that nobody pulled
		} {
			n.m.Update(c.pod)
			if got := n.waits(c.pod); got != c.want {
				t.Errorf("%s waits for %q, want %q", c.pod.Name, got, c.want)
			}
		}
		if said := n.said("ErrImageNeverPull"); !slices.Equal(said, []string{`Container image "docker.io/test/private:1" is not present with pull policy of Never`}) {
			t.Errorf("said %q", said)
		}
		if said := n.said("Pulled"); !slices.Contains(said, `Container image "docker.io/test/private:1" already present on machine and can be accessed by the pod`) {
			t.Errorf("said %q", said)
		}
		// The Secret's new content counts as well, and the records outlive the agent.
		n.secrets["a"] = pullSecretOf("a", "rotated")
		n.secrets["new"] = pullSecretOf("new", "rotated")
		n.stop()
		n.start()
		for _, c := range []struct{ name, secret, want string }{{"none2", "", "ErrImageNeverPull"}, {"new1", "new", "ErrImageNeverPull"}, {"a2", "a", ""}, {"new2", "new", ""}} {
			p := using(c.name, private, corev1.PullNever, c.secret)
			n.m.Update(p)
			if got := n.waits(p); got != c.want {
				t.Errorf("%s waits for %q, want %q", c.name, got, c.want)
			}
		}
		// What needs no credentials is for all.
		n.rt.ProvidePrivately(private, "")
		p := using("open", private, corev1.PullAlways)
		n.m.Update(p)
		n.running(p, "c1")
		p = using("open2", private, corev1.PullNever)
		n.m.Update(p)
		n.running(p, "c1")
	})
}

// TestImagesOfTheNodesCredentials: they are tried after the pod's own, and every pod of the node may use the image.
func TestImagesOfTheNodesCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		const private = "docker.io/test/private:1"
		n.rt.ProvidePrivately(private, "right")
		n.secrets = map[string]*corev1.Secret{"wrong": pullSecretOf("wrong", "wrong")}
		var asked []string
		n.m.c.NodeCredentials = func(_ context.Context, repository string) []runtime.Auth {
			asked = append(asked, repository)
			return []runtime.Auth{{Username: "u", Password: "right"}}
		}
		for _, p := range []*corev1.Pod{using("first", private, corev1.PullIfNotPresent, "wrong"), using("second", private, corev1.PullNever)} {
			n.m.Update(p)
			n.running(p, "c1")
		}
		if !slices.Equal(asked, []string{"docker.io/test/private"}) {
			t.Errorf("asked about %q", asked)
		}
	})
}

// An agent that ends during a pull does not know whether the image came with credentials: it must be pulled again.
func TestAnInterruptedPullIsNotTrusted(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		if err := n.m.pulled.Begin(image); err != nil {
			t.Fatal(err)
		}
		n.stop()
		n.start()
		p := using("a", image, corev1.PullNever)
		n.m.Update(p)
		if got := n.waits(p); got != "ErrImageNeverPull" {
			t.Fatalf("waits for %q", got)
		}
		b := using("b", image, corev1.PullIfNotPresent)
		n.m.Update(b) // not to be had
		if got := n.waits(b); got != "ErrImagePull" {
			t.Fatalf("waits for %q", got)
		}
		n.rt.Provide(image)
		pass(time.Minute)
		n.running(b, "c1")
		n.running(p, "c1")
	})
}

func TestPullsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		release := n.rt.Block("PullImage")
		var all []*corev1.Pod
		for i := range 8 {
			ref := fmt.Sprintf("docker.io/test/many:%d", i)
			n.rt.Provide(ref)
			p := using(fmt.Sprint("p", i), ref, corev1.PullIfNotPresent)
			all = append(all, p)
			n.m.Update(p)
		}
		synctest.Wait()
		if got := n.pulls(); got != 5 {
			t.Errorf("%d pulls at once, want 5", got)
		}
		pass(90 * time.Second)
		release()
		for _, p := range all {
			n.running(p, "c1")
		}
		waited := 0
		for _, s := range n.said("Pulled") {
			if strings.Contains(s, "in 0s (1m30s including waiting)") {
				waited++
			}
		}
		if waited != 3 || n.pulls() != 8 {
			t.Errorf("%d of %d pulls had to wait: %q", waited, n.pulls(), n.said("Pulled"))
		}
	})
}
