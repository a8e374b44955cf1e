// Package framework defines what the scheduler's parts share: the cluster as the scheduler sees it (Cluster, NodeInfo, PodInfo), the
// extension points that plugins implement, and the evaluation of a pod on all nodes.
//
// The extension points have upstream's names (k8s.io/kube-scheduler/framework), but another shape. A plugin looks at a pod once and
// returns an object for that pod, which then filters or scores nodes:
//
//	FilterPlugin.PreFilter(cluster, pod) -> PodFilter.Filter(node)
//	ScorePlugin.PreScore(cluster, pod)   -> PodScore.Score(node), Normalizer.Normalize(scores)
//
// The object is the plugin's part of the cycle state: there is no map of states, and a plugin that has nothing to do with a pod
// returns nil and costs nothing. A PodFilter whose result depends on pods on other nodes also implements Tracker: AddPod and RemovePod
// bring it up to date with one change, and are each other's inverse. This has two uses. Preemption and nominated pods try a change
// and undo it. And the evaluation of a pod is kept for the next pod of the same template (Evaluation): it follows the changes of the
// cluster instead of being made anew, so the cost of a decision depends on what has changed and not on what there is.
//
// Nothing in this package is safe for concurrent use, except for PodInfo, which is immutable: the scheduler's loop owns all of it.
package framework
