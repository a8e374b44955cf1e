// Package history keeps the revisions of the templates of StatefulSets and DaemonSets as ControllerRevisions, with the names, hashes
// and contents that upstream gives them (k8s.io/kubernetes/pkg/controller/history), so that kubectl can show them and roll back.
package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/owned"
)

var byController = owned.NewIndex[*appsv1.ControllerRevision]()

// Claim returns the owner's revisions, in order. It adopts orphans that match and releases revisions that no longer match.
func Claim(ctx context.Context, c *client.Client, v client.View, owner owned.Owner) ([]*appsv1.ControllerRevision, error) {
	revisions, err := byController.Claim(ctx, c, v, owner, owned.Rules[*appsv1.ControllerRevision]{})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(revisions, compare)
	return revisions, nil
}

func compare(a, b *appsv1.ControllerRevision) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// Patch returns the content of a template's revision: a strategic merge patch of its owner that replaces the template.
func Patch(template *corev1.PodTemplateSpec) ([]byte, error) {
	encoded, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, err
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template returns the template of a revision.
func Template(revision *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var content struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(revision.Data.Raw, &content); err != nil {
		return nil, fmt.Errorf("decode revision %s: %w", revision.Name, err)
	}
	return &content.Spec.Template, nil
}

// Same says whether a revision has the template, whatever the form in which it was encoded: an earlier program may have written
// other bytes. restored is called with the revision's template to set the defaults that the template has.
func Same(revision *appsv1.ControllerRevision, patch []byte, restored func(*corev1.PodTemplateSpec)) bool {
	if bytes.Equal(revision.Data.Raw, patch) {
		return true
	}
	template, err := Template(revision)
	if err != nil {
		return false
	}
	restored(template)
	again, err := Patch(template)
	return err == nil && bytes.Equal(again, patch)
}

// Wanted is the revision that an owner wants to have.
type Wanted struct {
	Owner owned.Owner
	// HashLabel is the label that has a revision's hash.
	HashLabel string
	Template  *corev1.PodTemplateSpec
	// Restored sets the defaults of a template that was stored in a revision.
	Restored func(*corev1.PodTemplateSpec)
	// Collisions is the number of names that were found to be taken by other contents; it becomes a part of names.
	Collisions int32
}

// Ensure makes the owner's present template its newest revision, and returns that and the number of collisions. revisions are those
// of Claim. A template that was current before keeps its revision object, which gets the next number.
func Ensure(ctx context.Context, c *client.Client, revisions []*appsv1.ControllerRevision, w Wanted) (*appsv1.ControllerRevision, int32, error) {
	patch, err := Patch(w.Template)
	if err != nil {
		return nil, w.Collisions, err
	}
	next := int64(1)
	if n := len(revisions); n > 0 {
		newest := revisions[n-1]
		if Same(newest, patch, w.Restored) {
			return newest, w.Collisions, nil
		}
		next = newest.Revision + 1
	}
	for _, revision := range slices.Backward(revisions) {
		if bytes.Equal(revision.Data.Raw, patch) {
			changed := revision.DeepCopy()
			changed.Revision = next
			updated, err := client.Update(ctx, c, changed)
			return updated, w.Collisions, err
		}
	}
	return create(ctx, c, w, patch, next)
}

// create stores a new revision, under another name if its name is taken by one with other contents.
func create(ctx context.Context, c *client.Client, w Wanted, patch []byte, number int64) (*appsv1.ControllerRevision, int32, error) {
	for {
		hash := Hash(patch, w.Collisions)
		revision := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: w.Owner.GetNamespace(), Name: name(w.Owner.GetName(), hash),
				Labels: map[string]string{}, Annotations: maps.Clone(w.Owner.GetAnnotations()),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.Owner, w.Owner.Kind)},
			},
			Data: runtime.RawExtension{Raw: patch}, Revision: number,
		}
		maps.Copy(revision.Labels, w.Template.Labels)
		revision.Labels[w.HashLabel] = hash
		taken := revision.Name
		created, err := client.Create(ctx, c, revision)
		if !apierrors.IsAlreadyExists(err) {
			return created, w.Collisions, err
		}
		if has, ok := client.Get[*appsv1.ControllerRevision](c.View(), w.Owner.GetNamespace(), taken); ok && bytes.Equal(has.Data.Raw, patch) {
			return has, w.Collisions, nil
		}
		w.Collisions++
	}
}

// Hash returns the hash of a revision's content and the number of collisions, which is safe in names and labels.
func Hash(content []byte, collisions int32) string {
	h := fnv.New32()
	h.Write(content)
	h.Write([]byte(strconv.Itoa(int(collisions))))
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// name returns the name of a revision of an owner, of at most 253 characters.
func name(owner, hash string) string { return owner[:min(len(owner), 223)] + "-" + hash }

// Truncate deletes the oldest revisions that are not in use, so that limit of those remain. revisions are those of Claim.
func Truncate(ctx context.Context, c *client.Client, revisions []*appsv1.ControllerRevision, limit int, used func(*appsv1.ControllerRevision) bool) error {
	var unused []*appsv1.ControllerRevision
	for _, revision := range revisions {
		if !used(revision) {
			unused = append(unused, revision)
		}
	}
	for _, revision := range unused[:max(len(unused)-max(limit, 0), 0)] {
		if err := c.Delete(ctx, revision, client.IfUID(revision.UID)); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete revision %s: %w", revision.Name, err)
		}
	}
	return nil
}
