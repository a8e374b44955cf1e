package pods

import (
	"context"
	"errors"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// A rule of a container may restart all containers of its pod when it exits (RestartAllContainers). The worker then kills the others and
// begins another round: containers of earlier rounds count as if they did not exist, so the init containers run again, in order. The
// round is stored with the allocation; until it is, a restarted agent finds the rule matching again.

// labelRound is the round in which a container was created. Ephemeral containers are in none.
const labelRound = "round"

const noRound = "none"

func roundLabel(pod *corev1.Pod, c *corev1.Container, round int) string {
	if _, kind := podspec.Container(pod, c.Name); kind == podspec.Ephemeral {
		return noRound
	}
	return strconv.Itoa(round)
}

func (o observed) round() int {
	if o.alloc == nil {
		return 0
	}
	return o.alloc.Round
}

// superseded says whether all containers of the pod were restarted since a container was created.
func (o observed) superseded(c *runtime.Container) bool {
	label := c.Labels[labelRound]
	if label == noRound || c.State == runtime.StateRunning {
		return false
	}
	of, _ := strconv.Atoi(label) // a container of an earlier version of the agent is in the first round
	return of < o.round()
}

// causesRestart says whether an exited container is one whose rule restarts all.
func causesRestart(c *corev1.Container, l *runtime.Container) bool {
	return l.State == runtime.StateExited && c.RestartPolicy != nil && matchingRule(c, l.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers
}

// restartsAll says whether a container has exited whose rule restarts all.
func restartsAll(pod *corev1.Pod, o observed) bool {
	for c, kind := range podspec.Containers(pod) {
		if l := o.latest(c.Name); kind != podspec.Ephemeral && l != nil && causesRestart(c, l) {
			return true
		}
	}
	return false
}

// mayRestartAll says whether a pod has such a rule.
func mayRestartAll(pod *corev1.Pod) bool {
	for c, kind := range podspec.Containers(pod) {
		for _, r := range c.RestartPolicyRules {
			if kind != podspec.Ephemeral && r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

const reasonRestartingAll = "RestartingAllContainers"

const removedByRestart = "The container is removed because RestartAllContainers in place"

func restartedWithAll() *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{Reason: reasonRestartingAll, Message: removedByRestart, ExitCode: 137}
}

// comesBack says whether a container that ended so is started again.
func comesBack(pod *corev1.Pod, c *corev1.Container, end *corev1.ContainerStateTerminated) bool {
	return end.Reason == reasonRestartingAll || shouldRestart(pod, c, int(end.ExitCode))
}

// supersededStatus is the status of a container that has not run in this round yet.
func supersededStatus(in statusInput, c *corev1.Container, s corev1.ContainerStatus, last runtime.Container) corev1.ContainerStatus {
	s.RestartCount = int32(last.Attempt) + 1
	s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reasonRestartingAll, Message: removedByRestart}
	if w, ok := in.waits[c.Name]; ok {
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: w.reason.Error(), Message: w.message}
	}
	s.LastTerminationState.Terminated = restartedWithAll()
	if causesRestart(c, &last) { // how it ended says more
		s.LastTerminationState = stateOf(in, last)
	}
	return s
}

func restartingCondition(in statusInput, phase corev1.PodPhase) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse}
	switch {
	case phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
	case phase == corev1.PodFailed:
		c.Reason = "PodFailed"
	case restartsAll(in.pod, in.o):
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	return c
}

// restartAll kills all containers of the pod but the ephemeral ones, without grace, and begins another round.
func (w *worker) restartAll(ctx context.Context, pod *corev1.Pod, o observed) time.Duration {
	w.publish(pod, o)
	var errs []error
	for c, kind := range podspec.Containers(pod) {
		for _, l := range o.byName[c.Name] {
			if kind == podspec.Ephemeral || l.State != runtime.StateRunning {
				continue
			}
			w.containerEvent(pod, c, corev1.EventTypeNormal, "Killing", "killing")
			if err := w.m.c.Runtime.KillContainer(ctx, l.ID); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		if ctx.Err() == nil {
			w.log.Warn("stopping containers to restart all of the pod", "err", err)
		}
		return time.Second
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.alloc
	next.Round++
	w.setAllocationLocked(&next)
	return again
}
