package nodes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
)

// nodeEvent is an event about a node, as a kubelet writes it.
type nodeEvent struct{ kind, reason, message string }

// reasonsOf are the reasons of events about a condition that became true or false.
var reasonsOf = map[corev1.NodeConditionType][2]string{
	corev1.NodeReady:          {"NodeReady", "NodeNotReady"},
	corev1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
	corev1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
	corev1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
}

// nodeEvents returns the events about a change of a node's status that its worker reported. stored is nil for a new node.
func nodeEvents(stored, node *corev1.Node) (events []nodeEvent) {
	var before corev1.NodeStatus
	if stored != nil {
		before = stored.Status
	}
	if old, boot := before.NodeInfo.BootID, node.Status.NodeInfo.BootID; old != "" && boot != "" && old != boot {
		events = append(events, nodeEvent{corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", node.Name, boot)})
	}
	for i := range node.Status.Conditions {
		c := &node.Status.Conditions[i]
		reasons, ok := reasonsOf[c.Type]
		if !ok || c.Status == corev1.ConditionUnknown {
			continue
		}
		was := corev1.ConditionStatus("")
		for _, old := range before.Conditions {
			if old.Type == c.Type {
				was = old.Status
			}
		}
		// That a node is under no pressure is said only when it was: not of each node that comes.
		if was == c.Status || c.Type != corev1.NodeReady && c.Status == corev1.ConditionFalse && was != corev1.ConditionTrue {
			continue
		}
		reason := reasons[0]
		if c.Status == corev1.ConditionFalse {
			reason = reasons[1]
		}
		events = append(events, nodeEvent{corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", node.Name, reason)})
	}
	return events
}

// tellOfNode stores the events about a change of the worker's node. They may be lost; what they are about is stored.
func (s *Server) tellOfNode(ctx context.Context, stored, node *corev1.Node) {
	for i, e := range nodeEvents(stored, node) {
		now := time.Now()
		stamp := metav1.NewTime(now.Truncate(time.Second))
		_, err := client.Create(ctx, s.Client, &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.%x", node.Name, now.UnixNano()+int64(i))},
			InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: types.UID(node.Name)}, // as kubelets name it
			Type:           e.kind, Reason: e.reason, Message: e.message, FirstTimestamp: stamp, LastTimestamp: stamp, Count: 1,
			Source: corev1.EventSource{Component: "kubelet", Host: node.Name}, ReportingController: "kubelet", ReportingInstance: node.Name,
		})
		if err != nil {
			s.Log.Warn("event of a node is not stored", "node", node.Name, "reason", e.reason, "error", err)
		}
	}
}
