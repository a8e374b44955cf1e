package aggregation

import (
	"fmt"
	"slices"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Changed returns a channel that is closed when what is served, or known of it, changes after this call.
func (s *Services) Changed() <-chan struct{} { return s.changed.Next() }

// Namespaced returns the resources of extension API servers whose objects are in namespaces and can be listed and deleted, each in the version of
// the highest priority that has it, and the group versions of which that is not known, with the reason. It follows the store before.
//
// A server that is not available is not in the way if what it served last has no such resource, such as metrics.
func (s *Services) Namespaced() (resources []metav1.APIResource, unknown map[schema.GroupVersion]error) {
	s.sync(s.c.Store.View())
	return s.namespacedNow()
}

func (s *Services) namespacedNow() (resources []metav1.APIResource, unknown map[schema.GroupVersion]error) {
	unknown = map[schema.GroupVersion]error{}
	known := map[schema.GroupResource]bool{}
	for _, service := range s.Now().Services {
		found := service.namespaced()
		if !(service.Available && service.Fresh) && (len(found) > 0 || service.Resources == nil) {
			gv := schema.GroupVersion{Group: service.Group, Version: service.Version}
			unknown[gv] = fmt.Errorf("stale GroupVersion discovery: %v", gv) // upstream's text
			continue
		}
		for _, r := range found {
			if of := (schema.GroupResource{Group: r.Group, Resource: r.Name}); !known[of] {
				known[of] = true
				resources = append(resources, r)
			}
		}
	}
	return resources, unknown
}

// namespaced returns the resources of a service that were found last, as far as their objects are in namespaces and can be listed and deleted.
func (s *Service) namespaced() (found []metav1.APIResource) {
	for _, r := range s.Resources {
		if r.Scope == apidiscoveryv2.ScopeNamespace && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "delete") {
			found = append(found, metav1.APIResource{Group: s.Group, Version: s.Version, Name: r.Resource, Namespaced: true, Verbs: r.Verbs})
		}
	}
	return found
}
