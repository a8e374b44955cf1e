package endpoints

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/pods"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and kept for the programs that still read them.

const (
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
	// maxAddresses limits the addresses of an Endpoints object; with more it is marked as truncated.
	maxAddresses = 1000
)

// reconcileEndpoints updates a service's Endpoints object for its pods.
func (r *reconciler) reconcileEndpoints(ctx context.Context, v client.View, service *corev1.Service, backing []*corev1.Pod) error {
	subsets, truncated := subsetsOf(service, backing)
	stored, exists := client.Get[*corev1.Endpoints](v, service.Namespace, service.Name)
	wanted := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}
	if exists {
		wanted = stored.DeepCopy()
	}
	wanted.Subsets = subsets
	wanted.Labels = maps.Clone(service.Labels)
	if wanted.Labels == nil {
		wanted.Labels = map[string]string{}
	}
	wanted.Labels[endpointsManagedBy] = endpointsManager
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		wanted.Labels[corev1.IsHeadlessService] = ""
	}
	if truncated {
		metav1.SetMetaDataAnnotation(&wanted.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	} else {
		delete(wanted.Annotations, corev1.EndpointsOverCapacity)
	}
	if exists {
		if apiequality.Semantic.DeepEqual(stored.Subsets, wanted.Subsets) && apiequality.Semantic.DeepEqual(stored.Labels, wanted.Labels) &&
			apiequality.Semantic.DeepEqual(stored.Annotations, wanted.Annotations) {
			return nil
		}
		_, err := client.Update(ctx, r.client, wanted)
		return ignoreNotFound(err)
	}
	_, err := client.Create(ctx, r.client, wanted)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// subsetsOf groups the pods by their ports, and separates ready ones from others.
func subsetsOf(service *corev1.Service, backing []*corev1.Pod) (subsets []corev1.EndpointSubset, truncated bool) {
	type group struct {
		ports  []port
		subset corev1.EndpointSubset
	}
	groups := map[string]*group{}
	family := families(service)[0]
	var ordered []*corev1.Pod
	addresses := map[types.UID]string{}
	for _, pod := range backing {
		if address := addressOf(pod, family); address != "" {
			ordered, addresses[pod.UID] = append(ordered, pod), address
		}
	}
	slices.SortFunc(ordered, func(a, b *corev1.Pod) int {
		return cmp.Or(-boolCompare(pods.Ready(a), pods.Ready(b)), cmp.Compare(addresses[a.UID], addresses[b.UID]), cmp.Compare(a.UID, b.UID))
	})
	count := 0
	for _, pod := range ordered {
		if pod.DeletionTimestamp != nil && !service.Spec.PublishNotReadyAddresses {
			continue
		}
		if count == maxAddresses {
			truncated = true
			break
		}
		ports := portsOf(service, pod)
		headless := service.Spec.ClusterIP == corev1.ClusterIPNone && len(service.Spec.Ports) == 0
		if len(ports) == 0 && !headless {
			continue
		}
		count++
		name := fmt.Sprint(ports)
		g := groups[name]
		if g == nil {
			g = &group{ports: ports}
			groups[name] = g
		}
		address := corev1.EndpointAddress{IP: addresses[pod.UID], TargetRef: reference(pod)}
		if pod.Spec.NodeName != "" {
			address.NodeName = &pod.Spec.NodeName
		}
		if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
			address.Hostname = pod.Spec.Hostname
		}
		if service.Spec.PublishNotReadyAddresses || pods.Ready(pod) {
			g.subset.Addresses = append(g.subset.Addresses, address)
		} else {
			g.subset.NotReadyAddresses = append(g.subset.NotReadyAddresses, address)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		for _, p := range g.ports {
			ep := corev1.EndpointPort{Name: p.name, Port: p.number, Protocol: p.protocol}
			if p.appProtocol != "" {
				ep.AppProtocol = &p.appProtocol
			}
			g.subset.Ports = append(g.subset.Ports, ep)
		}
		subsets = append(subsets, g.subset)
	}
	return subsets, truncated
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
