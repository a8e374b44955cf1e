package nodes

import (
	"context"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/wake"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// TestAWorkerWakesWhatAServiceSays: a worker says only that a connection waits. What wakes is what the Service's annotation says, once.
func TestAWorkerWakesWhatAServiceSays(t *testing.T) {
	h := harness.New(t)
	meta := func(name, wakes string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: "default", Name: name}
		if wakes != "" {
			m.Annotations = map[string]string{wake.Annotation: wakes}
		}
		return m
	}
	deployment := func(name string, replicas int32) {
		labels := map[string]string{"app": name}
		make1(t, h, &appsv1.Deployment{ObjectMeta: meta(name, ""), Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	}
	service := func(name, wakes string) {
		make1(t, h, &corev1.Service{ObjectMeta: meta(name, wakes), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	}
	deployment("web", 0)
	deployment("busy", 3)
	deployment("other", 0)
	service("web", "Deployment/web")
	service("busy", "Deployment/busy")
	service("plain", "")
	service("dangling", "StatefulSet/missing")

	caller := "n1"
	server := New(Config{Client: h.Client, Caller: func(context.Context) (string, bool) { return caller, caller != "" }})
	call := func(name string) codes.Code {
		_, err := server.WakeService(t.Context(), &nodev1.WakeServiceRequest{Namespace: "default", Name: name})
		return status.Code(err)
	}
	replicas := func(name string) int32 {
		d, ok := client.Get[*appsv1.Deployment](h.Client.View(), "default", name)
		if !ok {
			t.Fatalf("deployment %s does not exist", name)
		}
		return *d.Spec.Replicas
	}
	var together sync.WaitGroup
	for range 8 { // several workers and connections at once
		together.Go(func() {
			if code := call("web"); code != codes.OK {
				t.Errorf("wake web: %v", code)
			}
		})
	}
	together.Wait()
	for name, want := range map[string]int32{"web": 1, "other": 0} {
		if got := replicas(name); got != want {
			t.Errorf("deployment %s has %d replicas, want %d", name, got, want)
		}
	}
	if code := call("busy"); code != codes.OK || replicas("busy") != 3 {
		t.Errorf("one that is awake: %v, %d replicas", code, replicas("busy"))
	}
	for _, name := range []string{"plain", "dangling", "missing", strings.Repeat("x", 100_000)} {
		for range 2 {
			_, err := server.WakeService(t.Context(), &nodev1.WakeServiceRequest{Namespace: "default", Name: name})
			if status.Code(err) != codes.FailedPrecondition || len(err.Error()) > 1000 {
				t.Errorf("%.20s: %.500v", name, err)
			}
		}
	}
	caller = ""
	if code := call("web"); code != codes.PermissionDenied {
		t.Errorf("no worker: %v", code)
	}
	told := map[string]int{}
	for _, e := range client.List[*corev1.Event](h.Client.View(), "default", nil) {
		told[e.InvolvedObject.Name+" "+e.Reason]++
	}
	if told["web Woken"] != 1 || told["dangling WakeFailed"] != 1 || len(told) != 2 {
		t.Errorf("events: %v", told)
	}
}
