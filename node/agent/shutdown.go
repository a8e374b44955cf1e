package agent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/fit"
	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/shutdown"
)

// endings lets a shutdown end the node's pods.
type endings struct{ *Agent }

// Active implements shutdown.Pods.
func (e endings) Active() []*corev1.Pod { return e.pods.Active() }

// End implements shutdown.Pods.
func (e endings) End(uid types.UID, grace time.Duration) <-chan struct{} {
	e.pods.Stop(uid, pods.Stop{Reason: shutdown.Reason, Message: shutdown.Message, Grace: &grace,
		Condition: &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: shutdown.Message}})
	return e.pods.Over(uid)
}

// closed returns why the node takes no pods, nil if it takes them.
func (a *Agent) closed() *fit.Refusal {
	if a.shutdown == nil || !a.shutdown.Now() {
		return nil
	}
	return &fit.Refusal{Reason: shutdown.Refused, Message: shutdown.RefusedMessage}
}

// lookTimeout limits how long the end of pods waits for the node's new status.
const lookTimeout = 2 * time.Second

// shutdownChanged reports that the machine is shutting down, or is not any more.
func (a *Agent) shutdownChanged(began bool) {
	message := "Shutdown manager detected shutdown cancellation"
	if began {
		message = "Shutdown manager detected shutdown event"
	}
	a.out.nodeEvent(corev1.EventTypeNormal, "NodeShutdown", message)
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	a.lookAtNode(ctx)
}
