package plugins

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// TestKeptEvaluationsEqualNewOnes: the pods of some templates are placed in turns, while nodes and pods come, change and go, and pods
// are nominated. An evaluation that was kept and brought up to date says about each pod exactly what a new one does. The pods of some
// templates are numbered by labels, and now and then there are terms that select by them.
func TestKeptEvaluationsEqualNewOnes(t *testing.T) {
	kept, anew, placed, refused, sharedByNumbered, apart := 0, 0, 0, 0, 0, 0
	for seed := range int64(60) {
		random := rand.New(rand.NewSource(seed))
		cluster := framework.NewCluster(func(name string) labels.Set { return namespaceLabels[name] })
		profile := withoutAPI()
		var nodes []*corev1.Node
		for i := range 3 + random.Intn(10) {
			nodes = append(nodes, randomNode(random, i))
			cluster.SetNode(nodes[i])
		}
		var templates []*corev1.Pod
		for i := range 4 {
			templates = append(templates, randomTemplate(random))
			if i%2 == 0 && chance(random, 20) {
				templates[i].Spec.TopologySpreadConstraints = append(templates[i].Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
					MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, LabelSelector: numberSelector(random), WhenUnsatisfiable: corev1.DoNotSchedule,
				})
			}
		}
		var evaluations framework.Kept
		made := map[*framework.Evaluation]bool{}
		var pods []*corev1.Pod // those that were placed and not removed
		for i := range 200 {
			disturb(random, cluster, nodes, &pods)
			template := random.Intn(len(templates))
			pod := named(templates[template], fmt.Sprint("p", i))
			if template%2 == 0 {
				number(pod, i)
			}
			info := framework.NewPodInfo(pod)
			e := evaluations.Evaluation(cluster, profile, info)
			switch {
			case made[e]:
				kept++
				if template%2 == 0 {
					sharedByNumbered++
				}
			case cluster.Distinguishes(info):
				apart++
			default:
				anew++
			}
			made[e] = true
			fresh := framework.NewEvaluation(cluster, profile, info)
			fit, refusal := e.Fit(info)
			want, wantRefusal := fresh.Fit(info)
			if !slices.Equal(fit, want) {
				t.Fatalf("seed %d, pod %d: %d nodes fit, want %d", seed, i, len(fit), len(want))
			}
			if refusal != nil {
				refused++
				if refusal.Message() != wantRefusal.Message() || !slices.Equal(refusal.Plugins(), wantRefusal.Plugins()) {
					t.Fatalf("seed %d, pod %d: %s\nwant %s", seed, i, refusal.Message(), wantRefusal.Message())
				}
				continue
			}
			placed++
			if got, want := e.Scores(fit), fresh.Scores(want); !slices.Equal(got, want) {
				t.Fatalf("seed %d, pod %d: scores %v, want %v", seed, i, got, want)
			}
			best := fresh.Best(want)
			if got, _ := e.Choose(info); got != best {
				t.Fatalf("seed %d, pod %d: %s was chosen, want %s", seed, i, got.Name, best.Name)
			}
			cluster.Place(info, best.Name)
			pods = append(pods, info.Pod)
		}
	}
	if kept < 4000 || anew < 500 || placed < 2000 || refused < 2000 || sharedByNumbered < 1000 || apart < 500 {
		t.Errorf("%d evaluations were kept, %d of them by numbered pods, %d made anew, %d because of their numbers, %d pods placed and %d refused: the test tests little",
			kept, sharedByNumbered, anew, apart, placed, refused)
	}
}

// number gives a pod labels that tell it apart from the others of its template.
func number(p *corev1.Pod, i int) {
	p.Labels[appsv1.PodIndexLabel] = fmt.Sprint(i % 5)
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
}

// numberSelector selects pods by their numbers.
func numberSelector(r *rand.Rand) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
		Key: appsv1.PodIndexLabel, Operator: pick(r, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{pick(r, "0", "1", "2"), "3"},
	}}}
}

// choosy returns a pod whose affinity selects others by their numbers.
func choosy(r *rand.Rand, name string) *framework.PodInfo {
	p := named(randomTemplate(r), name)
	term := randomTerm(r)
	term.LabelSelector = numberSelector(r)
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}
	if chance(r, 50) {
		p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{term}
	} else {
		p.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: 50, PodAffinityTerm: term}}
	}
	return framework.NewPodInfo(p)
}

