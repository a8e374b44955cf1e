// Package bootstrap creates and maintains what every cluster has: the system namespaces, and the Service default/kubernetes with
// the masters' API addresses as its endpoints. What is deleted or changed of them is restored at once.
package bootstrap

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and kept for the programs that still read them.

var namespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

const serviceName = "kubernetes"

// Config has the parameters of the controller.
type Config struct {
	Client *client.Client
	// ServiceAddress is the cluster address of the service default/kubernetes.
	ServiceAddress netip.Addr
	// Masters returns the API addresses of the masters that are alive; Changed is signalled when the result may differ.
	Masters func() []netip.AddrPort
	Changed <-chan struct{}
	Log     *slog.Logger
}

// Run creates what is missing, and follows the masters and the objects, until the context ends.
func Run(ctx context.Context, c Config) error {
	log := c.Log
	if log == nil {
		log = slog.Default()
	}
	return controller.Run(ctx, c.Client, New(c), log)
}

var service = controller.Key{Namespace: metav1.NamespaceDefault, Name: serviceName}

// New returns the controller. Its keys are the system namespaces, and the service.
func New(c Config) *controller.Controller {
	return &controller.Controller{
		Name:    "bootstrap",
		Watches: []client.Object{&corev1.Namespace{}, &corev1.Service{}, &corev1.Endpoints{}, &discoveryv1.EndpointSlice{}},
		Start: func(_ client.View, enqueue func(controller.Key)) {
			for _, name := range namespaces {
				enqueue(controller.Key{Name: name})
			}
			enqueue(service)
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			key := controller.KeyOf(event.Object())
			if key == service || (key.Namespace == "" && slices.Contains(namespaces, key.Name)) {
				enqueue(key)
			}
		},
		Source: func(ctx context.Context, enqueue func(controller.Key)) error {
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-c.Changed:
					enqueue(service)
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			if key == service {
				return controller.Result{}, c.service(ctx, v)
			}
			return controller.Result{}, c.namespace(ctx, v, key.Name)
		},
	}
}

func (c Config) namespace(ctx context.Context, view client.View, name string) error {
	if _, ok := client.Get[*corev1.Namespace](view, "", name); ok {
		return nil // a namespace that is being deleted is created again when it is gone
	}
	_, err := client.Create(ctx, c.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return ignoreExists(err)
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// service updates the Service, its Endpoints and its EndpointSlice.
func (c Config) service(ctx context.Context, view client.View) error {
	masters := c.Masters()
	if len(masters) == 0 {
		return nil // gossip has only just begun: leave the objects unchanged
	}
	slices.SortFunc(masters, func(a, b netip.AddrPort) int { return cmp.Compare(a.String(), b.String()) })
	port := int32(masters[0].Port())
	if _, ok := client.Get[*corev1.Service](view, metav1.NamespaceDefault, serviceName); !ok {
		_, err := client.Create(ctx, c.Client, &corev1.Service{
			ObjectMeta: meta(map[string]string{"component": "apiserver", "provider": "kubernetes"}),
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: c.ServiceAddress.String(), Ports: []corev1.ServicePort{
				{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)}}},
		})
		if err := ignoreExists(err); err != nil {
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

// holds says whether have contains all of the labels.
func holds(have, labels map[string]string) bool {
	for name, value := range labels {
		if got, ok := have[name]; !ok || got != value {
			return false
		}
	}
	return true
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
	if ok && apiequality.Semantic.DeepEqual(stored.Subsets, wanted.Subsets) && holds(stored.Labels, wanted.Labels) {
		return nil
	}
	_, err := client.Update(ctx, c.Client, wanted) // creates it if it is missing
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
		return ignoreExists(err)
	}
	if apiequality.Semantic.DeepEqual(stored.Endpoints, wanted.Endpoints) && apiequality.Semantic.DeepEqual(stored.Ports, wanted.Ports) && holds(stored.Labels, wanted.Labels) {
		return nil
	}
	changed := stored.DeepCopy()
	changed.Labels, changed.Endpoints, changed.Ports = wanted.Labels, wanted.Endpoints, wanted.Ports
	_, err := client.Update(ctx, c.Client, changed)
	return err
}
