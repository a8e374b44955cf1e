// Package servicecidr looks after the ranges of service addresses (KEP-1880): it creates the ServiceCIDR "kubernetes" with the range
// that the masters are configured with, declares ServiceCIDRs ready, and lets one go only when no service would be left with an address
// outside of all ranges. It also creates the IPAddress of a service that has none: services of clusters from before IPAddresses existed,
// or from such a backup.
package servicecidr

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

const (
	// Default is the name of the ServiceCIDR of the configured range.
	Default = "kubernetes"
	// Finalizer keeps a ServiceCIDR until no address needs it.
	Finalizer = "networking.k8s.io/service-cidr-finalizer"
)

// Config has the parameters of the controller.
type Config struct {
	Client *client.Client
	// Range is the configured range of service addresses.
	Range netip.Prefix
	// Address returns the IPAddress of a service's address.
	Address func(service *corev1.Service, address string) *networkingv1.IPAddress
}

// New returns the controller. Its keys are the names of ServiceCIDRs, and the names of services with their namespaces.
func New(c Config) *controller.Controller {
	return &controller.Controller{
		Name:    "service-cidr",
		Watches: []client.Object{&networkingv1.ServiceCIDR{}, &networkingv1.IPAddress{}, &corev1.Service{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			enqueue(controller.Key{Name: Default})
			client.Each(v, "", func(cidr *networkingv1.ServiceCIDR) bool { enqueue(controller.KeyOf(cidr)); return true })
			client.Each(v, "", func(s *corev1.Service) bool { enqueue(controller.KeyOf(s)); return true })
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *networkingv1.ServiceCIDR:
				// A change of one may decide about others that are being deleted.
				client.Each(v, "", func(cidr *networkingv1.ServiceCIDR) bool {
					if cidr.DeletionTimestamp != nil {
						enqueue(controller.KeyOf(cidr))
					}
					return true
				})
				enqueue(controller.KeyOf(obj))
			case *networkingv1.IPAddress:
				if event.New != nil {
					return
				}
				client.Each(v, "", func(cidr *networkingv1.ServiceCIDR) bool {
					if cidr.DeletionTimestamp != nil {
						enqueue(controller.KeyOf(cidr))
					}
					return true
				})
				if ref := obj.Spec.ParentRef; ref != nil && ref.Group == "" && ref.Resource == "services" {
					enqueue(controller.Key{Namespace: ref.Namespace, Name: ref.Name})
				}
			case *corev1.Service:
				if event.Old == nil {
					enqueue(controller.KeyOf(obj))
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			if key.Namespace != "" {
				return controller.Result{}, c.service(ctx, v, key)
			}
			return controller.Result{}, c.cidr(ctx, v, key.Name)
		},
	}
}

// service creates the IPAddresses that a service lacks.
func (c Config) service(ctx context.Context, v client.View, key controller.Key) error {
	service, ok := client.Get[*corev1.Service](v, key.Namespace, key.Name)
	if !ok || service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	for _, address := range service.Spec.ClusterIPs {
		if address == corev1.ClusterIPNone {
			continue
		}
		if _, ok := client.Get[*networkingv1.IPAddress](v, "", address); ok {
			continue
		}
		if _, err := client.Create(ctx, c.Client, c.Address(service, address)); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (c Config) cidr(ctx context.Context, v client.View, name string) error {
	cidr, ok := client.Get[*networkingv1.ServiceCIDR](v, "", name)
	switch {
	case !ok && name == Default:
		_, err := client.Create(ctx, c.Client, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: Default}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{c.Range.Masked().String()}},
		})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	case !ok:
		return nil
	case cidr.DeletionTimestamp != nil:
		return c.release(ctx, v, cidr)
	}
	if !slices.Contains(cidr.Finalizers, Finalizer) {
		changed := cidr.DeepCopy()
		changed.Finalizers = append(changed.Finalizers, Finalizer)
		var err error
		if cidr, err = client.Update(ctx, c.Client, changed); err != nil {
			return err
		}
	}
	ready := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"}
	if slices.ContainsFunc(prefixes(cidr), func(p netip.Prefix) bool { return !p.Addr().Is4() }) {
		ready.Status, ready.Reason = metav1.ConditionFalse, "UnsupportedIPFamily"
		ready.Message = "Services have only IPv4 addresses in this cluster"
	}
	return c.declare(ctx, cidr, ready)
}

// release removes the finalizer of a ServiceCIDR that is being deleted, if no address of a service would be in no range then.
func (c Config) release(ctx context.Context, v client.View, cidr *networkingv1.ServiceCIDR) error {
	if !slices.Contains(cidr.Finalizers, Finalizer) {
		return nil
	}
	if c.needed(v, cidr) {
		return c.declare(ctx, cidr, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})
	}
	changed := cidr.DeepCopy()
	changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == Finalizer })
	_, err := client.Update(ctx, c.Client, changed)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// needed says whether an allocated address is in the ServiceCIDR and in no other range.
func (c Config) needed(v client.View, cidr *networkingv1.ServiceCIDR) (needed bool) {
	var others []netip.Prefix
	client.Each(v, "", func(other *networkingv1.ServiceCIDR) bool {
		if other.Name != cidr.Name && other.DeletionTimestamp == nil {
			others = append(others, prefixes(other)...)
		}
		return true
	})
	if cidr.Name != Default {
		others = append(others, c.Range.Masked())
	}
	own := prefixes(cidr)
	client.Each(v, "", func(a *networkingv1.IPAddress) bool {
		address, err := netip.ParseAddr(a.Name)
		if err != nil || a.Labels[networkingv1.LabelManagedBy] == "" {
			return true
		}
		in := func(list []netip.Prefix) bool {
			return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(address) })
		}
		needed = in(own) && !in(others)
		return !needed
	})
	return needed
}

func prefixes(cidr *networkingv1.ServiceCIDR) (out []netip.Prefix) {
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// declare sets a condition of a ServiceCIDR, if it is not so yet.
func (c Config) declare(ctx context.Context, cidr *networkingv1.ServiceCIDR, condition metav1.Condition) error {
	if have := apimeta.FindStatusCondition(cidr.Status.Conditions, condition.Type); have != nil &&
		have.Status == condition.Status && have.Reason == condition.Reason && have.Message == condition.Message {
		return nil
	}
	changed := cidr.DeepCopy()
	apimeta.SetStatusCondition(&changed.Status.Conditions, condition)
	_, err := client.UpdateStatus(ctx, c.Client, changed)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
