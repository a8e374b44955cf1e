package registry

import (
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
)

const rbacGroup = "rbac.authorization.k8s.io"

func roles() *Resource {
	return follow(&Resource{Group: rbacGroup, Kind: "Role", Resource: "roles"}, role.Strategy, nil)
}

func clusterRoles() *Resource {
	return follow(&Resource{Group: rbacGroup, Kind: "ClusterRole", Resource: "clusterroles"}, clusterrole.Strategy, nil)
}

func roleBindings() *Resource {
	return follow(&Resource{Group: rbacGroup, Kind: "RoleBinding", Resource: "rolebindings"}, rolebinding.Strategy, nil)
}

func clusterRoleBindings() *Resource {
	return follow(&Resource{Group: rbacGroup, Kind: "ClusterRoleBinding", Resource: "clusterrolebindings"}, clusterrolebinding.Strategy, nil)
}
