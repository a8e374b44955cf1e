// Package bootstrap makes what every cluster has: the namespaces of the system, and the Service default/kubernetes with
// the masters' API addresses behind it.
package bootstrap

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and kept for the programs that still read them.

var namespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

const serviceName = "kubernetes"

// Config says what to make.
type Config struct {
	Client *client.Client
	// ServiceAddress is the cluster address of the service default/kubernetes.
	ServiceAddress netip.Addr
	// Masters answers the API addresses of the masters that are alive; Changed is signalled when the answer may differ.
	Masters func() []netip.AddrPort
	Changed <-chan struct{}
}

// Run makes what is missing and follows the masters, until the context ends. A write that the context's end breaks off is no failure.
func Run(ctx context.Context, c Config) error {
	err := c.run(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (c Config) run(ctx context.Context) error {
	for _, name := range namespaces {
		if _, ok := client.Get[*corev1.Namespace](c.Client.View(), "", name); ok {
			continue
		}
		_, err := client.Create(ctx, c.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for {
		if err := c.service(ctx); err != nil && !apierrors.IsConflict(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.Changed:
		}
	}
}

// service brings the Service, its Endpoints and its EndpointSlice up to date.
func (c Config) service(ctx context.Context) error {
	masters := c.Masters()
	if len(masters) == 0 {
		return nil // gossip has just begun: leave what is there
	}
	slices.SortFunc(masters, func(a, b netip.AddrPort) int { return cmp.Compare(a.String(), b.String()) })
	port := int32(masters[0].Port())
	view := c.Client.View()
	if _, ok := client.Get[*corev1.Service](view, metav1.NamespaceDefault, serviceName); !ok {
		_, err := client.Create(ctx, c.Client, &corev1.Service{
			ObjectMeta: meta(map[string]string{"component": "apiserver", "provider": "kubernetes"}),
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: c.ServiceAddress.String(), Ports: []corev1.ServicePort{
				{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)}}},
		})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	if err := c.endpoints(ctx, view, masters, port); err != nil {
		return err
	}
	return c.slice(ctx, view, masters, port)
}

func meta(labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: serviceName, Labels: labels}
}

func (c Config) endpoints(ctx context.Context, view client.View, masters []netip.AddrPort, port int32) error {
	wanted := &corev1.Endpoints{
		ObjectMeta: meta(map[string]string{discoveryv1.LabelSkipMirror: "true"}),
		Subsets:    []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}}}},
	}
	for _, m := range masters {
		wanted.Subsets[0].Addresses = append(wanted.Subsets[0].Addresses, corev1.EndpointAddress{IP: m.Addr().String()})
	}
	stored, ok := client.Get[*corev1.Endpoints](view, wanted.Namespace, wanted.Name)
	if ok && apiequality.Semantic.DeepEqual(stored.Subsets, wanted.Subsets) {
		return nil
	}
	_, err := client.Update(ctx, c.Client, wanted) // creates it where it is missing
	return err
}

func (c Config) slice(ctx context.Context, view client.View, masters []netip.AddrPort, port int32) error {
	name, protocol, ready := "https", corev1.ProtocolTCP, true
	wanted := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta(map[string]string{discoveryv1.LabelServiceName: serviceName}),
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	for _, m := range masters {
		wanted.Endpoints = append(wanted.Endpoints, discoveryv1.Endpoint{Addresses: []string{m.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	stored, ok := client.Get[*discoveryv1.EndpointSlice](view, wanted.Namespace, wanted.Name)
	if !ok {
		_, err := client.Create(ctx, c.Client, wanted)
		return err
	}
	if apiequality.Semantic.DeepEqual(stored.Endpoints, wanted.Endpoints) && apiequality.Semantic.DeepEqual(stored.Ports, wanted.Ports) {
		return nil
	}
	changed := stored.DeepCopy()
	changed.Endpoints, changed.Ports = wanted.Endpoints, wanted.Ports
	_, err := client.Update(ctx, c.Client, changed)
	return err
}
