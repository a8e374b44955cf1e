package configrollout

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/client/followed"
	"github.com/kontiki/kontiki/controller/owned"
)

// content is what a ConfigMap or a Secret contains; nil stands for one that does not exist.
type content struct {
	text   map[string]string
	binary map[string][]byte
	kind   corev1.SecretType // of a Secret
}

func contentOf(obj client.Object) *content {
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		return &content{text: o.Data, binary: o.BinaryData}
	case *corev1.Secret:
		return &content{binary: o.Data, kind: o.Type}
	}
	return nil
}

// equal says whether two objects have the same data. The type of a Secret cannot change.
func (c *content) equal(other *content) bool {
	if c == nil || other == nil {
		return c == other
	}
	return apiequality.Semantic.DeepEqual(c.text, other.text) && apiequality.Semantic.DeepEqual(c.binary, other.binary)
}

// configuration is the contents of all references, by their names ("configmap/app").
type configuration map[string]*content

func (c configuration) equal(other configuration) bool {
	return maps.EqualFunc(c, other, func(a, b *content) bool { return a.equal(b) })
}

// Indexes of the snapshots by their owners.
var (
	configMaps = owned.NewIndex[*corev1.ConfigMap]()
	secrets    = owned.NewIndex[*corev1.Secret]()
)

// snapshotsOf returns a workload's snapshots.
func snapshotsOf(v client.View, owner client.Object) (out []client.Object) {
	for _, obj := range configMaps.Controlled(v, owner.GetUID()) {
		if isSnapshot(obj, followed.ConfigMap) {
			out = append(out, obj)
		}
	}
	for _, obj := range secrets.Controlled(v, owner.GetUID()) {
		if isSnapshot(obj, followed.Secret) {
			out = append(out, obj)
		}
	}
	return out
}

// isSnapshot says whether an object is a snapshot of one of its own kind: a ConfigMap must not become the content of a Secret.
func isSnapshot(obj client.Object, kind string) bool {
	annotations := obj.GetAnnotations()
	return annotations[idAnnotation] != "" && strings.HasPrefix(annotations[sourceAnnotation], kind+"/")
}

// configurations returns the configurations that snapshots keep, by their ids. One that is not complete does not equal any other.
func configurations(snapshots []client.Object) map[string]configuration {
	out := map[string]configuration{}
	for _, obj := range snapshots {
		annotations := obj.GetAnnotations()
		id := annotations[idAnnotation]
		if out[id] == nil {
			out[id] = configuration{}
		}
		c := contentOf(obj)
		if annotations[absentAnnotation] != "" {
			c = nil
		} else if c.kind != "" {
			c.kind = corev1.SecretType(annotations[typeAnnotation])
		}
		out[id][annotations[sourceAnnotation]] = c
	}
	return out
}

// live returns the present configuration; complete is false if something that pods need does not exist.
func live(v client.View, namespace string, refs []followed.Reference) (out configuration, complete bool) {
	out = configuration{}
	for _, ref := range refs {
		obj, ok := get(v, namespace, ref)
		if !ok && !ref.Optional {
			return nil, false
		}
		out[ref.String()] = nil
		if ok {
			out[ref.String()] = contentOf(obj)
		}
	}
	return out, true
}

func get(v client.View, namespace string, ref followed.Reference) (client.Object, bool) {
	if ref.Kind == followed.ConfigMap {
		obj, ok := client.Get[*corev1.ConfigMap](v, namespace, ref.Name)
		return obj, ok
	}
	obj, ok := client.Get[*corev1.Secret](v, namespace, ref.Name)
	return obj, ok
}

// keep stores snapshots of a configuration under a new id. Secrets are kept as Secrets, and the id tells nothing about them.
func keep(ctx context.Context, c *client.Client, owner client.Object, gvk schema.GroupVersionKind, refs []followed.Reference, now configuration) (id string, err error) {
	id = rand.String(10)
	yes := true
	for _, ref := range refs {
		from := now[ref.String()]
		const suffix = 11 // of "-" and an id
		meta := metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Name: ref.Name[:min(len(ref.Name), validation.DNS1123SubdomainMaxLength-suffix)] + "-" + id,
			Annotations:     map[string]string{idAnnotation: id, sourceAnnotation: ref.String()},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, gvk)},
		}
		if from == nil {
			meta.Annotations[absentAnnotation], from = "true", &content{}
		}
		if ref.Kind == followed.ConfigMap {
			_, err = client.Create(ctx, c, &corev1.ConfigMap{ObjectMeta: meta, Data: maps.Clone(from.text), BinaryData: maps.Clone(from.binary), Immutable: &yes})
		} else {
			meta.Annotations[typeAnnotation] = string(from.kind)
			_, err = client.Create(ctx, c, &corev1.Secret{ObjectMeta: meta, Data: maps.Clone(from.binary), Type: corev1.SecretTypeOpaque, Immutable: &yes})
		}
		if err != nil {
			return "", err
		}
	}
	return id, nil
}

// restore writes a configuration back into the objects that it came from. Objects that did not exist then are left.
func restore(ctx context.Context, c *client.Client, namespace string, refs []followed.Reference, kept configuration) error {
	for _, ref := range refs {
		want := kept[ref.String()]
		obj, ok := get(c.View(), namespace, ref)
		if want == nil || (ok && contentOf(obj).equal(want)) {
			continue
		}
		var err error
		meta := metav1.ObjectMeta{Namespace: namespace, Name: ref.Name}
		switch {
		case ref.Kind == followed.ConfigMap && ok:
			changed := obj.(*corev1.ConfigMap).DeepCopy()
			changed.Data, changed.BinaryData = maps.Clone(want.text), maps.Clone(want.binary)
			_, err = client.Update(ctx, c, changed)
		case ref.Kind == followed.ConfigMap:
			_, err = client.Create(ctx, c, &corev1.ConfigMap{ObjectMeta: meta, Data: maps.Clone(want.text), BinaryData: maps.Clone(want.binary)})
		case ok:
			changed := obj.(*corev1.Secret).DeepCopy()
			changed.Data = maps.Clone(want.binary)
			_, err = client.Update(ctx, c, changed)
		default:
			_, err = client.Create(ctx, c, &corev1.Secret{ObjectMeta: meta, Data: maps.Clone(want.binary), Type: want.kind})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// discard deletes the snapshots of configurations that no revision of the workload has.
func discard(ctx context.Context, c *client.Client, snapshots []client.Object, used []string) error {
	for _, obj := range snapshots {
		if slices.Contains(used, obj.GetAnnotations()[idAnnotation]) {
			continue
		}
		if err := c.Delete(ctx, obj, client.IfUID(obj.GetUID())); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
