package nodes

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// kinds are the kinds of objects that assignments contain.
var kinds = []client.Object{&corev1.Pod{}, &corev1.Secret{}, &corev1.ConfigMap{}, &corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Node{}, &certificatesv1.ClusterTrustBundle{}}

// key identifies an object of an assignment.
type key struct{ resource, namespace, name string }

func (k key) proto() *nodev1.ObjectKey {
	return &nodev1.ObjectKey{Resource: k.resource, Namespace: k.namespace, Name: k.name}
}

// assignment tracks which objects of its own one worker has been sent: its pods, what they refer to, and its node. Only one goroutine may
// use it.
type assignment struct {
	node string
	// view returns the present state.
	view func() client.View
	// follows is told which Secrets and ConfigMaps the worker's pods refer to.
	follows names
	// sent has the revision of each of these objects that the worker has.
	sent map[key]uint64
	// named has the Secrets and ConfigMaps that the worker's pods refer to; pods has the references of each pod.
	named map[key]*reference
	pods  map[key][]key
}

// names is told for which objects changes are needed. After name has returned, no later change is missed.
type names interface {
	name(key)
	unname(key)
}

// reference is an object that pods refer to.
type reference struct {
	pods int
	// revision is that of the view in which the object was looked up first.
	revision uint64
}

func newAssignment(node string, view func() client.View, follows names) *assignment {
	return &assignment{node: node, view: view, follows: follows, sent: map[key]uint64{}, named: map[key]*reference{}, pods: map[key][]key{}}
}

// end ends the interest in all that pods refer to.
func (a *assignment) end() {
	for ref := range a.named {
		a.follows.unname(ref)
	}
}

// delta collects the changes to send.
type delta struct {
	upserts map[key]client.Object
	deletes map[key]bool
}

func newDelta() *delta { return &delta{upserts: map[key]client.Object{}, deletes: map[key]bool{}} }

func (d *delta) put(k key, obj client.Object) {
	delete(d.deletes, k)
	d.upserts[k] = obj
}

func (d *delta) drop(k key) {
	delete(d.upserts, k)
	d.deletes[k] = true
}

// full returns all of the worker's own objects in a view.
func (a *assignment) full(v client.View) *delta {
	d := newDelta()
	for _, found := range client.PodsByNode.Any(v, a.node) {
		// The index may be ahead of the view, but the changes that are sent next are those after the view.
		if pod, ok := client.Get[*corev1.Pod](v, found.Namespace, found.Name); ok && pod.Spec.NodeName == a.node {
			a.addPod(d, pod)
		}
	}
	if n, ok := client.Get[*corev1.Node](v, "", a.node); ok {
		d.put(nodeKey(a.node), n)
	}
	return d
}

func (a *assignment) addPod(d *delta, pod *corev1.Pod) {
	k := key{"pods", pod.Namespace, pod.Name}
	d.put(k, pod)
	before := a.pods[k]
	a.pods[k] = references(pod)
	for _, ref := range a.pods[k] {
		if known := a.named[ref]; known != nil {
			known.pods++
			continue
		}
		a.follows.name(ref)
		v := a.view() // after that: it contains all changes that do not arrive
		a.named[ref] = &reference{1, v.Revision()}
		switch ref.resource {
		case "secrets":
			if secret, ok := client.Get[*corev1.Secret](v, ref.namespace, ref.name); ok {
				d.put(ref, secret)
			}
		case "configmaps":
			if cm, ok := client.Get[*corev1.ConfigMap](v, ref.namespace, ref.name); ok {
				d.put(ref, cm)
			}
		}
	}
	a.release(d, before)
}

func (a *assignment) removePod(d *delta, k key) {
	before, ok := a.pods[k]
	if !ok {
		return
	}
	delete(a.pods, k)
	d.drop(k)
	a.release(d, before)
}

func (a *assignment) release(d *delta, refs []key) {
	for _, ref := range refs {
		if known := a.named[ref]; known != nil {
			if known.pods--; known.pods > 0 {
				continue
			}
			delete(a.named, ref)
			a.follows.unname(ref)
			d.drop(ref)
		}
	}
}

// apply adds to a delta the changes that events cause for the worker.
func (a *assignment) apply(d *delta, events []client.Event) {
	for _, event := range events {
		switch obj := event.Object().(type) {
		case *corev1.Pod:
			k := key{"pods", obj.Namespace, obj.Name}
			if event.New != nil && obj.Spec.NodeName == a.node {
				a.addPod(d, obj)
			} else {
				a.removePod(d, k)
			}
		case *corev1.Secret:
			a.referenceChanged(d, key{"secrets", obj.Namespace, obj.Name}, event)
		case *corev1.ConfigMap:
			a.referenceChanged(d, key{"configmaps", obj.Namespace, obj.Name}, event)
		case *corev1.Node:
			a.changed(d, nodeKey(obj.Name), event)
		}
	}
}

// referenceChanged is changed for what pods refer to, unless none does or the change was seen when the object was looked up.
func (a *assignment) referenceChanged(d *delta, k key, event client.Event) {
	if known := a.named[k]; known != nil && event.Revision > known.revision {
		a.changed(d, k, event)
	}
}

func (a *assignment) changed(d *delta, k key, event client.Event) {
	if event.New == nil {
		d.drop(k)
		return
	}
	d.put(k, event.New)
}

// message encodes a delta, without the objects that the worker already has.
func (a *assignment) message(d *delta) (upserts []*nodev1.Object, deletes []*nodev1.ObjectKey, err error) {
	for k, obj := range d.upserts {
		object, err := encode(k, obj)
		if err != nil {
			return nil, nil, err
		}
		if a.sent[k] >= object.Revision {
			continue
		}
		a.sent[k] = object.Revision
		upserts = append(upserts, object)
	}
	for k := range d.deletes {
		if _, ok := a.sent[k]; ok {
			delete(a.sent, k)
			deletes = append(deletes, k.proto())
		}
	}
	return upserts, deletes, nil
}

// references returns the Secrets and ConfigMaps that a pod refers to, each once.
func references(pod *corev1.Pod) []key {
	var out []key
	seen := map[key]bool{}
	add := func(resource, name string) {
		k := key{resource, pod.Namespace, name}
		if name != "" && !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	for _, ref := range pod.Spec.ImagePullSecrets {
		add("secrets", ref.Name)
	}
	containers := append(append([]corev1.Container(nil), pod.Spec.InitContainers...), pod.Spec.Containers...)
	for _, c := range pod.Spec.EphemeralContainers {
		containers = append(containers, corev1.Container(c.EphemeralContainerCommon))
	}
	for _, c := range containers {
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
				add("secrets", env.ValueFrom.SecretKeyRef.Name)
			}
			if env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil {
				add("configmaps", env.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil {
				add("secrets", from.SecretRef.Name)
			}
			if from.ConfigMapRef != nil {
				add("configmaps", from.ConfigMapRef.Name)
			}
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret != nil {
			add("secrets", volume.Secret.SecretName)
		}
		if volume.ConfigMap != nil {
			add("configmaps", volume.ConfigMap.Name)
		}
		if volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				if source.Secret != nil {
					add("secrets", source.Secret.Name)
				}
				if source.ConfigMap != nil {
					add("configmaps", source.ConfigMap.Name)
				}
			}
		}
	}
	return out
}
