package daemonset

import (
	"bytes"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/history"
	"github.com/kontiki/kontiki/controller/owned"
)

// templateGenerationLabel is the label by which pods were compared with their template before there were revisions.
const templateGenerationLabel = "pod-template-generation"

// findRevision finds the revision of the template, and records it if it is new.
func (u *update) findRevision(owner owned.Owner, revisions []*appsv1.ControllerRevision) (err error) {
	if u.ds.Status.CollisionCount != nil {
		u.collisions = *u.ds.Status.CollisionCount
	}
	u.current, u.collisions, err = history.Ensure(u.ctx, u.client, revisions, history.Wanted{
		Owner: owner, HashLabel: appsv1.DefaultDaemonSetUniqueLabelKey, Template: &u.ds.Spec.Template, Collisions: u.collisions,
		Restored: func(template *corev1.PodTemplateSpec) {
			restored := &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: *template}}
			u.client.KindOf(restored).Codec.Default(restored)
			*template = restored.Spec.Template
		},
	})
	return err
}

// hashOf returns the value of the label of pods at a revision. A revision that somebody made by hand has its name as hash.
func hashOf(revision *appsv1.ControllerRevision) string {
	if hash := revision.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]; hash != "" {
		return hash
	}
	return revision.Name
}

// mergeRevisions deletes other revisions with the current content, and moves their pods to the current one. It returns the pods.
func (u *update) mergeRevisions(revisions []*appsv1.ControllerRevision, claimed []*corev1.Pod) ([]*corev1.Pod, error) {
	for _, revision := range revisions {
		if revision.Name == u.current.Name || !bytes.Equal(revision.Data.Raw, u.current.Data.Raw) {
			continue
		}
		for i, pod := range claimed {
			if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != hashOf(revision) {
				continue
			}
			changed := pod.DeepCopy()
			changed.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hashOf(u.current)
			updated, err := client.Update(u.ctx, u.client, changed)
			if err != nil {
				return nil, err
			}
			claimed[i] = updated
		}
		if err := u.client.Delete(u.ctx, revision, client.IfUID(revision.UID)); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return claimed, nil
}

// truncate deletes old revisions beyond revisionHistoryLimit that no pod has.
func (u *update) truncate(revisions []*appsv1.ControllerRevision, claimed []*corev1.Pod) error {
	if u.ds.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	used := map[string]bool{hashOf(u.current): true}
	for _, pod := range claimed {
		used[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	limit := int(*u.ds.Spec.RevisionHistoryLimit)
	for _, revision := range revisions {
		if revision.Name != u.current.Name && used[hashOf(revision)] {
			limit-- // old revisions in use count, too
		}
	}
	return history.Truncate(u.ctx, u.client, revisions, limit, func(revision *appsv1.ControllerRevision) bool {
		return used[hashOf(revision)] || bytes.Equal(revision.Data.Raw, u.current.Data.Raw)
	})
}

// templateGeneration returns the generation of the template that the registry counts, if there is one.
func templateGeneration(ds *appsv1.DaemonSet) (string, bool) {
	generation := ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	if _, err := strconv.ParseInt(generation, 10, 64); err != nil {
		return "", false
	}
	return generation, true
}

// updated says whether a pod has the present template.
func (u *update) updated(pod *corev1.Pod) bool {
	if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hashOf(u.current) {
		return true
	}
	generation, ok := templateGeneration(u.ds)
	return ok && pod.Labels[templateGenerationLabel] == generation
}