// disturb changes something in the cluster, now and then.
func disturb(random *rand.Rand, cluster *framework.Cluster, nodes []*corev1.Node, pods *[]*corev1.Pod) {
	one := random.Intn(len(nodes))
	switch n := random.Intn(100); {
	case n < 2: // another node of the name
		nodes[one] = randomNode(random, one)
		cluster.SetNode(nodes[one])
	case n < 8: // resources or images of a node
		changed := nodes[one].DeepCopy()
		changed.Status = randomNode(random, one).Status
		nodes[one] = changed
		cluster.SetNode(changed)
	case n < 9:
		cluster.RemoveNode(nodes[one].Name)
	case n < 10:
		cluster.SetNode(nodes[one])
	case n < 40 && len(*pods) > 0: // a pod ends
		i := random.Intn(len(*pods))
		cluster.RemovePod((*pods)[i].UID)
		*pods = slices.Delete(*pods, i, i+1)
	case n < 50 && len(*pods) > 0: // a pod changes
		i := random.Intn(len(*pods))
		have, node := cluster.Pod((*pods)[i].UID)
		changed := (*pods)[i].DeepCopy()
		if chance(random, 50) {
			changed.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		} else {
			changed.Labels = map[string]string{"app": pick(random, "a", "b", "c")}
			number(changed, random.Intn(5))
		}
		(*pods)[i] = changed
		if info, differs := have.With(changed); differs {
			cluster.Place(info, node)
		} else {
			cluster.Replace(info)
		}
	case n < 55: // a pod of its own waits for room
		waiting := framework.NewPodInfo(named(randomTemplate(random), fmt.Sprint("waiting", random.Intn(3))))
		cluster.Nominate(waiting, pick(random, nodes[one].Name, ""))
	case n < 58: // one that selects by numbers waits for room, or does not any more
		cluster.Nominate(choosy(random, "choosy"), pick(random, nodes[one].Name, "", "", ""))
	case n < 60 && cluster.Node(nodes[one].Name) != nil: // one that selects by numbers is placed
		info := choosy(random, fmt.Sprint("choosy", random.Intn(2)))
		cluster.Place(info, nodes[one].Name)
	case n < 70: // it ends
		cluster.RemovePod(types.UID(fmt.Sprint("choosy", random.Intn(2))))
	}
}

// TestSignatures: pods that differ in anything that plugins read have different signatures, and those of one template have the same.
func TestSignatures(t *testing.T) {
	base := func() *corev1.Pod { return named(randomTemplate(rand.New(rand.NewSource(7))), "p") }
	signature := func(p *corev1.Pod) string { return framework.NewPodInfo(p).Signature() }
	other := base()
	other.Name, other.UID, other.ResourceVersion = "q", "q", "77"
	other.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-x1", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}}}
	if signature(other) != signature(base()) || signature(other) == "" {
		t.Error("two pods of a template have different signatures")
	}
	first, second := base(), base()
	second.Name, second.UID = "q", "q"
	number(first, 0)
	number(second, 1)
	if signature(first) != signature(second) || signature(first) == "" {
		t.Error("two pods of a template that have numbers have different signatures")
	}
	if signature(first) == signature(base()) {
		t.Error("a pod with a number has the signature of one without")
	}
	second.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "k", LabelSelector: base().Spec.TopologySpreadConstraints[0].LabelSelector, MatchLabelKeys: []string{appsv1.PodIndexLabel}}}
	if signature(second) != "" {
		t.Error("a pod that selects by numbers itself has a signature")
	}
	seen := map[string]string{signature(base()): "the template"}
	yes := true
	for name, change := range map[string]func(*corev1.Pod){
		"namespace":     func(p *corev1.Pod) { p.Namespace = "elsewhere" },
		"labels":        func(p *corev1.Pod) { p.Labels["x"] = "y" },
		"owner":         func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{UID: "o", Controller: &yes}} },
		"node selector": func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} },
		"affinity":      func(p *corev1.Pod) { p.Spec.Affinity = randomAffinity(rand.New(rand.NewSource(8))) },
		"toleration":    func(p *corev1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "k"}) },
		"spread": func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "k"}}
		},
		"requests":       func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = quantities(17, 17) },
		"overhead":       func(p *corev1.Pod) { p.Spec.Overhead = quantities(0, 1) },
		"host port":      func(p *corev1.Pod) { p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 9}} },
		"image":          func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" },
		"init container": func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Image: "i"}} },
		"image volume": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "v"}}}}
		},
		"scheduler": func(p *corev1.Pod) { p.Spec.SchedulerName = "other" },
		"features": func(p *corev1.Pod) {
			no := false
			p.Spec.HostNetwork, p.Spec.HostUsers = true, &no
		},
	} {
		p := base()
		change(p)
		s := signature(p)
		if like, ok := seen[s]; ok {
			t.Errorf("a pod with another %s has the same signature as %s", name, like)
		}
		seen[s] = name
	}
	claims := base()
	claims.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	if signature(claims) != "" {
		t.Error("a pod with a claim has a signature")
	}
}
