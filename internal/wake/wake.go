// Package wake reads the annotation by which a Service asks that a connection to it wakes its workload from zero replicas
// (docs/autoscaling.md). Masters check it when it is written and again when a worker reports a connection; workers hold connections by it.
package wake

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Annotation of a Service names the workload that a connection wakes, in the Service's namespace, as KIND/NAME.
const Annotation = "kontiki.io/wake"

// Target is a workload to wake.
type Target struct {
	Kind schema.GroupKind
	// Resource is the plural name of the kind.
	Resource string
	Name     string
}

// String returns KIND/NAME.
func (t Target) String() string { return t.Kind.Kind + "/" + t.Name }

var kinds = []Target{
	{Kind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Resource: "deployments"},
	{Kind: schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, Resource: "statefulsets"},
	{Kind: schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}, Resource: "replicasets"},
	{Kind: schema.GroupKind{Kind: "ReplicationController"}, Resource: "replicationcontrollers"},
}

// Of returns the workload that connections to a service wake; ok is false if they wake none. The error says what is wrong with the
// annotation, or why connections to such a service cannot be held.
func Of(s *corev1.Service) (target Target, ok bool, err error) {
	value, ok := s.Annotations[Annotation]
	if !ok {
		return Target{}, false, nil
	}
	if target, err = parse(value); err != nil {
		return Target{}, false, err
	}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return Target{}, false, fmt.Errorf("%s: a Service of type ExternalName has no address at which a connection can wait", Annotation)
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		return Target{}, false, fmt.Errorf("%s: a headless Service has no address at which a connection can wait: give it a cluster IP", Annotation)
	}
	for _, p := range s.Spec.Ports {
		if p.Protocol == corev1.ProtocolTCP || p.Protocol == "" {
			return target, true, nil
		}
	}
	return Target{}, false, fmt.Errorf("%s: only TCP connections wake a workload, and the Service has no TCP port", Annotation)
}

func parse(value string) (Target, error) {
	kind, name, found := strings.Cut(value, "/")
	for _, k := range kinds {
		if !found || !strings.EqualFold(kind, k.Kind.Kind) {
			continue
		}
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			return Target{}, fmt.Errorf("%s: the name in %.80q is invalid: %s", Annotation, value, strings.Join(problems, "; "))
		}
		k.Name = name
		return k, nil
	}
	return Target{}, fmt.Errorf("%s: want KIND/NAME with the kind Deployment, StatefulSet, ReplicaSet or ReplicationController, not %.80q", Annotation, value)
}
