package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"
	"sigs.k8s.io/yaml"
)

// Limited is a resource that may be consumed only where a quota covers it.
type Limited struct {
	APIGroup string `json:"apiGroup,omitempty"`
	Resource string `json:"resource"`
	// MatchContains are parts of the names of what is limited, such as requests.storage.
	MatchContains []string `json:"matchContains,omitempty"`
	// MatchScopes are the scopes of objects that a quota must cover.
	MatchScopes []corev1.ScopedResourceSelectorRequirement `json:"matchScopes,omitempty"`
}

// configuration is upstream's ResourceQuotaConfiguration.
type configuration struct {
	metav1.TypeMeta  `json:",inline"`
	LimitedResources []Limited `json:"limitedResources"`
}

// configurationKinds are the types under which upstream reads the configuration.
var configurationKinds = []schema.GroupVersionKind{
	{Group: "apiserver.config.k8s.io", Version: "v1", Kind: "ResourceQuotaConfiguration"},
	{Group: "resourcequota.admission.k8s.io", Version: "v1beta1", Kind: "Configuration"},
	{Group: "resourcequota.admission.k8s.io", Version: "v1alpha1", Kind: "Configuration"},
}

// ParseConfiguration reads the configuration of the admission plugin ResourceQuota; none limits nothing.
func ParseConfiguration(data []byte) ([]Limited, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var c configuration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("ResourceQuota: %w", err)
	}
	if !slices.Contains(configurationKinds, schema.FromAPIVersionAndKind(c.APIVersion, c.Kind)) {
		return nil, fmt.Errorf("ResourceQuota: %s %s is not a %s of %s", c.APIVersion, c.Kind, configurationKinds[0].Kind, configurationKinds[0].GroupVersion())
	}
	for i, l := range c.LimitedResources {
		if l.Resource == "" {
			return nil, fmt.Errorf("ResourceQuota: limitedResources[%d].resource: Required value", i)
		}
		for j, s := range l.MatchScopes {
			if _, err := helper.ScopedResourceSelectorRequirementsAsSelector(s); s.Operator != corev1.ScopeSelectorOpExists && err != nil {
				return nil, fmt.Errorf("ResourceQuota: limitedResources[%d].matchScopes[%d]: %w", i, j, err)
			}
		}
	}
	return c.LimitedResources, nil
}

// limitedOf returns the configuration for a resource.
func limitedOf(all []Limited, r schema.GroupResource) (out []Limited) {
	for _, l := range all {
		if l.APIGroup == r.Group && l.Resource == r.Resource {
			out = append(out, l)
		}
	}
	return out
}

// selectorsOf returns the scopes of a quota.
func selectorsOf(q *corev1.ResourceQuota) []corev1.ScopedResourceSelectorRequirement {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, scope := range q.Spec.Scopes {
		out = append(out, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		out = append(out, q.Spec.ScopeSelector.MatchExpressions...)
	}
	return out
}

// coverage collects what the quotas of a namespace cover of an object.
type coverage struct {
	names  map[corev1.ResourceName]bool
	scopes map[corev1.ResourceQuotaScope]bool
}

func (w *write) cover(c *coverage, q *corev1.ResourceQuota) {
	for _, s := range selectorsOf(q) {
		if w.scope != nil && w.scope(w.Object, s) {
			c.scopes[s.ScopeName] = true
		}
	}
	if w.tracks(q, w.Object) {
		for name := range q.Spec.Hard {
			if w.matches(name) {
				c.names[name] = true
			}
		}
	}
}

// uncovered returns the error for a write that consumes more of what is limited than quotas cover; nil if there is none.
func (w *write) uncovered(limited []Limited, c *coverage) error {
	consumes := false
	for name, n := range w.after {
		consumes = consumes || n > w.before[name]
	}
	if !consumes {
		return nil
	}
	var names []string
	var scopes []corev1.ScopedResourceSelectorRequirement
	for _, l := range limited {
		for name := range w.after {
			if !c.names[name] && slices.ContainsFunc(l.MatchContains, func(part string) bool { return strings.Contains(string(name), part) }) {
				names = append(names, string(name))
			}
		}
		for _, s := range l.MatchScopes {
			if w.scope != nil && w.scope(w.Object, s) && !c.scopes[s.ScopeName] {
				scopes = append(scopes, s)
			}
		}
	}
	switch {
	case len(names) > 0:
		slices.Sort(names)
		return w.Forbid("insufficient quota to consume: %s", strings.Join(slices.Compact(names), ","))
	case len(scopes) > 0:
		return w.Forbid("insufficient quota to match these scopes: %v", scopes)
	}
	return nil
}
