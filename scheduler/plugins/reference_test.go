package plugins

import (
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// reference schedules as the documentation of the API says, in the most obvious way: it looks at all pods on all nodes for every
// question, and keeps nothing.
type reference struct {
	nodes []*corev1.Node
	on    map[string][]*corev1.Pod
}

// refusals returns why a node cannot take a pod: the reasons of the first plugin that refuses it.
func (r *reference) refusals(pod *corev1.Pod, node *corev1.Node) []string {
	for _, f := range []func(*corev1.Pod, *corev1.Node) []string{
		r.unschedulable, r.taints, r.nodeAffinity, r.ports, r.resources, r.spread, r.podAffinity,
	} {
		if reasons := f(pod, node); len(reasons) > 0 {
			return reasons
		}
	}
	return nil
}

func (r *reference) unschedulable(_ *corev1.Pod, node *corev1.Node) []string {
	if node.Spec.Unschedulable {
		return []string{"node(s) were unschedulable"}
	}
	return nil
}

func refTolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, false) })
}

func refToleratesHard(pod *corev1.Pod, node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		if t := &node.Spec.Taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !refTolerates(pod, t) {
			return false
		}
	}
	return true
}

func (r *reference) taints(pod *corev1.Pod, node *corev1.Node) []string {
	if !refToleratesHard(pod, node) {
		return []string{"node(s) had untolerated taint(s)"}
	}
	return nil
}

