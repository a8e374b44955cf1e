// Package auth determines who sent a request (by client certificate or bearer token) and whether it is allowed.
//
// Authentication follows Kubernetes: a client certificate of the cluster's CA has the user's name as its common name and the groups
// as its organizations; a bearer token is a service account token, a JWT signed with the cluster's key and bound to its service
// account and pod, a bootstrap token, or one that somebody else has issued (package authn). A request with neither is from
// system:anonymous, who may read health and version and nothing else. A request with an invalid credential is refused, and never
// treated as anonymous.
package auth
