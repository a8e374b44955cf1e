package endpoints

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

const (
	managedBy = "endpointslice-controller.k8s.io"
	// maxEndpoints is the maximum number of endpoints of a slice.
	maxEndpoints = 100
)

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// ownSlices returns the slices of a service that this controller created.
func ownSlices(v client.View, key controller.Key) (out []*discoveryv1.EndpointSlice) {
	for _, s := range byService.Any(v, key.String()) {
		if s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			out = append(out, s)
		}
	}
	return out
}

// group is what slices have in common that an endpoint may be in.
type group struct {
	family corev1.IPFamily
	ports  string // the ports' text
}

// reconcileSlices updates a service's slices for its pods, changing as few of them as possible: endpoints stay in their slice, new
// ones fill the gaps. A service of two address families has slices of both.
func (r *reconciler) reconcileSlices(ctx context.Context, v client.View, service *corev1.Service, backing []*corev1.Pod) error {
	wanted := map[group]map[types.UID]discoveryv1.Endpoint{} // by pod, as pods in the host's network share addresses
	ports := map[string][]port{}
	for _, family := range families(service) {
		any := false
		for _, pod := range backing {
			address := addressOf(pod, family)
			if address == "" {
				continue
			}
			resolved := portsOf(service, pod)
			g := group{family, fmt.Sprint(resolved)}
			if wanted[g] == nil {
				wanted[g], ports[g.ports] = map[types.UID]discoveryv1.Endpoint{}, resolved
			}
			wanted[g][pod.UID] = endpoint(v, service, pod, address)
			any = true
		}
		if !any {
			// An empty slice represents a service without endpoints, as upstream.
			wanted[group{family, "[]"}] = map[types.UID]discoveryv1.Endpoint{}
		}
	}
	groups := map[group][]*discoveryv1.EndpointSlice{}
	var stale []*discoveryv1.EndpointSlice
	for _, slice := range ownSlices(v, controller.KeyOf(service)) {
		g := group{corev1.IPFamily(slice.AddressType), portsText(slice)}
		if wanted[g] != nil {
			groups[g] = append(groups[g], slice)
		} else {
			stale = append(stale, slice)
		}
	}
	for g, endpoints := range wanted {
		if err := r.reconcileGroup(ctx, service, g.family, ports[g.ports], endpoints, groups[g]); err != nil {
			return err
		}
	}
	for _, slice := range stale {
		if err := r.delete(ctx, slice); err != nil {
			return err
		}
	}
	return nil
}

// reconcileGroup updates the slices that have the same address family and ports.
func (r *reconciler) reconcileGroup(ctx context.Context, service *corev1.Service, family corev1.IPFamily, ports []port, wanted map[types.UID]discoveryv1.Endpoint, have []*discoveryv1.EndpointSlice) error {
	changed := make([]*discoveryv1.EndpointSlice, len(have))
	for i, slice := range have {
		changed[i] = slice.DeepCopy()
		kept := changed[i].Endpoints[:0]
		for _, e := range slice.Endpoints {
			if e.TargetRef == nil {
				continue
			}
			if now, ok := wanted[e.TargetRef.UID]; ok {
				kept = append(kept, now)
				delete(wanted, e.TargetRef.UID)
			}
		}
		changed[i].Endpoints = kept
	}
	rest := slices.SortedFunc(maps.Values(wanted), func(a, b discoveryv1.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Addresses[0], b.Addresses[0]), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
	})
	for _, slice := range changed {
		n := min(maxEndpoints-len(slice.Endpoints), len(rest))
		slice.Endpoints = append(slice.Endpoints, rest[:n]...)
		rest = rest[n:]
	}
	used := 0
	for i, slice := range changed {
		if len(slice.Endpoints) == 0 && (used > 0 || i < len(changed)-1 || len(rest) > 0) {
			if err := r.delete(ctx, slice); err != nil {
				return err
			}
			continue
		}
		used++
		decorate(slice, service)
		if apiequality.Semantic.DeepEqual(slice, have[i]) {
			continue
		}
		if _, err := client.Update(ctx, r.client, slice); ignoreNotFound(err) != nil {
			return err
		}
	}
	for len(rest) > 0 || used == 0 {
		n := min(maxEndpoints, len(rest))
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: service.Namespace, GenerateName: service.Name + "-", OwnerReferences: ownedBy(service)},
			AddressType: discoveryv1.AddressType(family), Endpoints: rest[:n], Ports: slicePorts(ports),
		}
		decorate(slice, service)
		if _, err := client.Create(ctx, r.client, slice); err != nil {
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil
			}
			return err
		}
		rest = rest[n:]
		used++
	}
	return nil
}

// decorate sets the service's labels and the controller's own on a slice.
func decorate(slice *discoveryv1.EndpointSlice, service *corev1.Service) {
	labels := maps.Clone(service.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	labels[discoveryv1.LabelServiceName] = service.Name
	labels[discoveryv1.LabelManagedBy] = managedBy
	slice.Labels = labels
}

// endpoint returns a pod's endpoint with one of its addresses. Its zone is its node's at this moment: a node's zone changes so rarely that the next
// reconciliation may update it.
func endpoint(v client.View, service *corev1.Service, pod *corev1.Pod, address string) discoveryv1.Endpoint {
	serving := pods.Ready(pod)
	terminating := pod.DeletionTimestamp != nil
	ready := service.Spec.PublishNotReadyAddresses || (serving && !terminating)
	e := discoveryv1.Endpoint{
		Addresses:  []string{address},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  reference(pod),
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = &pod.Spec.NodeName
		if node, ok := client.Get[*corev1.Node](v, "", pod.Spec.NodeName); ok && node.Labels[corev1.LabelTopologyZone] != "" {
			zone := node.Labels[corev1.LabelTopologyZone]
			e.Zone = &zone
		}
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
		e.Hostname = &pod.Spec.Hostname
	}
	if ready {
		e.Hints = hints(service, &e)
	}
	return e
}

// hints returns for which traffic an endpoint is intended, if the service prefers nearby endpoints: that of its zone and, if the
// service says so, preferably of its node. Proxies that do not support hints for nodes use those for zones.
func hints(service *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	var h discoveryv1.EndpointHints
	switch distribution := value(service.Spec.TrafficDistribution); distribution {
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode:
		if e.Zone != nil {
			h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
		}
		if e.NodeName != nil && distribution == corev1.ServiceTrafficDistributionPreferSameNode {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}

func slicePorts(ports []port) []discoveryv1.EndpointPort {
	out := []discoveryv1.EndpointPort{}
	for _, p := range ports {
		ep := discoveryv1.EndpointPort{Name: &p.name, Port: &p.number, Protocol: &p.protocol}
		if p.appProtocol != "" {
			ep.AppProtocol = &p.appProtocol
		}
		out = append(out, ep)
	}
	return out
}

// portsText returns the text of a slice's ports by which reconcileSlices groups slices.
func portsText(slice *discoveryv1.EndpointSlice) string {
	var out []port
	for _, ep := range slice.Ports {
		p := port{name: value(ep.Name), number: value(ep.Port), protocol: value(ep.Protocol), appProtocol: value(ep.AppProtocol)}
		out = append(out, p)
	}
	return fmt.Sprint(out)
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
