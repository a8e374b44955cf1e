package daemonset

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/kontiki/kontiki/controller/pods"
)

// placement says on which nodes a set's pods are to run, by its template.
type placement struct {
	node        string
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []corev1.Toleration
}

func newPlacement(ds *appsv1.DaemonSet) placement {
	spec := &ds.Spec.Template.Spec
	return placement{spec.NodeName, nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity), tolerations(spec)}
}

// eligibility says whether a node is to get a pod, and whether it may keep one that it has.
type eligibility struct{ run, stay bool }

// on returns a node's eligibility; a node that does not exist has none.
func (p placement) on(node *corev1.Node) eligibility {
	if node == nil || (p.node != "" && p.node != node.Name) {
		return eligibility{}
	}
	if fits, _ := p.affinity.Match(node); !fits {
		return eligibility{}
	}
	return eligibility{
		run:  p.tolerates(node, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute),
		stay: p.tolerates(node, corev1.TaintEffectNoExecute),
	}
}

func (p placement) tolerates(node *corev1.Node, effects ...corev1.TaintEffect) bool {
	_, untolerated := corehelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, p.tolerations, func(taint *corev1.Taint) bool {
		for _, effect := range effects {
			if taint.Effect == effect {
				return true
			}
		}
		return false
	}, false)
	return !untolerated
}

// always are the taints that every pod of a DaemonSet tolerates: a daemon stays on a node in trouble.
var always = []corev1.Toleration{
	{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
}

// tolerations returns the tolerations of a set's pods: the template's and those that all have. The latter replace ones for the same
// taints, such as with a limited time.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	added := always
	if spec.HostNetwork {
		added = append(added[:len(added):len(added)], corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	out := append([]corev1.Toleration(nil), spec.Tolerations...)
	for _, toleration := range added {
		found := false
		for i := range out {
			if out[i].MatchToleration(&toleration) {
				out[i], found = toleration, true
			}
		}
		if !found {
			out = append(out, toleration)
		}
	}
	return out
}

// newPod returns a pod for a node.
func (u *update) newPod(node string) *corev1.Pod {
	pod := pods.FromTemplate(&u.ds.Spec.Template, u.ds, gvk)
	pod.Spec.Tolerations = tolerations(&pod.Spec)
	pod.Spec.Affinity = onlyNode(pod.Spec.Affinity, node)
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hashOf(u.current)
	if generation, ok := templateGeneration(u.ds); ok {
		pod.Labels[templateGenerationLabel] = generation
	}
	return pod
}

// onlyNode returns an affinity with the required node affinity replaced by one to a node.
func onlyNode(affinity *corev1.Affinity, node string) *corev1.Affinity {
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}
	return affinity
}

// nodeOf returns the node that a pod is assigned to or, if it is not, that its affinity names.
func nodeOf(pod *corev1.Pod) (string, bool) {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName, true
	}
	affinity := pod.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return "", false
	}
	for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == corev1.NodeSelectorOpIn {
				if len(field.Values) != 1 {
					return "", false
				}
				return field.Values[0], true
			}
		}
	}
	return "", false
}
