package framework

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// GangName is the label, or the annotation, by which a pod names its gang: pods that are placed together or not at all.
const GangName = "kontiki.io/gang"

// GangKey identifies a gang.
type GangKey struct{ Namespace, Name string }

// GangOf returns the key of a pod's gang; false if it has none.
func GangOf(pod *corev1.Pod) (GangKey, bool) {
	name := cmp.Or(pod.Labels[GangName], pod.Annotations[GangName])
	return GangKey{pod.Namespace, name}, name != ""
}

// GangTrial is a gang that has been tried in vain.
type GangTrial struct {
	Key GangKey
	// Placed are the pods of the gang that were put on nodes for the trial, Waiting those for which there was no node, of which Missing
	// must be placed too.
	Placed, Waiting []*PodInfo
	Missing         int
	// Evaluation returns an evaluation of a pod that is up to date.
	Evaluation func(*PodInfo) *Evaluation
	// Late says that the search has taken so long that it must end; nil if it need not.
	Late func() bool
}

// GangNomination is how room can be made for a gang.
type GangNomination struct {
	// Nodes are where the pods of the gang will fit, the placed ones too, when the victims are gone; empty if there is no way.
	Nodes map[types.UID]string
	// Victims are all pods that must go.
	Victims []*PodInfo
	// Hopeless means that there is no way, so that no pod of the gang must be expected where it was nominated before.
	Hopeless bool
	// Message is for the pods' conditions.
	Message string
}

// GangPostFilterPlugin is a PostFilterPlugin that can also make room for all pods of a gang, or for none.
type GangPostFilterPlugin interface {
	PostFilterPlugin
	// PostFilterGang returns what it found. It can try changes of the cluster, and must undo them.
	PostFilterGang(c *Cluster, t *GangTrial) *GangNomination
}
