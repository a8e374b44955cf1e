package preemption

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// budgets are the PodDisruptionBudgets, with how many disruptions each still allows.
type budgets struct {
	list      []*policyv1.PodDisruptionBudget
	selectors []labels.Selector
	allowed   []int32
}

func newBudgets(list []*policyv1.PodDisruptionBudget) *budgets {
	b := &budgets{list: list}
	for _, one := range list {
		b.selectors = append(b.selectors, framework.SelectorOf(one.Spec.Selector))
		b.allowed = append(b.allowed, one.Status.DisruptionsAllowed)
	}
	return b
}

// split returns the pods whose going would violate a budget, if all before them in the list go too, and the others: first those of
// gangs, then those without.
func (b *budgets) split(pods []*framework.PodInfo) (protected, others []*framework.PodInfo) {
	allowed := slices.Clone(b.allowed)
	var alone []*framework.PodInfo
	for _, p := range pods {
		if b.take(allowed, p) {
			protected = append(protected, p)
		} else if _, inGang := framework.GangOf(p.Pod); inGang {
			others = append(others, p)
		} else {
			alone = append(alone, p)
		}
	}
	return protected, append(others, alone...)
}

// use takes the disruptions of victims from what is allowed.
func (b *budgets) use(victims []*framework.PodInfo) {
	for _, p := range victims {
		b.take(b.allowed, p)
	}
}

// take takes a pod's disruption from what is allowed, and says whether that violates a budget.
func (b *budgets) take(allowed []int32, p *framework.PodInfo) (violates bool) {
	for i := range b.list {
		if !b.covers(i, p.Pod) {
			continue
		}
		if _, counted := b.list[i].Status.DisruptedPods[p.Name]; counted {
			continue // its going has been granted already
		}
		allowed[i]--
		violates = violates || allowed[i] < 0
	}
	return violates
}

// covers says whether a budget selects a pod. As upstream, an empty selector selects none here, and neither do budgets select pods
// without labels.
func (b *budgets) covers(i int, pod *corev1.Pod) bool {
	return b.list[i].Namespace == pod.Namespace && len(pod.Labels) > 0 && !b.selectors[i].Empty() && b.selectors[i].Matches(labels.Set(pod.Labels))
}
