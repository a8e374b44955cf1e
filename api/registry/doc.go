// Package registry defines the resources: their names and versions, and how their objects are represented, prepared, validated,
// selected and deleted. A Resource is one row of a table; the object service, discovery and the in-process client are driven by the
// table and contain no code for single resources. Everything is identified by group and resource, never by a plural name alone.
//
// A Kind is a resource in one of its versions, which is what a request names. All versions of a resource, and sometimes a resource of
// another group (events), share the stored objects. A Codec converts between the representations: versioned, as clients see them;
// internal, on which strategies work; stored. That of built-in types uses Scheme and Kubernetes protobuf.
//
// A Catalog holds the present Table. It may change while the process runs.
//
// Defaulting, conversion and validation are those of the data-model packages of k8s.io/kubernetes (pkg/apis/...), so messages equal
// upstream's. Which fields a caller may not set, when the generation is incremented and what is warned of comes from upstream's
// strategy packages (pkg/registry/<group>/<kind>) where these do not reach the serving stack: see follow. For the others, the row has
// these rules itself.
package registry
