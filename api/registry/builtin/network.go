package builtin

//lint:file-ignore SA1019 Endpoints are deprecated and served

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	serviceutil "k8s.io/kubernetes/pkg/api/service"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/discovery"
	discoveryvalidation "k8s.io/kubernetes/pkg/apis/discovery/validation"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"

	"github.com/kontiki/kontiki/api/registry"
)

func services() *registry.Resource {
	return &registry.Resource{
		Kind: "Service", Resource: "services", ShortNames: []string{"svc"},
		ReturnDeleted: true,
		Categories:    []string{"all"}, Namespaced: true,
		PrepareCreate: preparer(func(s *core.Service) {
			s.Status = core.ServiceStatus{}
			if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
				s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
			}
		}),
		Validate:   checker(validation.ValidateServiceCreate),
		WarnCreate: warner(func(_ context.Context, s *core.Service) []string { return serviceutil.GetWarningsForService(s, nil) }),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(s, old *core.Service) {
				s.Status = old.Status
				alignClusterIPs(s, old)
				keepAllocations(s, old)
				dropTypeDependent(s, old)
			}),
			ValidateUpdate: changer(validation.ValidateServiceUpdate),
			WarnUpdate: changeWarner(func(_ context.Context, s, old *core.Service) []string {
				return serviceutil.GetWarningsForService(s, old)
			}),
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate:  updater(func(s, old *core.Service) { s.Spec = old.Spec }),
			ValidateUpdate: changer(validation.ValidateServiceStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		Fields: func(obj registry.Object) fields.Set {
			s := obj.(*corev1.Service)
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		FieldNames: []string{"spec.clusterIP", "spec.type"},
	}
}

func needsClusterIP(s *core.Service) bool { return s.Spec.Type != core.ServiceTypeExternalName }

func needsNodePort(s *core.Service) bool {
	return s.Spec.Type == core.ServiceTypeNodePort || (s.Spec.Type == core.ServiceTypeLoadBalancer &&
		(s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts))
}

// onNodePorts says whether a service of this type may have node ports, including those that only its user chooses.
func onNodePorts(s *core.Service) bool {
	return s.Spec.Type == core.ServiceTypeNodePort || s.Spec.Type == core.ServiceTypeLoadBalancer
}

// alignClusterIPs copies a change of clusterIP, made by a client that knows only that field, to clusterIPs (upstream's
// normalizeClusterIPs).
func alignClusterIPs(s, old *core.Service) {
	if s.Spec.ClusterIP == old.Spec.ClusterIP || !slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP != old.Spec.ClusterIP {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return
	}
	s.Spec.ClusterIPs = nil
	if s.Spec.ClusterIP != "" {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

// keepAllocations restores allocated values that an update omits, as upstream's patchAllocatedValues and defaultOnRead do, so that
// `kubectl replace` with a manifest works.
func keepAllocations(s, old *core.Service) {
	if needsClusterIP(old) && needsClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = old.Spec.IPFamilies
		}
		if s.Spec.IPFamilyPolicy == nil {
			s.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		}
	}
	if needsNodePort(old) && needsNodePort(s) {
		// Matched by the port's name, as upstream: its other fields may have changed.
		allocated, used := map[string]int32{}, map[int32]bool{}
		for _, p := range old.Spec.Ports {
			allocated[p.Name] = p.NodePort
		}
		for _, p := range s.Spec.Ports {
			used[p.NodePort] = true
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if n := allocated[p.Name]; p.NodePort == 0 && n != 0 && !used[n] {
				p.NodePort = n
				used[n] = true
			}
		}
	}
	if serviceutil.NeedsHealthCheck(old) && serviceutil.NeedsHealthCheck(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// dropTypeDependent clears fields that the new type does not use, unless the caller changed them too (then validation refuses
// them).
func dropTypeDependent(s, old *core.Service) {
	if needsClusterIP(old) && !needsClusterIP(s) {
		if s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		}
		if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = nil
		}
		if apiequality.Semantic.DeepEqual(s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
			s.Spec.IPFamilyPolicy = nil
		}
	}
	if onNodePorts(old) && !onNodePorts(s) && sameNodePorts(s, old) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if serviceutil.NeedsHealthCheck(old) && !serviceutil.NeedsHealthCheck(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	if old.Spec.Type == core.ServiceTypeLoadBalancer && s.Spec.Type != core.ServiceTypeLoadBalancer {
		if apiequality.Semantic.DeepEqual(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
			s.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if apiequality.Semantic.DeepEqual(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
			s.Spec.LoadBalancerClass = nil
		}
	}
	if serviceutil.ExternallyAccessible(old) && !serviceutil.ExternallyAccessible(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	if s.Spec.Type != core.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = core.LoadBalancerStatus{}
	}
}

func sameNodePorts(s, old *core.Service) bool {
	have := map[int32]bool{}
	for _, p := range old.Spec.Ports {
		have[p.NodePort] = true
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 && !have[p.NodePort] {
			return false
		}
	}
	return true
}

func endpoints() *registry.Resource {
	return &registry.Resource{
		Kind: "Endpoints", Resource: "endpoints", ShortNames: []string{"ep"}, Namespaced: true, KeepDeleted: ownEndpoints,
		Validate:   checker(validation.ValidateEndpointsCreate),
		WarnCreate: warner(func(_ context.Context, e *core.Endpoints) []string { return endpointsWarnings(e) }),
		Strategy: registry.Strategy{
			ValidateUpdate: changer(validation.ValidateEndpointsUpdate),
			WarnUpdate:     changeWarner(func(_ context.Context, e, _ *core.Endpoints) []string { return endpointsWarnings(e) }),
		},
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

func endpointSlices() *registry.Resource {
	return &registry.Resource{
		Group: "discovery.k8s.io", Kind: "EndpointSlice", Resource: "endpointslices", Namespaced: true, KeepDeleted: ownEndpoints,
		PrepareCreate: preparer(func(s *discovery.EndpointSlice) {
			s.Generation = 1
			for i := range s.Endpoints {
				s.Endpoints[i].DeprecatedTopology = nil
			}
		}),
		Validate:   checker(discoveryvalidation.ValidateEndpointSliceCreate),
		WarnCreate: warner(func(_ context.Context, s *discovery.EndpointSlice) []string { return sliceWarnings(s, true) }),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(s, old *discovery.EndpointSlice) {
				newMeta, oldMeta := s.ObjectMeta, old.ObjectMeta
				s.ObjectMeta, old.ObjectMeta = metav1.ObjectMeta{}, metav1.ObjectMeta{}
				if !apiequality.Semantic.DeepEqual(s, old) || !apiequality.Semantic.DeepEqual(newMeta.Labels, oldMeta.Labels) {
					newMeta.Generation = oldMeta.Generation + 1
				}
				s.ObjectMeta, old.ObjectMeta = newMeta, oldMeta
			}),
			ValidateUpdate: changer(discoveryvalidation.ValidateEndpointSliceUpdate),
			WarnUpdate:     changeWarner(func(_ context.Context, s, _ *discovery.EndpointSlice) []string { return sliceWarnings(s, false) }),
		},
		AllowUnconditionalUpdate: true,
	}
}

func leases() *registry.Resource {
	return follow(&registry.Resource{Group: "coordination.k8s.io", Kind: "Lease", Resource: "leases", KeepDeleted: never}, lease.Strategy, nil)
}
