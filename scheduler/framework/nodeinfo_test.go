package framework

import (
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

// variousPod returns a pod that is counted in some of a node's sets.
func variousPod(r *rand.Rand, name string) *PodInfo {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "x"}}}
	c := corev1.Container{}
	if r.Intn(2) == 0 {
		c.Resources.Requests = amounts("cpu", fmt.Sprint(r.Intn(9)*100, "m"), "memory", fmt.Sprint(r.Intn(9), "Mi"), "example.com/gpu", fmt.Sprint(r.Intn(3)))
	}
	if r.Intn(2) == 0 {
		c.Ports = []corev1.ContainerPort{{HostPort: 80}}
	}
	p.Spec.Containers = []corev1.Container{c}
	term := corev1.PodAffinityTerm{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}
	switch r.Intn(4) {
	case 0:
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	case 1:
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	}
	if r.Intn(4) == 0 {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	}
	return NewPodInfo(p)
}

// TestAddAndRemoveAreInverse: after any sequence of both, a node is as if the pods that are left had been added to an empty one.
func TestAddAndRemoveAreInverse(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Allocatable: amounts("cpu", "4", "memory", "4Gi", "pods", "10")}}
	n := NewNodeInfo(node)
	there := map[types.UID]*PodInfo{}
	for i := range 2000 {
		p := variousPod(r, fmt.Sprint("p", r.Intn(8)))
		if r.Intn(2) == 0 {
			n.Add(p) // or replaces it
			there[p.UID] = p
		} else {
			n.Remove(p) // by its UID, whatever it has
			delete(there, p.UID)
		}
		want := NewNodeInfo(node)
		for _, p := range there {
			want.Add(p)
		}
		if want.Requested.Scalar == nil || n.Requested.Scalar == nil { // none are as good as an empty map
			want.Requested.Scalar, n.Requested.Scalar = maybeEmpty(want.Requested.Scalar), maybeEmpty(n.Requested.Scalar)
		}
		if !reflect.DeepEqual(n, want) {
			t.Fatalf("after %d steps:\n%+v\nwant\n%+v", i+1, n, want)
		}
	}
}

func maybeEmpty(m map[corev1.ResourceName]int64) map[corev1.ResourceName]int64 {
	if m == nil {
		return map[corev1.ResourceName]int64{}
	}
	return m
}

// TestTheClusterCountsWhatIsThere: its counts are those of the pods that are placed, and of those that are nominated, after any sequence
// of changes.
func TestTheClusterCountsWhatIsThere(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	c := NewCluster(func(string) labels.Set { return nil })
	placed, nominated := map[types.UID]*PodInfo{}, map[types.UID]*PodInfo{}
	for i := range 3000 {
		p := variousPod(r, fmt.Sprint("p", r.Intn(10)))
		if r.Intn(4) == 0 && p.Spec.Affinity != nil && p.Spec.Affinity.PodAntiAffinity != nil {
			p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{identityLabels[0]: "1"}}
			p = NewPodInfo(p.Pod)
		}
		switch r.Intn(5) {
		case 0, 1:
			c.Place(p, fmt.Sprint("n", r.Intn(3)))
			placed[p.UID] = p
		case 2:
			if had := placed[p.UID] != nil; c.RemovePod(p.UID) != had {
				t.Fatalf("step %d: the pod was there: %v", i, had)
			}
			delete(placed, p.UID)
		case 3:
			c.Nominate(p, fmt.Sprint("n", r.Intn(3)))
			nominated[p.UID] = p
		case 4:
			c.Nominate(p, "")
			delete(nominated, p.UID)
		}
		var averse, inclined int
		var readers identityCounts
		for _, p := range placed {
			if len(p.Far) > 0 {
				averse++
			}
			if p.Inclined() {
				inclined++
			}
			readers.add(p.placedSelects, 1)
		}
		expecting := 0
		for _, p := range nominated {
			readers.add(p.placedSelects, 1)
		}
		for _, list := range c.Nominated {
			expecting += len(list)
		}
		if c.Averse != averse || c.Inclined != inclined || c.readers != readers || expecting != len(nominated) {
			t.Fatalf("step %d: averse %d, inclined %d, reading identities %v, nominated %d; want %d, %d, %v, %d", i, c.Averse, c.Inclined, c.readers, expecting, averse, inclined, readers, len(nominated))
		}
	}
}

