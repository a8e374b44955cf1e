package nodes

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEventsAboutANodesStatus(t *testing.T) {
	in := func(boot string, conditions ...corev1.NodeCondition) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: boot}, Conditions: conditions}}
	}
	is := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status}
	}
	const ready, memory, disk, pids = corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure
	const yes, no, unknown = corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown
	for _, c := range []struct {
		name          string
		before, after *corev1.Node
		want          []string
	}{
		{"a node that comes", nil, in("a", is(ready, yes), is(memory, no), is(disk, no), is(pids, no)), []string{"NodeReady"}},
		{"one that comes under pressure", nil, in("a", is(ready, yes), is(memory, yes)), []string{"NodeReady", "NodeHasInsufficientMemory"}},
		{"nothing changes", in("a", is(ready, yes), is(memory, no)), in("a", is(ready, yes), is(memory, no)), nil},
		{"one that was lost", in("a", is(ready, unknown), is(memory, unknown)), in("a", is(ready, yes), is(memory, no)), []string{"NodeReady"}},
		{"its runtime fails", in("a", is(ready, yes)), in("a", is(ready, no)), []string{"NodeNotReady"}},
		{"pressure begins", in("a", is(memory, no), is(disk, no), is(pids, no)), in("a", is(memory, yes), is(disk, yes), is(pids, yes)),
			[]string{"NodeHasInsufficientMemory", "NodeHasDiskPressure", "NodeHasInsufficientPID"}},
		{"pressure ends", in("a", is(memory, yes), is(disk, yes), is(pids, yes)), in("a", is(memory, no), is(disk, no), is(pids, no)),
			[]string{"NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"}},
		{"the machine was started again", in("a", is(ready, yes)), in("b", is(ready, yes)), []string{"Rebooted"}},
		{"a condition of others", in("a"), in("a", is("KernelDeadlock", yes)), nil},
	} {
		var got []string
		for _, e := range nodeEvents(c.before, c.after) {
			got = append(got, e.reason)
			if warns := e.kind == corev1.EventTypeWarning; warns != (e.reason == "Rebooted") {
				t.Errorf("%s: %s has the type %s", c.name, e.reason, e.kind)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
