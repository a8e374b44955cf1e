package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/kontiki/kontiki/api/client"
)

// The roles for those who work with the cluster rather than with what runs in it; docs/authorization.md lists their paths.
const (
	operatorRole = "kontiki:operator"
	viewerRole   = "kontiki:viewer"
)

// Defaults returns the roles and bindings that every cluster has: upstream's, and those for the cluster's own paths. The caller owns
// them.
func Defaults() []client.Object {
	var out []client.Object
	add := func(role rbacv1.ClusterRole) { out = append(out, &role) }
	for _, role := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		add(role)
	}
	add(clusterRole(operatorRole, []string{"*"}, "/kontiki/v1/*", "/metrics", "/metrics/state", "/debug/pprof", "/debug/pprof/*"))
	add(clusterRole(viewerRole, []string{"get"}, "/kontiki/v1/cluster", "/kontiki/v1/cluster/members", "/kontiki/v1/certs", "/kontiki/v1/secrets", "/metrics", "/metrics/state"))
	add(metricsReader())
	for _, binding := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		out = append(out, &binding)
	}
	for _, roles := range bootstrappolicy.NamespaceRoles() {
		for _, role := range roles {
			out = append(out, &role)
		}
	}
	for _, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		for _, binding := range bindings {
			out = append(out, &binding)
		}
	}
	return out
}

// metricsReader returns the role that lets those who may view a namespace see what its pods use, and nodes: it is the one that comes with
// metrics-server.
func metricsReader() rbacv1.ClusterRole {
	role := clusterRole("system:aggregated-metrics-reader", nil)
	for _, to := range []string{"admin", "edit", "view"} {
		role.Labels["rbac.authorization.k8s.io/aggregate-to-"+to] = "true"
	}
	role.Rules = []rbacv1.PolicyRule{{APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"}}}
	return role
}

func clusterRole(name string, verbs []string, paths ...string) rbacv1.ClusterRole {
	return rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
			Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}},
		Rules: []rbacv1.PolicyRule{{Verbs: verbs, NonResourceURLs: paths}},
	}
}
