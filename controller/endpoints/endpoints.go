// Package endpoints maintains the EndpointSlices and the Endpoints of services with a selector.
//
// Slices are used to route traffic; a change of one pod changes one slice. Endpoints are maintained for programs that still read
// them (up to 1,000 addresses, as upstream). Both are computed from the same pods.
package endpoints

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and kept for the programs that still read them.

// New returns the controller.
func New(c *client.Client) *controller.Controller {
	r := &reconciler{client: c}
	return &controller.Controller{
		Name:    "endpoints",
		Watches: []client.Object{&corev1.Service{}, &corev1.Pod{}, &discoveryv1.EndpointSlice{}, &corev1.Endpoints{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(s *corev1.Service) bool {
				enqueue(controller.KeyOf(s))
				return true
			})
			// Also the slices and Endpoints of services that no longer exist.
			client.Each(v, "", func(s *discoveryv1.EndpointSlice) bool {
				enqueueSlice(s, enqueue)
				return true
			})
			client.Each(v, "", func(e *corev1.Endpoints) bool {
				_, lock := e.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
				if _, ok := client.Get[*corev1.Service](v, e.Namespace, e.Name); !ok && !lock {
					r.removed.Store(controller.KeyOf(e), v.Revision()+1)
					enqueue(controller.KeyOf(e))
				}
				return true
			})
		},
		Enqueue: r.enqueue, Reconcile: r.reconcile, Workers: 5,
	}
}

func enqueueSlice(s *discoveryv1.EndpointSlice, enqueue func(controller.Key)) {
	if s.Labels[discoveryv1.LabelManagedBy] == managedBy {
		enqueue(controller.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]})
	}
}

func (r *reconciler) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *corev1.Service:
		if event.New == nil {
			r.removed.Store(controller.KeyOf(obj), event.Revision)
		}
		enqueue(controller.KeyOf(obj))
	case *corev1.Endpoints:
		enqueue(controller.KeyOf(obj))
	case *discoveryv1.EndpointSlice:
		// This controller's own writes are enqueued too; a reconciliation with nothing to do costs little.
		enqueueSlice(obj, enqueue)
	case *corev1.Pod:
		old, _ := event.Old.(*corev1.Pod)
		current, _ := event.New.(*corev1.Pod)
		if old != nil && current != nil && sameEndpoint(old, current) {
			return
		}
		var keys []string
		for _, form := range []*corev1.Pod{old, current} {
			if form != nil {
				keys = append(keys, client.SelectorKeys(form.Namespace, form.Labels)...)
			}
		}
		for _, s := range bySelector.Any(v, keys...) {
			selector := selectorOf(s)
			if (old != nil && selector.Matches(labels.Set(old.Labels))) || (current != nil && selector.Matches(labels.Set(current.Labels))) {
				enqueue(controller.KeyOf(s))
			}
		}
	}
}

// byLabels finds pods by each of their labels.
var byLabels = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	for _, key := range client.LabelKeys(pod.Namespace, pod.Labels) {
		add(key)
	}
})

// bySelector finds services by their selectors.
var bySelector = client.NewIndex(func(s *corev1.Service, add func(string)) {
	if selector := selectorOf(s); selector != nil {
		add(client.SelectorKey(s.Namespace, selector))
	}
})

// byService finds slices by their service.
var byService = client.NewIndex(func(s *discoveryv1.EndpointSlice, add func(string)) {
	add(s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName])
})

// sameEndpoint says whether nothing changed that endpoints contain.
func sameEndpoint(a, b *corev1.Pod) bool {
	return slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && a.Status.PodIP == b.Status.PodIP && pods.Ready(a) == pods.Ready(b) && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		a.Status.Phase == b.Status.Phase && a.Spec.NodeName == b.Spec.NodeName && apiequality.Semantic.DeepEqual(a.Labels, b.Labels)
}

// selectorOf returns a service's selector; nil for a service whose endpoints this controller does not maintain.
func selectorOf(s *corev1.Service) labels.Selector {
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	return labels.Set(s.Spec.Selector).AsSelectorPreValidated()
}

