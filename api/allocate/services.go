// Package allocate allocates what objects need from shared pools: cluster addresses and node ports for services, pod ranges for
// nodes.
//
// An allocation is a key of the store, put with the precondition "absent" in the same command as the object that holds it, and
// deleted with it. So two masters can never allocate the same value, a crash leaks nothing, and no repair loop is needed (upstream
// keeps bitmaps beside the objects and repairs them every few minutes).
package allocate

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

const nodePortPrefix = "/allocated/nodeports/"

// The range of node ports.
const (
	FirstNodePort = 30000
	LastNodePort  = 32767
)

// Services allocates cluster addresses and node ports.
type Services struct {
	// Range is the configured range of addresses; ServiceCIDRs add others.
	Range   netip.Prefix
	Catalog *registry.Catalog
}

// need is one key that a service holds, and the field that it is allocated for.
type need struct {
	key   string
	field *field.Path
	value string
}

// Allocate implements objects.Allocator.
func (s *Services) Allocate(view kv.View, obj, old registry.Object, dryRun bool) ([]kv.Op, error) {
	var held []need
	if old != nil {
		held = s.holds(old.(*corev1.Service))
	}
	if obj == nil {
		return release(held, nil), nil
	}
	service := obj.(*corev1.Service)
	if err := s.fill(view, service, held); err != nil {
		return nil, err
	}
	wanted := s.holds(service)
	ops := release(held, wanted)
	owner := []byte(service.Namespace + "/" + service.Name)
	for _, n := range wanted {
		if contains(held, n.key) {
			continue
		}
		if _, taken := view.Get(n.key); taken {
			if n.field.String() == "spec.clusterIPs[0]" {
				return nil, invalid(service, field.Invalid(n.field, n.value, fmt.Sprintf("failed to allocate IP %v: provided IP is already allocated", n.value)))
			}
			return nil, invalid(service, field.Invalid(n.field, n.value, "provided port is already allocated"))
		}
		value := owner
		if strings.HasPrefix(n.key, s.addresses().Prefix()) {
			var err error
			if value, err = s.addresses().Store(IPAddress(service, n.value)); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
		}
		ops = append(ops, kv.Op{Key: n.key, Value: value, Cond: kv.Absent})
	}
	return ops, nil
}

// Fill implements objects.Filler: validation requires the port for health checks.
func (s *Services) Fill(view kv.View, obj, _ registry.Object) error {
	service := obj.(*corev1.Service)
	spec := &service.Spec
	if needsHealthCheckPort(spec) && spec.HealthCheckNodePort == 0 {
		n, err := freePort(view, usedPorts(spec))
		if err != nil {
			return err
		}
		spec.HealthCheckNodePort = n
	}
	return nil
}

func needsHealthCheckPort(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// usedPorts returns the node ports in a service's spec.
func usedPorts(spec *corev1.ServiceSpec) map[int32]bool {
	used := map[int32]bool{spec.HealthCheckNodePort: true}
	for _, p := range spec.Ports {
		used[p.NodePort] = true
	}
	return used
}

func contains(list []need, key string) bool {
	return slices.ContainsFunc(list, func(n need) bool { return n.key == key })
}

func release(held, wanted []need) []kv.Op {
	var ops []kv.Op
	for _, n := range held {
		if !contains(wanted, n.key) {
			ops = append(ops, kv.Op{Key: n.key, Delete: true})
		}
	}
	return ops
}

// holds returns the keys for the values of a service's fields, each once.
func (s *Services) holds(service *corev1.Service) []need {
	var out []need
	if service.Spec.Type != corev1.ServiceTypeExternalName && service.Spec.ClusterIP != "" && service.Spec.ClusterIP != corev1.ClusterIPNone {
		out = append(out, need{s.addressKey(service.Spec.ClusterIP), field.NewPath("spec", "clusterIPs").Index(0), service.Spec.ClusterIP})
	}
	port := func(n int32, path *field.Path) {
		key := fmt.Sprintf("%s%d", nodePortPrefix, n)
		if n != 0 && !contains(out, key) { // TCP and UDP of one service may share a port
			out = append(out, need{key, path, fmt.Sprint(n)})
		}
	}
	for i, p := range service.Spec.Ports {
		port(p.NodePort, field.NewPath("spec", "ports").Index(i).Child("nodePort"))
	}
	port(service.Spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
	return out
}

// fill chooses the values that the service needs and does not have.
func (s *Services) fill(view kv.View, service *corev1.Service, held []need) error {
	spec := &service.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if err := fillFamilies(service); err != nil {
		return err
	}
	switch {
	case spec.ClusterIP == corev1.ClusterIPNone:
	case spec.ClusterIP == "":
		address, err := s.freeAddress(view)
		if err != nil {
			return err
		}
		spec.ClusterIP = address
	case contains(held, s.addressKey(spec.ClusterIP)): // its range may be gone
	default:
		ranges, err := s.ranges(view)
		if err != nil {
			return err
		}
		address, err := netip.ParseAddr(spec.ClusterIP)
		if err != nil || !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(address) }) {
			return invalid(service, field.Invalid(field.NewPath("spec", "clusterIPs").Index(0), spec.ClusterIP, fmt.Sprintf(
				"failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", spec.ClusterIP, spec.ClusterIP, s.Range)))
		}
	}
	spec.ClusterIPs = []string{spec.ClusterIP}
	return fillPorts(view, service, held)
}

