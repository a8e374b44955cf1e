package builtin

//lint:file-ignore SA1019 the API warns of deprecated fields

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/discovery"
)

// generatedBy are the values of the managed-by label of controllers that write endpoints; their addresses need no check.
var generatedBy = []string{"endpoint-controller", "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"}

// podNameWarning returns a warning for kinds whose name becomes part of host names.
func podNameWarning(name, where string) []string {
	if problems := utilvalidation.IsDNS1123Label(name); len(problems) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", where, problems)}
	}
	return nil
}

const (
	inHostname  = "the Pod's hostname"
	inHostnames = "Pod names and hostnames"
)

// templateWarnings returns the warnings about a pod template at a path; old is nil for a new object.
func templateWarnings(ctx context.Context, path *field.Path, template, old *core.PodTemplateSpec) []string {
	return podutil.GetWarningsForPodTemplate(ctx, path, template, old)
}

func nodeWarnings(n *core.Node) []string {
	var out []string
	if n.Spec.ConfigSource != nil {
		out = append(out, "spec.configSource: the feature is removed")
	}
	if len(n.Spec.DoNotUseExternalID) > 0 {
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		out = append(out, utilvalidation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return out
}

func secretWarnings(s *core.Secret) []string {
	if s.Type != core.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[core.TLSCertKey], s.Data[core.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

func endpointsWarnings(e *core.Endpoints) []string {
	if slices.Contains(generatedBy, e.Labels["endpoints.kubernetes.io/managed-by"]) {
		return nil
	}
	var out []string
	for i, subset := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, address := range subset.Addresses {
			out = append(out, utilvalidation.GetWarningsForIP(path.Child("addresses").Index(j).Child("ip"), address.IP)...)
		}
		for j, address := range subset.NotReadyAddresses {
			out = append(out, utilvalidation.GetWarningsForIP(path.Child("notReadyAddresses").Index(j).Child("ip"), address.IP)...)
		}
	}
	return out
}

func sliceWarnings(s *discovery.EndpointSlice, created bool) []string {
	var out []string
	if created && s.AddressType == discovery.AddressTypeFQDN {
		out = append(out, fmt.Sprintf("%s: FQDN endpoints are deprecated", field.NewPath("spec").Child("addressType")))
	}
	if slices.Contains(generatedBy, s.Labels[discoveryv1.LabelManagedBy]) {
		return out
	}
	for i, endpoint := range s.Endpoints {
		for j, address := range endpoint.Addresses {
			out = append(out, utilvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), address)...)
		}
	}
	return out
}
