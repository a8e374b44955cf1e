package builtin

import (
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"

	"github.com/kontiki/kontiki/api/registry"
)

const rbacGroup = "rbac.authorization.k8s.io"

func roles() *registry.Resource {
	return follow(&registry.Resource{Group: rbacGroup, Kind: "Role", Resource: "roles"}, role.Strategy, nil)
}

func clusterRoles() *registry.Resource {
	return follow(&registry.Resource{Group: rbacGroup, Kind: "ClusterRole", Resource: "clusterroles"}, clusterrole.Strategy, nil)
}

func roleBindings() *registry.Resource {
	return follow(&registry.Resource{Group: rbacGroup, Kind: "RoleBinding", Resource: "rolebindings"}, rolebinding.Strategy, nil)
}

func clusterRoleBindings() *registry.Resource {
	return follow(&registry.Resource{Group: rbacGroup, Kind: "ClusterRoleBinding", Resource: "clusterrolebindings"}, clusterrolebinding.Strategy, nil)
}
