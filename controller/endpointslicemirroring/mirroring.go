// Package endpointslicemirroring copies manually maintained Endpoints of a Service without a selector to EndpointSlices, which are
// used to route traffic. Names, labels, limits and exceptions are upstream's
// (k8s.io/kubernetes/pkg/controller/endpointslicemirroring).
package endpointslicemirroring

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	endpointsv1 "k8s.io/kubernetes/pkg/api/v1/endpoints"
	netutils "k8s.io/utils/net"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and mirrored for the programs that still write them.

const (
	managedBy = "endpointslicemirroring-controller.k8s.io"
	// maxAddresses is how many addresses of a subset are mirrored: as many as fit into one slice.
	maxAddresses = 1000
)

// New returns the controller. Its keys are those of Endpoints, which are those of Services.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler{c, recorder}
	return &controller.Controller{
		Name:    "endpointslicemirroring",
		Watches: []client.Object{&corev1.Service{}, &corev1.Endpoints{}, &discoveryv1.EndpointSlice{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(e *corev1.Endpoints) bool {
				if mirrored(e) {
					enqueue(controller.KeyOf(e))
				}
				return true
			})
			client.Each(v, "", func(s *discoveryv1.EndpointSlice) bool { // of Endpoints that no longer exist
				enqueueSlice(s, enqueue)
				return true
			})
		},
		Enqueue: enqueue, Reconcile: r.reconcile,
	}
}

func enqueue(_ client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *corev1.Service:
		old, _ := event.Old.(*corev1.Service)
		current, _ := event.New.(*corev1.Service)
		if old == nil || current == nil || (old.Spec.Selector == nil) != (current.Spec.Selector == nil) {
			enqueue(controller.KeyOf(obj))
		}
	case *corev1.Endpoints:
		old, _ := event.Old.(*corev1.Endpoints)
		current, _ := event.New.(*corev1.Endpoints)
		if mirrored(old) || mirrored(current) {
			enqueue(controller.KeyOf(obj))
		}
	case *discoveryv1.EndpointSlice:
		for _, form := range []client.Object{event.Old, event.New} { // its labels may have been changed
			if s, ok := form.(*discoveryv1.EndpointSlice); ok {
				enqueueSlice(s, enqueue)
			}
		}
	}
}

func enqueueSlice(s *discoveryv1.EndpointSlice, enqueue func(controller.Key)) {
	if s.Labels[discoveryv1.LabelManagedBy] == managedBy {
		enqueue(controller.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]})
	}
}

// mirrored says whether Endpoints may be mirrored: not if a label forbids it, or if they are the lock of a leader election.
func mirrored(e *corev1.Endpoints) bool {
	if e == nil || e.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return false
	}
	_, lock := e.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return !lock
}

// byService finds slices by their service.
var byService = client.NewIndex(func(s *discoveryv1.EndpointSlice, add func(string)) {
	add(s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName])
})

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	var have []*discoveryv1.EndpointSlice
	for _, s := range byService.Any(v, key.String()) {
		if s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			have = append(have, s)
		}
	}
	endpoints, ok := client.Get[*corev1.Endpoints](v, key.Namespace, key.Name)
	service, exists := client.Get[*corev1.Service](v, key.Namespace, key.Name)
	if !ok || !exists || !mirrored(endpoints) || service.Spec.Selector != nil {
		return controller.Result{}, r.delete(ctx, have)
	}
	return controller.Result{}, r.mirror(ctx, endpoints, have)
}

// kind returns what the endpoints of a slice have in common: the address family, and the ports.
func kind(s *discoveryv1.EndpointSlice) string {
	var ports []string
	for _, p := range s.Ports {
		ports = append(ports, fmt.Sprintf("%q %d %s %q", value(p.Name), value(p.Port), value(p.Protocol), value(p.AppProtocol)))
	}
	slices.Sort(ports)
	return string(s.AddressType) + " " + strings.Join(ports, ",")
}

// mirror updates the slices for the Endpoints: one slice for each address family in each subset. Existing slices are reused, even
// if their ports differed.
func (r *reconciler) mirror(ctx context.Context, endpoints *corev1.Endpoints, have []*discoveryv1.EndpointSlice) error {
	wanted := r.wanted(endpoints)
	byKind := map[string]*discoveryv1.EndpointSlice{}
	var spare []*discoveryv1.EndpointSlice
	for _, s := range have {
		if k := kind(s); wanted[k] != nil && byKind[k] == nil {
			byKind[k] = s
		} else {
			spare = append(spare, s)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(wanted)) {
		slice, stored := wanted[k], byKind[k]
		if i := slices.IndexFunc(spare, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == slice.AddressType }); stored == nil && i >= 0 {
			stored = spare[i]
			spare = slices.Delete(spare, i, i+1)
		}
		if err := r.write(ctx, endpoints, slice, stored); err != nil {
			return err
		}
	}
	return r.delete(ctx, spare)
}

