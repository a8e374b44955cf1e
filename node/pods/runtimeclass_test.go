package pods

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestAPodRunsWithTheHandlerOfItsRuntimeClass waits for the class, and keeps the handler when the class is deleted or means another one, also
// with another agent.
func TestAPodRunsWithTheHandlerOfItsRuntimeClass(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		class := "sandboxed"
		p.Spec.RuntimeClassName = &class
		n.m.Update(p)
		pass(time.Second)
		want := `Failed to create pod sandbox: failed to get RuntimeClass sandboxed: runtimeclass.node.k8s.io "sandboxed" not found`
		if said := n.said("FailedCreatePodSandBox"); len(said) == 0 || said[0] != want {
			t.Errorf("said %q", said)
		}
		define := func(handler string) {
			n.mu.Lock()
			n.classes = map[string]*nodev1.RuntimeClass{}
			if handler != "" {
				n.classes[class] = &nodev1.RuntimeClass{Handler: handler}
			}
			n.mu.Unlock()
			n.m.Refresh(nil)
		}
		handler := func() string {
			n.m.mu.Lock()
			w := n.m.workers[types.UID(p.UID)]
			n.m.mu.Unlock()
			h, err := w.handler(p)
			if err != nil {
				t.Error(err)
			}
			return h
		}
		define("runsc")
		pass(time.Minute)
		if s := n.status(p); s.Phase != corev1.PodRunning || handler() != "runsc" {
			t.Errorf("%+v, %s", s, handler())
		}
		define("kata")
		if handler() != "runsc" {
			t.Errorf("another class of the name: %s", handler())
		}
		define("")
		n.stop()
		n.start()
		n.m.Update(p)
		pass(time.Minute)
		if s := n.status(p); s.Phase != corev1.PodRunning || s.ContainerStatuses[0].RestartCount != 0 || handler() != "runsc" {
			t.Errorf("with another agent: %+v, %s", s, handler())
		}
	})
}
