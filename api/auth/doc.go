// Package auth says who asks (client certificate, bearer token) and whether they may.
//
// Authentication follows Kubernetes: a client certificate of the cluster's CA names the user by its common name and the
// groups by its organizations; a bearer token is a service account token, a JWT signed with the cluster's key and bound
// to its service account and pod. Who presents neither is system:anonymous, which may read health, version and nothing
// else. A credential that is presented but does not hold is refused, never downgraded to anonymous.
package auth
