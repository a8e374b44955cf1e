package builtin

import (
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"

	"github.com/kontiki/kontiki/api/registry"
)

const networkingGroup = "networking.k8s.io"

func ingresses() *registry.Resource {
	return follow(&registry.Resource{
		Group: networkingGroup, Kind: "Ingress", Resource: "ingresses", ShortNames: []string{"ing"},
	}, ingress.Strategy, ingress.StatusStrategy)
}

func ingressClasses() *registry.Resource {
	return follow(&registry.Resource{Group: networkingGroup, Kind: "IngressClass", Resource: "ingressclasses"}, ingressclass.Strategy, nil)
}

func networkPolicies() *registry.Resource {
	return follow(&registry.Resource{
		Group: networkingGroup, Kind: "NetworkPolicy", Resource: "networkpolicies", ShortNames: []string{"netpol"},
	}, networkpolicy.Strategy, nil)
}

func ipAddresses() *registry.Resource {
	return follow(&registry.Resource{
		Group: networkingGroup, Kind: "IPAddress", Resource: "ipaddresses", ShortNames: []string{"ip"}, KeepDeleted: never,
	}, ipaddress.Strategy, nil)
}

func serviceCIDRs() *registry.Resource {
	return follow(&registry.Resource{Group: networkingGroup, Kind: "ServiceCIDR", Resource: "servicecidrs"}, servicecidr.Strategy, servicecidr.StatusStrategy)
}
