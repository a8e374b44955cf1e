package nodelifecycle

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

func TestPodIndex(t *testing.T) {
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	x := podIndex{}
	on := func(node string) string {
		var names []string
		x.on(node, func(k controller.Key) { names = append(names, k.Name) })
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	check := func(what, n1, n2 string) {
		t.Helper()
		if on("n1") != n1 || on("n2") != n2 {
			t.Errorf("%s: n1 has %q, n2 has %q; want %q and %q", what, on("n1"), on("n2"), n1, n2)
		}
	}
	x.follow(client.Event{New: pod("waits", "")})
	x.follow(client.Event{New: pod("a", "n1")})
	x.follow(client.Event{New: pod("b", "n1")})
	x.follow(client.Event{New: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}})
	check("created", "a b", "")
	x.follow(client.Event{Old: pod("waits", ""), New: pod("waits", "n2")})
	check("assigned", "a b", "waits")
	x.follow(client.Event{Old: pod("a", "n1"), New: pod("a", "n1")})
	check("changed", "a b", "waits")
	x.follow(client.Event{Old: pod("a", "n1"), New: pod("a", "n2")}) // recreated between two looks
	check("moved", "b", "a waits")
	x.follow(client.Event{Old: pod("b", "n1")})
	check("deleted", "", "a waits")
	if _, ok := x["n1"]; ok {
		t.Error("a node without pods is remembered")
	}
}