type reconciler struct {
	client *client.Client
	// removed has the services that were deleted and may have left Endpoints behind, by key, with the revision of each deletion
	// (uint64). Older Endpoints are deleted too, whoever created them; newer ones may have been created before their service.
	removed sync.Map
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	service, ok := client.Get[*corev1.Service](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, r.removeAll(ctx, v, key)
	}
	if removed, ok := r.removed.Load(key); ok && removed.(uint64) <= v.Revision() {
		r.removed.CompareAndDelete(key, removed) // it exists again
	}
	if selectorOf(service) == nil || service.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	var backing []*corev1.Pod
	for _, pod := range byLabels.All(v, client.LabelKeys(key.Namespace, service.Spec.Selector)...) {
		if pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if !slices.ContainsFunc(families(service), func(f corev1.IPFamily) bool { return addressOf(pod, f) != "" }) {
			slog.Warn("a pod is omitted from the endpoints of a service: its address cannot be one", "service", key, "pod", pod.Name, "address", pod.Status.PodIP)
			continue
		}
		backing = append(backing, pod)
	}
	if err := r.reconcileSlices(ctx, v, service, backing); err != nil {
		return controller.Result{}, err
	}
	return controller.Result{}, r.reconcileEndpoints(ctx, v, service, backing)
}

// families returns the address families of a service, the first one that of its Endpoints.
func families(service *corev1.Service) []corev1.IPFamily {
	if len(service.Spec.IPFamilies) == 0 {
		return []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return service.Spec.IPFamilies
}

// addressOf returns a pod's address of a family, empty if it has none that may be in a slice: validation would refuse the whole slice for
// one that may not.
func addressOf(pod *corev1.Pod, family corev1.IPFamily) string {
	given := []string{pod.Status.PodIP}
	for _, p := range pod.Status.PodIPs {
		given = append(given, p.IP)
	}
	for _, address := range given {
		ip, err := netip.ParseAddr(address)
		if err != nil || ip.Zone() != "" || (ip.Is4() != (family == corev1.IPv4Protocol)) || ip.Is4In6() {
			continue
		}
		if ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
			continue
		}
		return address
	}
	return ""
}

// removeAll removes what is left of a service that was deleted.
func (r *reconciler) removeAll(ctx context.Context, v client.View, key controller.Key) error {
	for _, slice := range ownSlices(v, key) {
		if err := r.delete(ctx, slice); err != nil {
			return err
		}
	}
	removed, _ := r.removed.Load(key)
	if stored, ok := client.Get[*corev1.Endpoints](v, key.Namespace, key.Name); ok && (stored.Labels[endpointsManagedBy] == endpointsManager || before(stored, removed)) {
		if err := r.delete(ctx, stored); err != nil {
			return err
		}
	}
	r.removed.CompareAndDelete(key, removed)
	return nil
}

// before says whether an object was last changed before a revision; false if there is none.
func before(obj client.Object, revision any) bool {
	limit, ok := revision.(uint64)
	changed, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	return ok && err == nil && changed < limit
}

// port is a service's port on one pod.
type port struct {
	name        string
	number      int32
	protocol    corev1.Protocol
	appProtocol string
}

// portsOf resolves a service's ports on a pod; a port name that the pod does not have is omitted.
func portsOf(service *corev1.Service, pod *corev1.Pod) []port {
	var out []port
	for _, sp := range service.Spec.Ports {
		number, ok := targetPort(pod, &sp)
		if !ok {
			continue
		}
		p := port{name: sp.Name, number: number, protocol: sp.Protocol}
		if sp.AppProtocol != nil {
			p.appProtocol = *sp.AppProtocol
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.number, b.number), cmp.Compare(a.protocol, b.protocol))
	})
	return out
}

func targetPort(pod *corev1.Pod, sp *corev1.ServicePort) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.Name == sp.TargetPort.StrVal && p.Protocol == sp.Protocol {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}

func reference(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}

func (r *reconciler) delete(ctx context.Context, obj client.Object) error {
	return ignoreNotFound(r.client.Delete(ctx, obj, client.IfUID(obj.GetUID())))
}

func ownedBy(service *corev1.Service) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(service, corev1.SchemeGroupVersion.WithKind("Service"))}
}
