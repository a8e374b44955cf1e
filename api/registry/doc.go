// Package registry defines what a resource is: its names and versions, and how its objects are represented, prepared, validated, selected
// and deleted. A Resource is one row of a Table; the object service, discovery and the in-process client are driven by the table and
// contain no code for single resources. Everything is identified by group and resource, never by a plural name alone. The rows of the
// built-in resources are in the package builtin.
//
// A Kind is a resource in one of its versions, which is what a request names. All versions of a resource, and sometimes a resource of
// another group (events), share the stored objects. A Codec converts between the representations: versioned, as clients see them;
// internal, on which strategies work; stored. That of built-in types uses Scheme and Kubernetes protobuf.
//
// A Catalog holds the present Table. It may change while the process runs.
package registry