func refMatchesNode(pod *corev1.Pod, node *corev1.Node) bool {
	for key, value := range pod.Spec.NodeSelector {
		if node.Labels[key] != value {
			return false
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		matches, err := corehelpers.MatchNodeSelectorTerms(node, a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		return err == nil && matches
	}
	return true
}

func (r *reference) nodeAffinity(pod *corev1.Pod, node *corev1.Node) []string {
	if !refMatchesNode(pod, node) {
		return []string{"node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

func (r *reference) ports(pod *corev1.Pod, node *corev1.Node) []string {
	all := func(ip string) bool { return ip == "" || ip == "0.0.0.0" }
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			for _, other := range r.on[node.Name] {
				for _, d := range other.Spec.Containers {
					for _, q := range d.Ports {
						if p.HostPort == q.HostPort && p.Protocol == q.Protocol && (p.HostIP == q.HostIP || all(p.HostIP) || all(q.HostIP)) {
							return []string{"node(s) didn't have free ports for the requested pod ports"}
						}
					}
				}
			}
		}
	}
	return nil
}

func refRequest(pod *corev1.Pod, name corev1.ResourceName, otherwise int64) (sum int64) {
	for _, c := range pod.Spec.Containers {
		quantity, ok := c.Resources.Requests[name]
		switch {
		case !ok:
			sum += otherwise
		case name == corev1.ResourceCPU:
			sum += quantity.MilliValue()
		default:
			sum += quantity.Value()
		}
	}
	return sum
}

func refTotal(node *corev1.Node, name corev1.ResourceName) int64 {
	quantity := node.Status.Allocatable[name]
	if name == corev1.ResourceCPU {
		return quantity.MilliValue()
	}
	return quantity.Value()
}

func (r *reference) used(node *corev1.Node, name corev1.ResourceName, otherwise int64) (sum int64) {
	for _, other := range r.on[node.Name] {
		sum += refRequest(other, name, otherwise)
	}
	return sum
}

func (r *reference) resources(pod *corev1.Pod, node *corev1.Node) (reasons []string) {
	if int64(len(r.on[node.Name])) >= refTotal(node, corev1.ResourcePods) {
		reasons = append(reasons, "Too many pods")
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, "example.com/gpu"} {
		if wanted := refRequest(pod, name, 0); wanted > 0 && r.used(node, name, 0)+wanted > refTotal(node, name) {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	return reasons
}

func refSelects(s *metav1.LabelSelector, pod *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(pod.Labels))
}

// counts says whether a pod counts for a constraint of another.
func refCounts(c *corev1.TopologySpreadConstraint, pod, other *corev1.Pod) bool {
	if pod.Namespace != other.Namespace || other.DeletionTimestamp != nil || !refSelects(c.LabelSelector, other) {
		return false
	}
	for _, key := range c.MatchLabelKeys {
		if value, ok := pod.Labels[key]; ok && other.Labels[key] != value {
			return false
		}
	}
	return true
}

func refConstraints(pod *corev1.Pod, action corev1.UnsatisfiableConstraintAction) (out []corev1.TopologySpreadConstraint) {
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == action {
			out = append(out, c)
		}
	}
	return out
}

func refHasKeys(node *corev1.Node, constraints []corev1.TopologySpreadConstraint) bool {
	for _, c := range constraints {
		if _, ok := node.Labels[c.TopologyKey]; !ok {
			return false
		}
	}
	return true
}

func refIncludes(c *corev1.TopologySpreadConstraint, pod *corev1.Pod, node *corev1.Node) bool {
	honors := func(p *corev1.NodeInclusionPolicy, otherwise bool) bool {
		if p == nil {
			return otherwise
		}
		return *p == corev1.NodeInclusionPolicyHonor
	}
	return (!honors(c.NodeAffinityPolicy, true) || refMatchesNode(pod, node)) && (!honors(c.NodeTaintsPolicy, false) || refToleratesHard(pod, node))
}

// perDomain counts pods by the values of a constraint's topology key.
func (r *reference) perDomain(pod *corev1.Pod, c *corev1.TopologySpreadConstraint, all []corev1.TopologySpreadConstraint) map[string]int {
	counts := map[string]int{}
	for _, node := range r.nodes {
		if !refHasKeys(node, all) || !refIncludes(c, pod, node) {
			continue
		}
		value := node.Labels[c.TopologyKey]
		counts[value] += 0
		for _, other := range r.on[node.Name] {
			if refCounts(c, pod, other) {
				counts[value]++
			}
		}
	}
	return counts
}

func (r *reference) spread(pod *corev1.Pod, node *corev1.Node) []string {
	hard := refConstraints(pod, corev1.DoNotSchedule)
	for i := range hard {
		c := &hard[i]
		value, ok := node.Labels[c.TopologyKey]
		if !ok {
			return []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
		}
		counts := r.perDomain(pod, c, hard)
		least := math.MaxInt
		for _, n := range counts {
			least = min(least, n)
		}
		domains := 1
		if c.MinDomains != nil {
			domains = int(*c.MinDomains)
		}
		if len(counts) < domains {
			least = 0
		}
		count := counts[value]
		if refCounts(c, pod, pod) {
			count++
		}
		if count-least > int(c.MaxSkew) {
			return []string{"node(s) didn't match pod topology spread constraints"}
		}
	}
	return nil
}

func refTermMatches(t *corev1.PodAffinityTerm, owner, other *corev1.Pod) bool {
	in := slices.Contains(t.Namespaces, other.Namespace)
	if t.NamespaceSelector != nil {
		selector, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		in = in || err == nil && selector.Matches(namespaceLabels[other.Namespace])
	} else if len(t.Namespaces) == 0 {
		in = owner.Namespace == other.Namespace
	}
	return in && refSelects(t.LabelSelector, other)
}

func refNear(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func refFar(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// together says whether two nodes are in one domain.
func together(key string, a, b *corev1.Node) bool {
	x, ok := a.Labels[key]
	y, too := b.Labels[key]
	return ok && too && x == y
}

func (r *reference) each(visit func(node *corev1.Node, pod *corev1.Pod)) {
	for _, node := range r.nodes {
		for _, pod := range r.on[node.Name] {
			visit(node, pod)
		}
	}
}

func (r *reference) podAffinity(pod *corev1.Pod, node *corev1.Node) []string {
	near, far := refNear(pod), refFar(pod)
	matchesAll := func(other *corev1.Pod) bool {
		return !slices.ContainsFunc(near, func(t corev1.PodAffinityTerm) bool { return !refTermMatches(&t, pod, other) })
	}
	if len(near) > 0 {
		satisfied, anywhere, keys := true, false, true
		for _, t := range near {
			_, ok := node.Labels[t.TopologyKey]
			keys = keys && ok
			here := false
			r.each(func(other *corev1.Node, p *corev1.Pod) {
				if matchesAll(p) {
					here = here || together(t.TopologyKey, node, other)
					if _, ok := other.Labels[t.TopologyKey]; ok {
						anywhere = true
					}
				}
			})
			satisfied = satisfied && here
		}
		if !keys || (!satisfied && (anywhere || !matchesAll(pod))) {
			return []string{"node(s) didn't match pod affinity rules"}
		}
	}
	var tooNear, notWelcome bool
	r.each(func(other *corev1.Node, p *corev1.Pod) {
		for _, t := range far {
			tooNear = tooNear || together(t.TopologyKey, node, other) && refTermMatches(&t, pod, p)
		}
		for _, t := range refFar(p) {
			notWelcome = notWelcome || together(t.TopologyKey, node, other) && refTermMatches(&t, p, pod)
		}
	})
	switch {
	case tooNear:
		return []string{"node(s) didn't match pod anti-affinity rules"}
	case notWelcome:
		return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
	}
	return nil
}

// message returns the refusal of all nodes.
func (r *reference) message(pod *corev1.Pod) string {
	counts := map[string]int{}
	for _, node := range r.nodes {
		for _, reason := range r.refusals(pod, node) {
			counts[reason]++
		}
	}
	var parts []string
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", len(r.nodes), strings.Join(parts, ", "))
}

// TestPluginsAgreeWithTheReference: on random clusters, with the pods placed so far, the plugins pass the same nodes, give the same
// scores and the same message as the reference.
func TestPluginsAgreeWithTheReference(t *testing.T) {
	fits, refusals := 0, 0
	for seed := range int64(300) {
		random := rand.New(rand.NewSource(seed))
		r := &reference{on: map[string][]*corev1.Pod{}}
		cluster := framework.NewCluster(func(name string) labels.Set { return namespaceLabels[name] })
		for i := range 2 + random.Intn(10) {
			node := randomNode(random, i)
			r.nodes = append(r.nodes, node)
			cluster.SetNode(node)
		}
		profile := withoutAPI()
		for i := range 25 {
			pod := named(randomTemplate(random), fmt.Sprint("p", i))
			info := framework.NewPodInfo(pod)
			e := framework.NewEvaluation(cluster, profile, info)
			var want []*corev1.Node
			for _, node := range r.nodes {
				if len(r.refusals(pod, node)) == 0 {
					want = append(want, node)
				}
			}
			fit, refusal := e.Fit(info)
			if len(want) == 0 {
				refusals++
				if refusal == nil || refusal.Message() != r.message(pod) {
					t.Fatalf("seed %d, pod %d: %+v\nwant %s", seed, i, refusal, r.message(pod))
				}
				continue
			}
			fits++
			if len(fit) != len(want) {
				t.Fatalf("seed %d, pod %d: %d nodes fit, want %d", seed, i, len(fit), len(want))
			}
			scores := r.scores(pod, want)
			for j, got := range e.Scores(fit) {
				if fit[j].Node != want[j] || got-scores[j] != e.Scores(fit)[0]-scores[0] {
					t.Fatalf("seed %d, pod %d: node %s has score %d, want %s with %d", seed, i, fit[j].Name, got, want[j].Name, scores[j])
				}
			}
			node := e.Best(fit)
			cluster.Place(info, node.Name)
			r.on[node.Name] = append(r.on[node.Name], pod)
		}
	}
	if fits < 1000 || refusals < 1000 {
		t.Errorf("%d pods fit, %d did not: the test tests little", fits, refusals)
	}
}
