package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/pods"
)

// status returns the set's status. Of several pods on a node the oldest counts.
func (u *update) status() appsv1.DaemonSetStatus {
	s := appsv1.DaemonSetStatus{ObservedGeneration: u.ds.Generation, CollisionCount: u.ds.Status.CollisionCount, Conditions: u.ds.Status.Conditions}
	if u.collisions > 0 {
		s.CollisionCount = &u.collisions
	}
	for _, name := range u.names {
		if u.nodes[name] == nil {
			continue
		}
		here := u.pods[name]
		if !u.want.on(u.nodes[name]).run {
			if len(here) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(here) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		if pods.Ready(here[0]) {
			s.NumberReady++
			if u.available(here[0]) {
				s.NumberAvailable++
			}
		}
		if u.updated(here[0]) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s
}

// writeStatus writes the status if it differs.
func (u *update) writeStatus() error {
	s := u.status()
	if apiequality.Semantic.DeepEqual(u.ds.Status, s) {
		return nil
	}
	changed := u.ds.DeepCopy()
	changed.Status = s
	if _, err := client.UpdateStatus(u.ctx, u.client, changed); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}
