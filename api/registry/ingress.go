package registry

import (
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
)

const networkingGroup = "networking.k8s.io"

func ingresses() *Resource {
	return follow(&Resource{
		Group: networkingGroup, Kind: "Ingress", Resource: "ingresses", ShortNames: []string{"ing"},
	}, ingress.Strategy, ingress.StatusStrategy)
}

func ingressClasses() *Resource {
	return follow(&Resource{Group: networkingGroup, Kind: "IngressClass", Resource: "ingressclasses"}, ingressclass.Strategy, nil)
}

func networkPolicies() *Resource {
	return follow(&Resource{
		Group: networkingGroup, Kind: "NetworkPolicy", Resource: "networkpolicies", ShortNames: []string{"netpol"},
	}, networkpolicy.Strategy, nil)
}

func ipAddresses() *Resource {
	return follow(&Resource{
		Group: networkingGroup, Kind: "IPAddress", Resource: "ipaddresses", ShortNames: []string{"ip"},
	}, ipaddress.Strategy, nil)
}

func serviceCIDRs() *Resource {
	return follow(&Resource{Group: networkingGroup, Kind: "ServiceCIDR", Resource: "servicecidrs"}, servicecidr.Strategy, servicecidr.StatusStrategy)
}
