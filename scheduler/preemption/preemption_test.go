package preemption

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/plugins"
)

func pod(name string, priority int32, cpu int64) *framework.PodInfo {
	return framework.NewPodInfo(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": name[:1]}},
		Spec: corev1.PodSpec{Priority: &priority, SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI)}}}}}})
}

// fits is a profile that looks at resources only.
var fits = &framework.Profile{Filters: []framework.FilterPlugin{
	plugins.NewNodeResourcesFit(plugins.Strategy{Type: plugins.LeastAllocated, Resources: plugins.DefaultResources}, nil, nil)}}

func oneNode(cpu string) *framework.Cluster {
	c := framework.NewCluster(nil)
	c.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("100")}}})
	return c
}

// TestVictimsAreMinimal: on random nodes, the victims suffice, none of them could stay, no pod of the pod's priority or a higher one is
// among them, and the node is left as it was.
func TestVictimsAreMinimal(t *testing.T) {
	d := &Default{Now: func() time.Time { return time.Unix(1, 0) }}
	found := 0
	for seed := range int64(300) {
		random := rand.New(rand.NewSource(seed))
		c := oneNode("4")
		var used int64
		for i := 0; used < 3600; i++ {
			p := pod(fmt.Sprintf("%c%d", 'a'+rune(random.Intn(3)), i), int32(random.Intn(5)), int64(100+random.Intn(9)*100))
			if used += p.Requests.MilliCPU; used <= 4000 {
				c.Place(p, "n")
			}
		}
		budgets := []*policyv1.PodDisruptionBudget{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
			Spec:   policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}},
			Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: int32(random.Intn(2))}}}
		preemptor := pod("preemptor", int32(1+random.Intn(4)), int64(500+random.Intn(20)*100))
		e := framework.NewEvaluation(c, fits, preemptor)
		n := c.Node("n")
		before := n.Requested
		if e.Filter(preemptor, n) == nil {
			continue
		}
		s := &search{d, newBudgets(budgets), c.Leaves, func(other *framework.PodInfo) bool { return lower(other, preemptor) }}
		one, status := s.victims(preemptor, e, n)
		if n.Requested.MilliCPU != before.MilliCPU {
			t.Fatalf("seed %d: the node has %d requested, had %d", seed, n.Requested.MilliCPU, before.MilliCPU)
		}
		var lower int64
		for _, p := range n.Pods {
			if *p.Spec.Priority < *preemptor.Spec.Priority {
				lower += p.Requests.MilliCPU
			}
		}
		room := 4000 - before.MilliCPU
		if possible := room+lower >= preemptor.Requests.MilliCPU && lower > 0; possible != (status == nil) {
			t.Fatalf("seed %d: %+v, but room can be made: %v", seed, status, possible)
		}
		if status != nil {
			continue
		}
		found++
		var freed int64
		for _, v := range one.victims {
			freed += v.Requests.MilliCPU
			if *v.Spec.Priority >= *preemptor.Spec.Priority {
				t.Errorf("seed %d: a victim of priority %d for one of %d", seed, *v.Spec.Priority, *preemptor.Spec.Priority)
			}
		}
		if room+freed < preemptor.Requests.MilliCPU {
			t.Errorf("seed %d: the victims free %d of %d", seed, freed, preemptor.Requests.MilliCPU-room)
		}
		for _, v := range one.victims {
			if room+freed-v.Requests.MilliCPU >= preemptor.Requests.MilliCPU {
				t.Errorf("seed %d: %s could stay", seed, v.Name)
			}
		}
	}
	if found < 100 {
		t.Errorf("there were victims on %d nodes only", found)
	}
}

func TestTheBestNode(t *testing.T) {
	d := &Default{Now: func() time.Time { return time.Unix(1000, 0) }}
	on := func(node string, violations int, victims ...*framework.PodInfo) candidate {
		slices.SortFunc(victims, d.moreImportant)
		n := framework.NewNodeInfo(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		return candidate{node: n, victims: victims, violations: violations, broken: gangsOf(victims)}
	}
	started := func(p *framework.PodInfo, at int64) *framework.PodInfo {
		when := metav1.Unix(at, 0)
		p.Status.StartTime = &when
		return p
	}
	for name, test := range map[string]struct {
		found []candidate
		want  string
	}{
		"fewer violations":          {[]candidate{on("a", 1, pod("p", 1, 1)), on("b", 0, pod("q", 5, 1))}, "b"},
		"a lower priority":          {[]candidate{on("a", 0, pod("p", 5, 1)), on("b", 0, pod("q", 1, 1), pod("r", 1, 1))}, "b"},
		"a smaller sum":             {[]candidate{on("a", 0, pod("p", 5, 1), pod("q", 4, 1)), on("b", 0, pod("r", 5, 1), pod("s", 1, 1))}, "b"},
		"fewer of negative ones":    {[]candidate{on("a", 0, pod("p", -5, 1), pod("q", -5, 1)), on("b", 0, pod("r", -5, 1))}, "b"},
		"those that started last":   {[]candidate{on("a", 0, started(pod("p", 1, 1), 10)), on("b", 0, started(pod("q", 1, 1), 20))}, "b"},
		"the first name, otherwise": {[]candidate{on("b", 0, pod("p", 1, 1)), on("a", 0, pod("q", 1, 1))}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := d.best(test.found).node.Name; got != test.want {
				t.Errorf("chose %s", got)
			}
		})
	}
}
