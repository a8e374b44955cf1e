package framework

import (
	"context"

	"k8s.io/apimachinery/pkg/util/sets"
)

// MaxScore is the best score of a node from one plugin, after normalization.
const MaxScore = 100

// Plugin is a part of the scheduler that can be configured by its name, which is upstream's.
type Plugin interface {
	Name() string
}

// PreEnqueuePlugin keeps pods out of the queue until they can be tried.
type PreEnqueuePlugin interface {
	Plugin
	// PreEnqueue returns why the pod must not be tried yet, or nil.
	PreEnqueue(p *PodInfo) *Status
}

// FilterPlugin refuses nodes.
type FilterPlugin interface {
	Plugin
	// PreFilter returns what filters nodes for a pod; nil if the plugin has nothing to do with the pod. A status refuses all nodes.
	PreFilter(c *Cluster, p *PodInfo) (PodFilter, *Status)
}

// PodFilter filters nodes for one pod. If it is not a Tracker, its results depend on nothing that changes but the node and its pods,
// and are kept as long as the node does not change; unless it is a Volatile, which is always asked.
type PodFilter interface {
	Filter(n *NodeInfo) *Status
}

// Tracker is a PodFilter or a PodScore whose results depend on pods on other nodes. AddPod and RemovePod tell it about one pod more or
// less; they are each other's inverse.
type Tracker interface {
	AddPod(p *PodInfo, n *NodeInfo)
	RemovePod(p *PodInfo, n *NodeInfo)
}

// Idler is a Tracker that can say at once that it passes all nodes.
type Idler interface {
	PodFilter
	Idle() bool
}

// Volatile is a PodFilter whose results depend on what is not part of the Cluster. An evaluation with one is not kept.
type Volatile interface {
	PodFilter
	Volatile()
}

// NodeLimiter is a PodFilter that knows the only nodes that it can pass, so that the others need not be looked at.
type NodeLimiter interface {
	PodFilter
	// OnlyNodes returns their names; nil if it does not know.
	OnlyNodes() sets.Set[string]
}

// Reserver is a PodFilter that takes something for the pod when a node has been chosen, which Unreserve gives back.
type Reserver interface {
	PodFilter
	Reserve(n *NodeInfo) *Status
	Unreserve()
}

// PreBinder is a PodFilter that does something before the pod is bound, in a goroutine of its own. If it returns an error, the pod is
// not bound, and tried again later.
type PreBinder interface {
	PodFilter
	PreBind(ctx context.Context, node string) error
}

// Undoer is a PreBinder that takes back what it has written if the pod is not bound after all, in the same goroutine or a later one, before
// the pod is tried again.
type Undoer interface {
	PreBinder
	Undo(ctx context.Context) error
}

// ScorePlugin prefers nodes.
type ScorePlugin interface {
	Plugin
	// PreScore returns what scores nodes for a pod; nil if all nodes are equally good. filter is what the plugin's PreFilter returned.
	PreScore(c *Cluster, p *PodInfo, filter PodFilter) PodScore
}

// PodScore scores nodes for one pod. If it is neither a Tracker nor a Comparer, a node's score is kept as long as the node does not
// change.
type PodScore interface {
	// Score returns the node's raw score: higher is better, unless Normalize reverses it.
	Score(n *NodeInfo) int64
}

// Comparer is a PodScore that must know all the nodes that it will score.
type Comparer interface {
	PodScore
	// Compare is called before Score, with the nodes that passed the filters. It returns false if they are all equally good.
	Compare(nodes []*NodeInfo) bool
}

// Normalizer is a PodScore whose raw scores are not between 0 and MaxScore.
type Normalizer interface {
	PodScore
	// Normalize changes the scores of the nodes to be between 0 and MaxScore.
	Normalize(nodes []*NodeInfo, scores []int64)
}

// PostFilterPlugin looks for a way to make room for a pod for which there is no node.
type PostFilterPlugin interface {
	Plugin
	// PostFilter returns what it found, nil if it has nothing to say. It can try changes with the evaluation, and must undo them.
	PostFilter(c *Cluster, p *PodInfo, e *Evaluation, r *Refusal) *Nomination
}

// Nomination is what a PostFilterPlugin found.
type Nomination struct {
	// Node is where the pod will fit when the victims are gone; "" if there is no such node.
	Node    string
	Victims []*PodInfo
	// Hopeless means that there is no such node, so that the pod must not be expected where it was nominated before.
	Hopeless bool
	// Message is for the pod's condition.
	Message string
	// Do is what is to be written so that there will be a node, instead of victims; nil if nothing is. It is called in a goroutine, and Done
	// in the loop when it has ended.
	Do   func(ctx context.Context) error
	Done func()
}

// WeightedScore is a ScorePlugin with its weight.
type WeightedScore struct {
	ScorePlugin
	Weight int64
}

// Profile is the plugins that schedule the pods of one scheduler name.
type Profile struct {
	Name        string
	PreEnqueue  []PreEnqueuePlugin
	Filters     []FilterPlugin
	Scores      []WeightedScore
	PostFilters []PostFilterPlugin
	// Percentage of the nodes that are looked for before the best is chosen; 0 for all. Once as many have been found that pass the
	// filters, the others are not looked at. See enoughNodes.
	Percentage int32
	// Hints are the plugins' hints, by name of the plugin.
	Hints map[string][]Hint
}

// NormalizeByMax scales scores so that the largest becomes MaxScore; with reverse, so that the smallest raw score becomes the best.
func NormalizeByMax(scores []int64, reverse bool) {
	var most int64
	for _, score := range scores {
		most = max(most, score)
	}
	for i, score := range scores {
		if most > 0 {
			score = score * MaxScore / most
		}
		if reverse {
			score = MaxScore - score
		}
		scores[i] = score
	}
}
