package owned

import (
	"context"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/test/harness"
)

var podIndex = NewIndex[*corev1.Pod]()

var replicaSet = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

func ref(name string, uid types.UID) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name, UID: uid, Controller: &yes, BlockOwnerDeletion: &yes}
}

// TestClaim: what an owner with the selector app=web does with one object.
func TestClaim(t *testing.T) {
	const mine, others types.UID = "mine", "others"
	no := false
	bystander := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "c", Controller: &no}
	for name, test := range map[string]struct {
		app     string
		owners  []metav1.OwnerReference
		leaving bool // the object is being deleted
		ended   bool // the owner is being deleted
		rules   Rules[*corev1.Pod]
		claimed bool
		owned   []types.UID // by whom it is, or was, owned afterwards
	}{
		"its own":              {app: "web", owners: []metav1.OwnerReference{ref("o", mine)}, claimed: true, owned: []types.UID{mine}},
		"an orphan is adopted": {app: "web", claimed: true, owned: []types.UID{mine}},
		"one with an owner that is no controller is adopted": {app: "web", owners: []metav1.OwnerReference{bystander}, claimed: true, owned: []types.UID{"c", mine}},
		"one of another controller":                          {app: "web", owners: []metav1.OwnerReference{ref("p", others)}, owned: []types.UID{others}},
		"an orphan that does not match":                      {app: "db"},
		"its own that does not match is released":            {app: "db", owners: []metav1.OwnerReference{ref("o", mine)}},
		"a release leaves other owners":                      {app: "db", owners: []metav1.OwnerReference{bystander, ref("o", mine)}, owned: []types.UID{"c"}},
		"an orphan that is being deleted":                    {app: "web", leaving: true},
		"its own that is being deleted":                      {app: "web", leaving: true, owners: []metav1.OwnerReference{ref("o", mine)}, claimed: true, owned: []types.UID{mine}},
		"an owner that is being deleted adopts nothing":      {app: "web", ended: true},
		"an owner that is being deleted releases nothing":    {app: "db", ended: true, owners: []metav1.OwnerReference{ref("o", mine)}, owned: []types.UID{mine}},
		"an owner that is being deleted keeps its own":       {app: "web", ended: true, owners: []metav1.OwnerReference{ref("o", mine)}, claimed: true, owned: []types.UID{mine}},
		"an orphan that is no member":                        {app: "web", rules: Rules[*corev1.Pod]{Member: func(*corev1.Pod) bool { return false }}},
		"its own that is no member any more is released":     {app: "web", owners: []metav1.OwnerReference{ref("o", mine)}, rules: Rules[*corev1.Pod]{Member: func(*corev1.Pod) bool { return false }}},
		"an orphan that must not be changed":                 {app: "web", rules: Rules[*corev1.Pod]{Change: func(*corev1.Pod) bool { return false }}},
		"its own that must not be changed is not released": {app: "db", owners: []metav1.OwnerReference{ref("o", mine)}, owned: []types.UID{mine},
			rules: Rules[*corev1.Pod]{Change: func(*corev1.Pod) bool { return false }}},
	} {
		t.Run(name, func(t *testing.T) {
			h := harness.New(t)
			ctx := context.Background()
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Labels: map[string]string{"app": test.app}, OwnerReferences: test.owners},
				Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
			made, err := client.Create(ctx, h.Client, pod)
			if err != nil {
				t.Fatal(err)
			}
			if test.leaving {
				if err := h.Client.Delete(ctx, made); err != nil {
					t.Fatal(err)
				}
			}
			owner := Owner{&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "o", UID: mine}}, replicaSet, labels.SelectorFromSet(labels.Set{"app": "web"})}
			if test.ended {
				now := metav1.Now()
				owner.SetDeletionTimestamp(&now)
			}
			claimed, err := podIndex.Claim(ctx, h.Client, h.Client.View(), owner, test.rules)
			if err != nil {
				t.Fatal(err)
			}
			if (len(claimed) == 1) != test.claimed {
				t.Errorf("claimed %d objects", len(claimed))
			}
			now, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "p")
			var owned []types.UID
			for _, r := range now.OwnerReferences {
				owned = append(owned, r.UID)
			}
			if !slices.Equal(owned, test.owned) {
				t.Errorf("it is owned by %v, want %v", owned, test.owned)
			}
			if test.claimed && !metav1.IsControlledBy(claimed[0], owner) {
				t.Errorf("what was claimed has the owners %v", claimed[0].OwnerReferences)
			}
		})
	}
}

// TestClaimOfWhatIsGone: an orphan that disappears before it is adopted is no failure; one that was changed is.
func TestClaimOfWhatIsGone(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	made, err := client.Create(ctx, h.Client, pod)
	if err != nil {
		t.Fatal(err)
	}
	owner := Owner{&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "o", UID: "o"}}, replicaSet, labels.SelectorFromSet(labels.Set{"app": "web"})}
	before := made.DeepCopy()
	changed := made.DeepCopy()
	changed.Labels["more"] = "yes"
	if _, err := client.Update(ctx, h.Client, changed); err != nil {
		t.Fatal(err)
	}
	if _, err := adopt(ctx, h.Client, before, owner); keep(nil, err) == nil {
		t.Error("a pod that was changed meanwhile was adopted")
	}
	if err := h.Client.Delete(ctx, made, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := adopt(ctx, h.Client, before, owner); err == nil || keep(nil, err) != nil {
		t.Errorf("adopting a pod that is gone: %v", err)
	}
}

// TestEnqueue: an event concerns the controllers that controlled the object before and after it, or those that might adopt it.
func TestEnqueue(t *testing.T) {
	pod := func(owners ...metav1.OwnerReference) client.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", OwnerReferences: owners}}
	}
	job := ref("j", "j")
	job.Kind = "Job"
	for name, test := range map[string]struct {
		event   client.Event
		keys    []string
		orphans int
	}{
		"created":            {event: client.Event{New: pod(ref("a", "a"))}, keys: []string{"default/a"}},
		"changed":            {event: client.Event{Old: pod(ref("a", "a")), New: pod(ref("a", "a"))}, keys: []string{"default/a"}},
		"given to another":   {event: client.Event{Old: pod(ref("a", "a")), New: pod(ref("b", "b"))}, keys: []string{"default/a", "default/b"}},
		"adopted":            {event: client.Event{Old: pod(), New: pod(ref("a", "a"))}, keys: []string{"default/a"}},
		"released":           {event: client.Event{Old: pod(ref("a", "a")), New: pod()}, keys: []string{"default/a"}},
		"deleted":            {event: client.Event{Old: pod(ref("a", "a"))}, keys: []string{"default/a"}},
		"of another kind":    {event: client.Event{New: pod(job)}},
		"an orphan":          {event: client.Event{New: pod()}, orphans: 1},
		"an orphan, deleted": {event: client.Event{Old: pod()}},
		"an orphan, changed": {event: client.Event{Old: pod(), New: pod()}, orphans: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var keys []string
			orphans := 0
			Enqueue(test.event, "ReplicaSet", func(k controller.Key) { keys = append(keys, k.String()) }, func(client.Object) { orphans++ })
			if !slices.Equal(keys, test.keys) || orphans != test.orphans {
				t.Errorf("enqueued %v, and orphans %d times", keys, orphans)
			}
		})
	}
}
