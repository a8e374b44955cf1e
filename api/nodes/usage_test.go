package nodes

import (
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// TestAWorkerReportsOnlyItsOwnPods: what it says of others, and reports that cannot be, are dropped.
func TestAWorkerReportsOnlyItsOwnPods(t *testing.T) {
	h := harness.New(t)
	mine, others := onNode(t, h.Client, "mine", "w1"), onNode(t, h.Client, "others", "w2")
	server := serving(t, h)
	if server.usagePeriod() != 0 {
		t.Error("workers are asked for reports that nobody takes")
	}
	server.Usage = usage.NewLocal()
	if server.usagePeriod() != 15_000 {
		t.Errorf("workers are asked for a report every %d ms", server.usagePeriod())
	}
	compute := &nodev1.ComputeUsage{CpuNanocores: 5, WindowMs: 15_000}
	of := func(p *corev1.Pod, uid types.UID) *nodev1.PodUsage {
		return &nodev1.PodUsage{Namespace: p.Namespace, Name: p.Name, Uid: string(uid), Complete: true, Containers: []*nodev1.ContainerUsage{{Name: "c", Compute: compute}}}
	}
	reports := func(r *nodev1.UsageReport) *usage.Snapshot {
		s := sessionOf(server, "w1", &mirror{})
		s.log = slog.New(slog.DiscardHandler)
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		s.takeUsage(b)
		return usage.NewDirectory(usage.Config{Local: server.Usage}).Now(t.Context())
	}
	got := reports(&nodev1.UsageReport{Node: &nodev1.NodeUsage{Compute: compute}, Pods: []*nodev1.PodUsage{of(mine, mine.UID), of(others, others.UID), of(mine, "another")}})
	moved := others.DeepCopy()
	moved.Spec.NodeName = "w1"
	renamed := mine.DeepCopy()
	renamed.UID = "another"
	if got.Pod(mine) == nil || got.Pod(moved) != nil || got.Pod(renamed) != nil {
		t.Errorf("its own pod: %v, another's: %v, one that does not exist: %v", got.Pod(mine), got.Pod(moved), got.Pod(renamed))
	}
	if got := reports(&nodev1.UsageReport{}); got.Node("w1").GetCompute().GetCpuNanocores() != 5 {
		t.Error("a report that is refused has replaced the one before")
	}
	// A flood of reports costs little: only one a second is looked at.
	s := sessionOf(server, "w1", &mirror{})
	s.log = slog.New(slog.DiscardHandler)
	for i := range uint64(10) {
		b, err := proto.Marshal(&nodev1.UsageReport{Node: &nodev1.NodeUsage{Compute: &nodev1.ComputeUsage{CpuNanocores: 100 + i}}})
		if err != nil {
			t.Fatal(err)
		}
		s.takeUsage(b)
	}
	if n := usage.NewDirectory(usage.Config{Local: server.Usage}).Now(t.Context()).Node("w1").Compute.CpuNanocores; n != 100 {
		t.Errorf("the report kept is %d, want the first", n)
	}
	if _, ok := client.Get[*corev1.Pod](h.Client.View(), "default", "mine"); !ok {
		t.Error("the pod is gone")
	}
}
