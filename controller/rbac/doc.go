// Package rbac maintains roles: it creates the default roles and bindings, adds to them what is missing (unless their annotation
// rbac.authorization.kubernetes.io/autoupdate is "false"), and fills in the rules of aggregated ClusterRoles.
package rbac
