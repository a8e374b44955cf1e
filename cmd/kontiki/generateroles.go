package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/kontiki/kontiki/controller/rbac"
)

// rolesHead is the beginning of docs/reference-roles.md.
const rolesHead = `# Reference: default roles

Made from the program by ` + "`make generate`" + `. These roles and bindings exist in every cluster ([authorization.md](authorization.md#default-roles)). All but those of Kontiki and
metrics-server's reader are upstream's. A role with an aggregation rule has the rules of all roles with its labels; here are those that every cluster has.
`

// rolesReference writes docs/reference-roles.md.
func rolesReference(w io.Writer) error {
	var clusterRoles []*rbacv1.ClusterRole
	var roles []*rbacv1.Role
	bindings := map[string][]string{} // subjects by the kind and name of what they have
	for _, obj := range rbac.Defaults() {
		switch obj := obj.(type) {
		case *rbacv1.ClusterRole:
			clusterRoles = append(clusterRoles, obj)
		case *rbacv1.Role:
			roles = append(roles, obj)
		case *rbacv1.ClusterRoleBinding:
			bound(bindings, "", obj.RoleRef, obj.Subjects)
		case *rbacv1.RoleBinding:
			bound(bindings, obj.Namespace, obj.RoleRef, obj.Subjects)
		default:
			return fmt.Errorf("a default of an unknown type %T", obj)
		}
	}
	slices.SortFunc(clusterRoles, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(roles, func(a, b *rbacv1.Role) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	var page strings.Builder
	page.WriteString(rolesHead)
	section := func(name string, rules []rbacv1.PolicyRule, aggregation *rbacv1.AggregationRule, key string) {
		fmt.Fprintf(&page, "\n### %s\n\n", name)
		if subjects := bindings[key]; subjects != nil {
			fmt.Fprintf(&page, "Bound to %s.\n\n", strings.Join(subjects, ", "))
		}
		if aggregation != nil {
			var labels []string
			for _, s := range aggregation.ClusterRoleSelectors {
				for name, value := range s.MatchLabels {
					labels = append(labels, "`"+name+"="+value+"`")
				}
			}
			slices.Sort(labels)
			fmt.Fprintf(&page, "Has the rules of all roles with the label %s.\n\n", strings.Join(labels, " or "))
		}
		if len(rules) == 0 {
			return
		}
		page.WriteString("| verbs | of | groups | names |\n|---|---|---|---|\n")
		for _, r := range rules {
			what := append(slices.Clone(r.Resources), r.NonResourceURLs...)
			var groups []string
			for _, group := range r.APIGroups {
				groups = append(groups, cmp.Or(group, "core"))
			}
			fmt.Fprintf(&page, "| %s | %s | %s | %s |\n", list(r.Verbs), list(what), list(groups), list(r.ResourceNames))
		}
	}
	page.WriteString("\n## ClusterRoles\n")
	for _, r := range clusterRoles {
		section(r.Name, r.Rules, r.AggregationRule, "ClusterRole "+r.Name)
	}
	page.WriteString("\n## Roles\n")
	for _, r := range roles {
		section(r.Namespace+"/"+r.Name, r.Rules, nil, "Role "+r.Namespace+"/"+r.Name)
	}
	_, err := io.WriteString(w, page.String())
	return err
}

// bound notes who has a role, and where if that is one namespace.
func bound(bindings map[string][]string, namespace string, role rbacv1.RoleRef, subjects []rbacv1.Subject) {
	key, where := role.Kind+" "+role.Name, ""
	switch {
	case role.Kind == "Role":
		key = role.Kind + " " + namespace + "/" + role.Name
	case namespace != "":
		where = " in " + namespace
	}
	for _, s := range subjects {
		name := s.Name
		if s.Namespace != "" {
			name = s.Namespace + "/" + name
		}
		kind := map[string]string{rbacv1.UserKind: "the user", rbacv1.GroupKind: "the group", rbacv1.ServiceAccountKind: "the service account"}[s.Kind]
		bindings[key] = append(bindings[key], fmt.Sprintf("%s `%s`%s", kind, name, where))
	}
}

// list is a cell of a table.
func list(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "`" + strings.Join(words, "`, `") + "`"
}
