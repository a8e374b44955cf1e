package flow

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// matches says whether a FlowSchema matches a request: one of its rules has a subject and a resource rule (or non-resource rule)
// that match.
func matches(schema *flowcontrolv1.FlowSchema, r *Request) bool {
	for i := range schema.Spec.Rules {
		rule := &schema.Spec.Rules[i]
		if !matchesSubject(rule.Subjects, r.User) {
			continue
		}
		if r.Resource == "" {
			if slices.ContainsFunc(rule.NonResourceRules, r.matchesPath) {
				return true
			}
			continue
		}
		for j := range rule.ResourceRules {
			if r.matchesResource(&rule.ResourceRules[j]) {
				return true
			}
		}
	}
	return false
}

func matchesSubject(subjects []flowcontrolv1.Subject, who user.Info) bool {
	for i := range subjects {
		s := &subjects[i]
		switch {
		case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
			if s.User.Name == flowcontrolv1.NameAll || s.User.Name == who.GetName() {
				return true
			}
		case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
			if s.Group.Name == flowcontrolv1.NameAll || slices.Contains(who.GetGroups(), s.Group.Name) {
				return true
			}
		case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
			if s.ServiceAccount.Name == flowcontrolv1.NameAll {
				rest, ok := strings.CutPrefix(who.GetName(), serviceaccount.ServiceAccountUsernamePrefix)
				if ok {
					rest, ok = strings.CutPrefix(rest, s.ServiceAccount.Namespace)
				}
				if ok && strings.HasPrefix(rest, serviceaccount.ServiceAccountUsernameSeparator) {
					return true
				}
			} else if serviceaccount.MatchesUsername(s.ServiceAccount.Namespace, s.ServiceAccount.Name, who.GetName()) {
				return true
			}
		}
	}
	return false
}

func (r *Request) matchesResource(rule *flowcontrolv1.ResourcePolicyRule) bool {
	return contains(rule.Verbs, flowcontrolv1.VerbAll, r.Verb) && r.resourceIn(rule.Resources) &&
		contains(rule.APIGroups, flowcontrolv1.APIGroupAll, r.Group) &&
		(r.Namespace == "" && rule.ClusterScope || r.Namespace != "" && contains(rule.Namespaces, flowcontrolv1.NamespaceEvery, r.Namespace))
}

// resourceIn looks for the resource, as "resource/subresource" if it has one, without building that text.
func (r *Request) resourceIn(list []string) bool {
	if len(list) == 1 && list[0] == flowcontrolv1.ResourceAll {
		return true
	}
	for _, name := range list {
		rest, ok := strings.CutPrefix(name, r.Resource)
		if ok && (rest == "" && r.Subresource == "" || r.Subresource != "" && len(rest) == len(r.Subresource)+1 && rest[0] == '/' && rest[1:] == r.Subresource) {
			return true
		}
	}
	return false
}

func (r *Request) matchesPath(rule flowcontrolv1.NonResourcePolicyRule) bool {
	if !contains(rule.Verbs, flowcontrolv1.VerbAll, r.Verb) {
		return false
	}
	for _, url := range rule.NonResourceURLs {
		if url == flowcontrolv1.NonResourceAll || url == r.Path {
			return true
		}
		// Like upstream, a URL also matches everything below it, whether or not it ends in an asterisk.
		below := strings.TrimSuffix(strings.TrimSuffix(url, "*"), "/")
		if rest, ok := strings.CutPrefix(r.Path, below); ok && strings.HasPrefix(rest, "/") {
			return true
		}
	}
	return false
}

// contains says whether a list has a value, or is only the wildcard.
func contains(list []string, wildcard, value string) bool {
	return len(list) == 1 && list[0] == wildcard || slices.Contains(list, value)
}

// distinguisher returns what separates the flows of a schema.
func (r *Request) distinguisher(method *flowcontrolv1.FlowDistinguisherMethod) string {
	switch {
	case method == nil:
	case method.Type == flowcontrolv1.FlowDistinguisherMethodByUserType:
		return r.User.GetName()
	case method.Type == flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return r.Namespace
	}
	return ""
}
