package cis

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// bootstrapped marks the roles and bindings that every cluster has.
const bootstrapped = "kubernetes.io/bootstrapping"

// right is something that a rule may allow.
type right struct {
	verbs           []string // one of which is enough
	group, resource string
}

// grant is a right that somebody has.
type grant struct {
	subject rbacv1.Subject
	text    string // who has it, by which binding and role
}

// rulesOf returns the rules of the role that a binding refers to.
func (f *Facts) rulesOf(namespace string, ref rbacv1.RoleRef) []rbacv1.PolicyRule {
	if ref.Kind == "Role" {
		for i := range f.roles {
			if f.roles[i].Namespace == namespace && f.roles[i].Name == ref.Name {
				return f.roles[i].Rules
			}
		}
		return nil
	}
	for i := range f.clusterRoles {
		if f.clusterRoles[i].Name == ref.Name {
			return f.clusterRoles[i].Rules
		}
	}
	return nil
}

// grants returns who has a right by bindings that somebody made: not those that every cluster has.
func (f *Facts) grants(r right) (out []grant) {
	bound := func(what, namespace string, labels map[string]string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		if labels[bootstrapped] != "" || !slices.ContainsFunc(f.rulesOf(namespace, ref), r.in) {
			return
		}
		for _, s := range subjects {
			out = append(out, grant{s, fmt.Sprintf("%s by %s (%s %s)", nameOf(s), what, strings.ToLower(ref.Kind), ref.Name)})
		}
	}
	for i := range f.wide {
		b := &f.wide[i]
		bound("cluster role binding "+b.Name, "", b.Labels, b.RoleRef, b.Subjects)
	}
	for i := range f.bindings {
		b := &f.bindings[i]
		bound("role binding "+b.Namespace+"/"+b.Name, b.Namespace, b.Labels, b.RoleRef, b.Subjects)
	}
	return out
}

// in says whether a rule allows the right.
func (r right) in(rule rbacv1.PolicyRule) bool {
	any := func(of []string, wanted ...string) bool {
		return slices.Contains(of, "*") || slices.ContainsFunc(wanted, func(w string) bool { return slices.Contains(of, w) })
	}
	resources := []string{r.resource}
	if _, sub, ok := strings.Cut(r.resource, "/"); ok {
		resources = append(resources, "*/"+sub)
	}
	return any(rule.Verbs, r.verbs...) && any(rule.APIGroups, r.group) && any(rule.Resources, resources...)
}

func nameOf(s rbacv1.Subject) string {
	if s.Kind == rbacv1.ServiceAccountKind {
		return fmt.Sprintf("service account %s/%s", s.Namespace, s.Name)
	}
	return strings.ToLower(s.Kind) + " " + s.Name
}

// everybody are the groups in which anybody may be.
func everybody(s rbacv1.Subject) bool {
	return s.Kind == rbacv1.GroupKind && (s.Name == "system:authenticated" || s.Name == "system:unauthenticated" || s.Name == "system:serviceaccounts" ||
		strings.HasPrefix(s.Name, "system:serviceaccounts:")) || s.Kind == rbacv1.UserKind && s.Name == "system:anonymous"
}

// few answers who has rights beside what every cluster grants: nobody passes, everybody fails, and somebody is for a person to decide.
func few(what string, rights ...right) func(*Facts) answer {
	return func(f *Facts) answer {
		var found, wide []string
		for _, r := range rights {
			for _, g := range f.grants(r) {
				found = append(found, g.text)
				if everybody(g.subject) {
					wide = append(wide, g.text)
				}
			}
		}
		slices.Sort(found)
		slices.Sort(wide)
		switch found, wide = slices.Compact(found), slices.Compact(wide); {
		case len(wide) > 0:
			return fails("everybody may "+what, wide...)
		case len(found) > 0:
			return manual("decide whether these need to "+what, found...)
		}
		return passes("nobody may " + what + ", but by the roles that every cluster has")
	}
}

// clusterAdmins answers who is bound to cluster-admin.
func clusterAdmins(f *Facts) answer {
	var found []string
	for i := range f.wide {
		if b := &f.wide[i]; b.RoleRef.Name == "cluster-admin" && b.Labels[bootstrapped] == "" {
			for _, s := range b.Subjects {
				found = append(found, fmt.Sprintf("%s by cluster role binding %s", nameOf(s), b.Name))
			}
		}
	}
	if len(found) > 0 {
		slices.Sort(found)
		return fails("bind these to a role with less, and delete the bindings", found...)
	}
	return passes("only the group system:masters, by the binding that every cluster has")
}

// wildcards answers which roles that somebody made use *.
func wildcards(f *Facts) answer {
	var found []string
	wild := func(rules []rbacv1.PolicyRule) bool {
		return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Verbs, "*") || slices.Contains(r.APIGroups, "*") || slices.Contains(r.Resources, "*")
		})
	}
	for i := range f.clusterRoles {
		if r := &f.clusterRoles[i]; r.Labels[bootstrapped] == "" && wild(r.Rules) {
			found = append(found, "cluster role "+r.Name)
		}
	}
	for i := range f.roles {
		if r := &f.roles[i]; r.Labels[bootstrapped] == "" && wild(r.Rules) {
			found = append(found, "role "+r.Namespace+"/"+r.Name)
		}
	}
	if len(found) > 0 {
		return fails("name what is meant in place of *", found...)
	}
	return passes("no role has *, but those that every cluster has")
}

// masters answers who gets everything by the group system:masters.
func masters(f *Facts) answer {
	return manual("the group is in certificates, such as that of the administrator's kubeconfig, which expires in weeks: see who has it")
}

// defaultAccounts answers whether the service accounts that pods get by default have rights, or tokens in pods.
func defaultAccounts(f *Facts) answer {
	var found []string
	for i := range f.accounts {
		if a := &f.accounts[i]; a.Name == "default" && (a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken) {
			found = append(found, fmt.Sprintf("service account %s/default: pods get its token", a.Namespace))
		}
	}
	isDefault := func(s rbacv1.Subject) bool { return s.Kind == rbacv1.ServiceAccountKind && s.Name == "default" }
	for i := range f.bindings {
		if b := &f.bindings[i]; slices.ContainsFunc(b.Subjects, isDefault) {
			found = append(found, fmt.Sprintf("role binding %s/%s: it gives a default service account rights", b.Namespace, b.Name))
		}
	}
	for i := range f.wide {
		if b := &f.wide[i]; slices.ContainsFunc(b.Subjects, isDefault) {
			found = append(found, fmt.Sprintf("cluster role binding %s: it gives a default service account rights", b.Name))
		}
	}
	if len(found) > 0 {
		return fails("set automountServiceAccountToken: false, and give workloads that need the API a service account of their own", found...)
	}
	return passes("no pod gets the token of a default service account by default, and none has rights")
}