func (r *reconciler) write(ctx context.Context, endpoints *corev1.Endpoints, slice, stored *discoveryv1.EndpointSlice) error {
	if stored == nil {
		if endpoints.DeletionTimestamp != nil {
			return nil
		}
		_, err := client.Create(ctx, r.client, slice)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	}
	changed := stored.DeepCopy()
	changed.Labels, changed.Annotations, changed.OwnerReferences = slice.Labels, slice.Annotations, slice.OwnerReferences
	changed.Ports, changed.Endpoints = slice.Ports, slice.Endpoints
	if apiequality.Semantic.DeepEqual(changed, stored) {
		return nil
	}
	_, err := client.Update(ctx, r.client, changed)
	return err
}

func (r *reconciler) delete(ctx context.Context, slices []*discoveryv1.EndpointSlice) error {
	for _, s := range slices {
		if err := r.client.Delete(ctx, s, client.IfUID(s.UID)); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// wanted returns the slices that mirror Endpoints, by their kind.
func (r *reconciler) wanted(endpoints *corev1.Endpoints) map[string]*discoveryv1.EndpointSlice {
	wanted := map[string]*discoveryv1.EndpointSlice{}
	invalid, tooMany := 0, 0
	for _, subset := range endpointsv1.RepackSubsets(endpoints.Subsets) {
		added := 0
		add := func(addresses []corev1.EndpointAddress, ready bool) {
			for i := range addresses {
				if added == maxAddresses {
					tooMany += len(addresses) - i
					return
				}
				endpoint, family, ok := mirroredEndpoint(&addresses[i], ready)
				if !ok {
					invalid++
					continue
				}
				added++
				slice := newSlice(endpoints, subset.Ports, family)
				k := kind(slice)
				if wanted[k] == nil {
					wanted[k] = slice
				}
				wanted[k].Endpoints = append(wanted[k].Endpoints, endpoint)
			}
		}
		add(subset.Addresses, true)
		add(subset.NotReadyAddresses, false)
	}
	for _, slice := range wanted {
		slices.SortStableFunc(slice.Endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(a.Addresses[0], b.Addresses[0]) })
	}
	if invalid > 0 {
		r.recorder.Eventf(endpoints, corev1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
	}
	if tooMany > 0 {
		r.recorder.Eventf(endpoints, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxAddresses, tooMany+invalid)
	}
	return wanted
}

func mirroredEndpoint(address *corev1.EndpointAddress, ready bool) (discoveryv1.Endpoint, discoveryv1.AddressType, bool) {
	ip, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(address.IP)) // Endpoints may have leading zeros, slices may not
	if !ok {
		return discoveryv1.Endpoint{}, "", false
	}
	ip = ip.Unmap()
	endpoint := discoveryv1.Endpoint{
		Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef: address.TargetRef, NodeName: address.NodeName,
	}
	if address.Hostname != "" {
		endpoint.Hostname = &address.Hostname
	}
	if ip.Is6() {
		return endpoint, discoveryv1.AddressTypeIPv6, true
	}
	return endpoint, discoveryv1.AddressTypeIPv4, true
}

func newSlice(endpoints *corev1.Endpoints, ports []corev1.EndpointPort, family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: endpoints.Namespace, GenerateName: prefix(endpoints.Name), Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family, Ports: []discoveryv1.EndpointPort{},
	}
	maps.Copy(slice.Labels, endpoints.Labels)
	slice.Labels[discoveryv1.LabelServiceName], slice.Labels[discoveryv1.LabelManagedBy] = endpoints.Name, managedBy
	maps.Copy(slice.Annotations, endpoints.Annotations)
	delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(slice.Annotations, corev1.LastAppliedConfigAnnotation)
	for _, p := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return slice
}

// prefix returns a prefix that keeps names readable, unless the service's name would make them invalid.
func prefix(service string) string {
	if p := service + "-"; len(validation.IsDNS1123Subdomain(p+"x")) == 0 {
		return p
	}
	return service
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
