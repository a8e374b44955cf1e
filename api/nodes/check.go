package nodes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kontiki/kontiki/api/registry"
)

// Limits for what a worker sends, checked before it is decoded. Validation, which runs when objects are stored, hardly limits
// number and size; and what is stored is kept in every master's memory and sent to every watcher.
const (
	maxNodeBytes  = 256 << 10
	maxPodBytes   = 512 << 10
	maxEventBytes = 32 << 10
	// Decoded, an object may take this many times its limit in bytes.
	decodedFactor = 4
	// Limits for a node's lists. Kubelets report 50 images.
	maxAddresses  = 64
	maxConditions = 64
	maxImages     = 500
	maxResources  = 256
	maxLabels     = 256
	// Limits for the events that a worker may report: a burst, and a number per second after that, ten times those of a kubelet's
	// own limits. Further events are dropped, as kubelets drop theirs.
	eventBurst, eventsPerSecond = 1000, 50
)

// decode decodes an object that a worker sent, if it is not larger than a limit in bytes.
func decode[T runtime.Object](data []byte, limit int, into T, kind string) (T, error) {
	if len(data) > limit {
		return into, fmt.Errorf("a %s of %d bytes was reported, the limit is %d", kind, len(data), limit)
	}
	if err := checkWire(data, into, decodedFactor*limit); err != nil {
		return into, err
	}
	if err := registry.CheckQuantities(data, into); err != nil {
		return into, err
	}
	gvk := schema.GroupVersionKind{Version: "v1", Kind: kind}
	_, actual, err := encoder.Decode(data, &gvk, into)
	if err == nil && *actual != gvk {
		err = fmt.Errorf("it is a %s", actual.Kind)
	}
	return into, err
}

// decodeNode decodes a node's report, and returns an error if it contains what no correct worker would send.
func decodeNode(data []byte) (*corev1.Node, error) {
	node, err := decode(data, maxNodeBytes, &corev1.Node{}, "Node")
	if err != nil {
		return nil, err
	}
	s := &node.Status
	for _, list := range []struct {
		name       string
		have, most int
	}{
		{"status.addresses", len(s.Addresses), maxAddresses}, {"status.conditions", len(s.Conditions), maxConditions},
		{"status.images", len(s.Images), maxImages}, {"status.capacity", len(s.Capacity), maxResources},
		{"status.allocatable", len(s.Allocatable), maxResources}, {"metadata.labels", len(node.Labels), maxLabels},
	} {
		if list.have > list.most {
			return nil, fmt.Errorf("%s has %d entries, the limit is %d", list.name, list.have, list.most)
		}
	}
	for i, address := range s.Addresses {
		if err := checkAddress(address); err != nil {
			return nil, fmt.Errorf("status.addresses[%d]: %w", i, err)
		}
	}
	var seen []corev1.NodeConditionType
	for i, condition := range s.Conditions {
		if problems := validation.IsQualifiedName(string(condition.Type)); len(problems) > 0 {
			return nil, fmt.Errorf("status.conditions[%d].type: %q: %s", i, condition.Type, strings.Join(problems, ", "))
		}
		switch condition.Status {
		case corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown:
		default:
			return nil, fmt.Errorf("status.conditions[%d].status: %q is not one of True, False, Unknown", i, condition.Status)
		}
		if slices.Contains(seen, condition.Type) {
			return nil, fmt.Errorf("status.conditions[%d].type: %q is duplicate", i, condition.Type)
		}
		seen = append(seen, condition.Type)
	}
	if port := s.DaemonEndpoints.KubeletEndpoint.Port; port < 0 || port > 65535 {
		return nil, fmt.Errorf("status.daemonEndpoints.kubeletEndpoint.port: %d is not a port", port)
	}
	return node, nil
}

