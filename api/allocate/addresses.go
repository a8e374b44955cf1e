package allocate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// ManagedBy is the value of the managed-by label of IPAddresses that are allocated to services.
const ManagedBy = "ipallocator.k8s.io"

// The allocation of a cluster address is its IPAddress object (KEP-1880): it is put with the service that has the address, if no such
// object exists, and deleted with it.

// IPAddress returns the IPAddress of a service's address.
func IPAddress(service *corev1.Service, address string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: address, UID: types.UID(uuid.NewString()), CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)), Generation: 1,
			Labels: map[string]string{networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol), networkingv1.LabelManagedBy: ManagedBy},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: service.Namespace, Name: service.Name}},
	}
}

// IPAddresses guards the IPAddresses of services: their deletion alone is refused, as others could get the address then.
type IPAddresses struct{ Catalog *registry.Catalog }

// Allocate implements objects.Allocator.
func (a *IPAddresses) Allocate(view kv.View, obj, old registry.Object, _ bool) ([]kv.Op, error) {
	if obj != nil || old == nil {
		return nil, nil
	}
	address := old.(*networkingv1.IPAddress)
	ref := address.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != "services" {
		return nil, nil
	}
	kind, _ := a.Catalog.Table().ByGroupResource("", "services")
	v, ok := view.Get(kind.Key(ref.Namespace, ref.Name))
	if !ok {
		return nil, nil
	}
	service, err := kind.Load(v.Value)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("decode %s: %w", v.Key, err))
	}
	if slices.Contains(service.(*corev1.Service).Spec.ClusterIPs, address.Name) {
		return nil, apierrors.NewForbidden(networkingv1.Resource("ipaddresses"), address.Name, fmt.Errorf(
			"it is the address of the service %s/%s; delete the service instead", ref.Namespace, ref.Name))
	}
	return nil, nil
}

// addressKey returns the key of the IPAddress of an address.
func (s *Services) addressKey(address string) string { return s.addresses().Key("", address) }

func (s *Services) addresses() *registry.Kind {
	kind, _ := s.Catalog.Table().ByGroupResource(networkingv1.GroupName, "ipaddresses")
	return kind
}

// ranges returns the ranges from which addresses are allocated: the configured one, and those of ServiceCIDRs that are ready.
func (s *Services) ranges(view kv.View) (out []netip.Prefix, err error) {
	out = append(out, s.Range.Masked())
	kind, _ := s.Catalog.Table().ByGroupResource(networkingv1.GroupName, "servicecidrs")
	prefix := kind.Prefix()
	view.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		var obj registry.Object
		if obj, err = kind.Load(v.Value); err != nil {
			err = apierrors.NewInternalError(fmt.Errorf("decode %s: %w", v.Key, err))
			return false
		}
		cidr := obj.(*networkingv1.ServiceCIDR)
		if cidr.DeletionTimestamp != nil || !meta.IsStatusConditionTrue(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			return true
		}
		for _, text := range cidr.Spec.CIDRs {
			if p, parsed := netip.ParsePrefix(text); parsed == nil && p.Addr().Is4() && !slices.Contains(out, p.Masked()) {
				out = append(out, p.Masked())
			}
		}
		return true
	})
	return out, err
}

// freeAddress chooses a free address at random, from the first range that has one. The first address of a range is not used: that of
// the configured one is the API's own (default/kubernetes). The lower part of a range is left for addresses that users choose, as long
// as others are free (KEP-3070).
func (s *Services) freeAddress(view kv.View) (string, error) {
	ranges, err := s.ranges(view)
	if err != nil {
		return "", err
	}
	for _, r := range ranges {
		size := uint64(1) << (32 - r.Bits())
		reserved := min(max(size/16, 16), 256)
		if size <= 2*reserved {
			reserved = 1
		}
		upper := size - 1 - reserved - 1 // excludes the broadcast address
		if address, ok := s.draw(view, r, reserved+1, upper); ok {
			return address, nil
		}
		if address, ok := s.draw(view, r, 2, reserved-1); ok {
			return address, nil
		}
	}
	return "", apierrors.NewInternalError(errors.New("failed to allocate a serviceIP: range is full"))
}

// draw tries count addresses of a range, beginning at the offset first, starting at a random one of them.
func (s *Services) draw(view kv.View, r netip.Prefix, first, count uint64) (string, bool) {
	if count == 0 || count > 1<<32 {
		return "", false
	}
	begin := rand.Uint64N(count)
	for i := range count {
		address := offset(r.Addr(), first+(begin+i)%count).String()
		if _, taken := view.Get(s.addressKey(address)); !taken {
			return address, true
		}
	}
	return "", false
}

func offset(base netip.Addr, n uint64) netip.Addr {
	b := base.As4()
	v := (uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])) + n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// First returns the first address of the configured range, which the service default/kubernetes has.
func (s *Services) First() netip.Addr { return offset(s.Range.Masked().Addr(), 1) }