// TestRanking: the first nodes of a ranking are the first ones of the sorted list, after any changes.
func TestRanking(t *testing.T) {
	r := rand.New(rand.NewSource(3))
	for _, size := range []int{1, 2, 3, 7, 64, 100} {
		e := &Evaluation{nodes: make([]nodeResult, size)}
		ranking := newRanking(e)
		for i := range size {
			ranking.update(i)
		}
		for range 200 {
			i := r.Intn(size)
			e.nodes[i] = nodeResult{known: true, fixed: int64(r.Intn(4)), pods: int32(r.Intn(3))}
			if r.Intn(4) == 0 {
				e.nodes[i].status = Refuse(Unschedulable, "P")
			}
			ranking.update(i)
			var want []int32
			for i := range e.nodes {
				if e.nodes[i].status == nil {
					want = append(want, int32(i))
				}
			}
			slices.SortFunc(want, func(a, b int32) int {
				if ranking.better(a, b) {
					return -1
				}
				return 1
			})
			var got []int32
			ranking.first(10, func(node int32) bool {
				got = append(got, node)
				return false
			})
			if want = want[:min(len(want), 10)]; !slices.Equal(got, want) {
				t.Fatalf("of %d nodes the first are %v, want %v", size, got, want)
			}
			if len(want) > 2 {
				if n := ranking.first(10, func(node int32) bool { return node == want[2] }); n != want[2] {
					t.Fatalf("the third one is %d, want %d", n, want[2])
				}
			}
		}
	}
}

func TestAmounts(t *testing.T) {
	a := AmountsOf(amounts("cpu", "1500m", "memory", "1Gi", "ephemeral-storage", "3", "pods", "7", "example.com/gpu", "2", "example.com/none", "0"))
	want := Amounts{MilliCPU: 1500, Memory: 1 << 30, Storage: 3, Scalar: map[corev1.ResourceName]int64{"example.com/gpu": 2}}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("%+v", a)
	}
	for name, n := range map[corev1.ResourceName]int64{"cpu": 1500, "memory": 1 << 30, "ephemeral-storage": 3, "example.com/gpu": 2, "example.com/none": 0, "other": 0} {
		if a.Of(name) != n {
			t.Errorf("%s: %d", name, a.Of(name))
		}
	}
	var sum Amounts
	sum.add(&a, 1)
	sum.add(&a, 1)
	if sum.MilliCPU != 3000 || sum.Scalar["example.com/gpu"] != 4 || a.Scalar["example.com/gpu"] != 2 || sum.None() {
		t.Errorf("twice: %+v; the summand: %+v", sum, a)
	}
	sum.add(&a, -1)
	sum.add(&a, -1)
	if !sum.None() || !sum.equal(&Amounts{}) {
		t.Errorf("all taken away: %+v", sum)
	}
}

func TestHints(t *testing.T) {
	hints := []Hint{{Resource: Node, Actions: Add | Update}, {Resource: AssignedPod, Actions: Delete, Wakes: func(p *PodInfo, e *Event) bool {
		old, now := e.Pods()
		return old != nil && now == nil && old.Namespace == p.Namespace
	}}}
	p := NewPodInfo(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}})
	pod := func(namespace string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}}
	}
	for name, test := range map[string]struct {
		hints           []Hint
		event           Event
		concerns, wakes bool
		label           string
	}{
		"a new node":                 {hints, Event{Resource: Node, Action: Add}, true, true, "NodeAdd"},
		"a node that is gone":        {hints, Event{Resource: Node, Action: Delete}, false, false, "NodeDelete"},
		"a pod of the namespace":     {hints, Event{Resource: AssignedPod, Action: Delete, Old: pod("a")}, true, true, "AssignedPodDelete"},
		"a pod of another one":       {hints, Event{Resource: AssignedPod, Action: Delete, Old: pod("b")}, true, false, "AssignedPodDelete"},
		"a pod that changes":         {hints, Event{Resource: AssignedPod, Action: Update, Old: pod("a"), New: pod("a")}, false, false, "AssignedPodUpdate"},
		"a plugin that hears of all": {[]Hint{{Resource: Anything, Actions: Update}}, Event{Resource: Namespace, Action: Update}, true, true, "NamespaceUpdate"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Concerns(test.hints, &test.event); got != test.concerns {
				t.Errorf("it concerns the plugin: %v", got)
			}
			if got := Wakes(test.hints, p, &test.event); got != test.wakes {
				t.Errorf("it wakes the pod: %v", got)
			}
			if got := test.event.Label(); got != test.label {
				t.Errorf("it is called %s", got)
			}
		})
	}
}
