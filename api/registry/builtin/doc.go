// Package builtin contains the rows of Kubernetes' built-in resources: Kinds returns the table of all of them.
//
// Defaulting, conversion and validation are those of the data-model packages of k8s.io/kubernetes (pkg/apis/...), so messages equal
// upstream's. Which fields a caller may not set, when the generation is incremented and what is warned of comes from upstream's
// strategy packages (pkg/registry/<group>/<kind>) where these do not reach the serving stack: see follow. For the others, the row has
// these rules itself.
//
// # Where what is
//
// kinds.go is the table. Rows are in files by group or concern: core, pods (podprepare for what a new pod gets), network, ingress, workloads,
// batch, storage, volumes, devices, autoscaling, rbac, certificates, events, flowcontrol, reviews, admissionregistration, limits. What
// several rows share: upstream.go (strategies), typed.go (functions of one type), warnings.go, notyet.go, deleted.go (what is kept when it
// is deleted).
package builtin
