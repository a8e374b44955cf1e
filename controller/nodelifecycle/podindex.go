package nodelifecycle

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// podIndex knows the pods of each node, so that what happens to a node costs as much as it has pods, and not as the cluster
// has. A controller keeps one of its own, from the changes that it follows; it is for the goroutine that follows.
type podIndex map[string]map[controller.Key]struct{}

// newPodIndex reads all pods of a view.
func newPodIndex(v client.View) podIndex {
	x := podIndex{}
	client.Each(v, "", func(p *corev1.Pod) bool {
		x.add(p)
		return true
	})
	return x
}

// follow takes a change of a pod into account; others are not for it.
func (x podIndex) follow(event client.Event) {
	old, _ := event.Old.(*corev1.Pod)
	now, _ := event.New.(*corev1.Pod)
	if old != nil && (now == nil || now.Spec.NodeName != old.Spec.NodeName) {
		pods := x[old.Spec.NodeName]
		if delete(pods, controller.KeyOf(old)); len(pods) == 0 {
			delete(x, old.Spec.NodeName)
		}
	}
	if now != nil {
		x.add(now)
	}
}

func (x podIndex) add(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return
	}
	if x[pod.Spec.NodeName] == nil {
		x[pod.Spec.NodeName] = map[controller.Key]struct{}{}
	}
	x[pod.Spec.NodeName][controller.KeyOf(pod)] = struct{}{}
}

// on visits the pods that are assigned to a node.
func (x podIndex) on(node string, visit func(controller.Key)) {
	for key := range x[node] {
		visit(key)
	}
}