// checkAddress refuses addresses that masters and other nodes could not use: they dial it and route to it.
func checkAddress(a corev1.NodeAddress) error {
	switch a.Type {
	case corev1.NodeInternalIP, corev1.NodeExternalIP:
		ip, err := netip.ParseAddr(a.Address)
		if err != nil || ip.Zone() != "" {
			return fmt.Errorf("%q is not an IP address", a.Address)
		}
		if ip = ip.Unmap(); !reachable(ip) {
			return fmt.Errorf("other hosts cannot reach this one at %s", ip)
		}
	case corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS:
		if problems := validation.IsDNS1123Subdomain(strings.ToLower(strings.TrimSuffix(a.Address, "."))); len(problems) > 0 {
			return fmt.Errorf("%q is not a host name: %s", a.Address, strings.Join(problems, ", "))
		}
	default:
		return fmt.Errorf("type %q is not known", a.Type)
	}
	return nil
}

// reachable says whether other hosts may reach an address: it is not a loopback, link-local, multicast or unspecified one.
func reachable(ip netip.Addr) bool {
	return !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsMulticast()
}

// decodePod decodes a pod's report.
func decodePod(data []byte) (*corev1.Pod, error) {
	pod, err := decode(data, maxPodBytes, &corev1.Pod{}, "Pod")
	if err != nil {
		return nil, err
	}
	switch pod.Status.Phase {
	case corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown, "":
	default:
		return nil, fmt.Errorf("status.phase: %q is not known", pod.Status.Phase)
	}
	if n := len(pod.Status.Conditions); n > maxConditions {
		return nil, fmt.Errorf("status.conditions has %d entries, the limit is %d", n, maxConditions)
	}
	return pod, nil
}

// checkContainerStatuses refuses statuses of containers that the pod does not have, and duplicates. Readers look up statuses by
// name, and might take either for one of the pod's.
func checkContainerStatuses(pod *corev1.Pod, status *corev1.PodStatus) error {
	check := func(list string, statuses []corev1.ContainerStatus, names []string) error {
		for i, s := range statuses {
			at := slices.Index(names, s.Name)
			if at < 0 {
				return fmt.Errorf("status.%s[%d].name: the pod has no such container %q, or it is duplicate", list, i, s.Name)
			}
			names[at] = ""
		}
		return nil
	}
	namesOf := func(containers []corev1.Container) (out []string) {
		for _, c := range containers {
			out = append(out, c.Name)
		}
		return out
	}
	var ephemeral []string
	for _, c := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, c.Name)
	}
	if err := check("initContainerStatuses", status.InitContainerStatuses, namesOf(pod.Spec.InitContainers)); err != nil {
		return err
	}
	if err := check("containerStatuses", status.ContainerStatuses, namesOf(pod.Spec.Containers)); err != nil {
		return err
	}
	return check("ephemeralContainerStatuses", status.EphemeralContainerStatuses, ephemeral)
}

// affordable are as many of the events as the worker may report now.
func (s *session) affordable(events [][]byte) [][]byte {
	for i := range events {
		if !s.events.Allow() {
			s.log.Warn("events of a worker were dropped: it reports too many", "dropped", len(events)-i)
			return events[:i]
		}
	}
	return events
}

// checkPodAddresses refuses new addresses of a pod at which no other host can reach it. They need not be in the node's pod range: pods go on
// while that changes, as after a restore into a new cluster.
func checkPodAddresses(pod *corev1.Pod, reported *corev1.PodStatus) error {
	addresses := []string{reported.PodIP}
	for _, ip := range reported.PodIPs {
		addresses = append(addresses, ip.IP)
	}
	for _, address := range addresses {
		if address == "" || address == pod.Status.PodIP || slices.Contains(pod.Status.PodIPs, corev1.PodIP{IP: address}) {
			continue
		}
		ip, err := netip.ParseAddr(address)
		if err != nil || ip.Zone() != "" || !reachable(ip.Unmap()) {
			return fmt.Errorf("status.podIP: %q is not an address at which a pod can be reached", address)
		}
	}
	return nil
}