// fillFamilies chooses the IP families of a service in an IPv4-only cluster, as upstream's initIPFamilyFields does. A headless
// service without a selector gets manually created endpoints of any family, so it gets both unless it names them.
func fillFamilies(service *corev1.Service) error {
	spec := &service.Spec
	byHand := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if byHand {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	if byHand {
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
		}
		if len(spec.IPFamilies) == 1 && *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			other := corev1.IPv6Protocol
			if spec.IPFamilies[0] == other {
				other = corev1.IPv4Protocol
			}
			spec.IPFamilies = append(spec.IPFamilies, other)
		}
		return nil
	}
	var problems field.ErrorList
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		problems = append(problems, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), string(*spec.IPFamilyPolicy), "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol {
			problems = append(problems, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), string(family), "not configured on this cluster"))
		}
	}
	if len(problems) > 0 {
		return invalid(service, problems...)
	}
	spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	return nil
}

func fillPorts(view kv.View, service *corev1.Service, held []need) error {
	spec := &service.Spec
	wants := spec.Type == corev1.ServiceTypeNodePort || (spec.Type == corev1.ServiceTypeLoadBalancer &&
		(spec.AllocateLoadBalancerNodePorts == nil || *spec.AllocateLoadBalancerNodePorts))
	used := usedPorts(spec)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		if p.NodePort == 0 {
			if !wants {
				continue
			}
			n, err := freePort(view, used)
			if err != nil {
				return err
			}
			p.NodePort = n
			used[n] = true
		} else if !contains(held, fmt.Sprintf("%s%d", nodePortPrefix, p.NodePort)) && (p.NodePort < FirstNodePort || p.NodePort > LastNodePort) {
			return invalid(service, field.Invalid(path, p.NodePort, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", FirstNodePort, LastNodePort)))
		}
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	if p := spec.HealthCheckNodePort; p != 0 && slices.ContainsFunc(spec.Ports, func(port corev1.ServicePort) bool { return port.NodePort == p }) {
		return invalid(service, field.Invalid(path, p, "provided port is already allocated"))
	}
	if p := spec.HealthCheckNodePort; p != 0 && !contains(held, fmt.Sprintf("%s%d", nodePortPrefix, p)) && (p < FirstNodePort || p > LastNodePort) {
		return invalid(service, field.Invalid(path, p, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", FirstNodePort, LastNodePort)))
	}
	return nil
}

func freePort(view kv.View, used map[int32]bool) (int32, error) {
	const count = LastNodePort - FirstNodePort + 1
	begin := rand.Int32N(count)
	for i := range int32(count) {
		n := FirstNodePort + (begin+i)%count
		if _, taken := view.Get(fmt.Sprintf("%s%d", nodePortPrefix, n)); !taken && !used[n] {
			return n, nil
		}
	}
	return 0, apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: range is full"))
}

func invalid(s *corev1.Service, problems ...*field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, s.Name, problems)
}
