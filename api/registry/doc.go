// Package registry defines the kinds: their names and types, and how their objects are prepared, validated, selected and deleted. A
// kind is one row of a table; the object service, discovery and the in-process client are driven by the table and contain no code
// for single kinds.
//
// Defaulting, conversion and validation are those of the data-model packages of k8s.io/kubernetes (pkg/apis/...), so messages equal
// upstream's. A row adds what upstream has in its registry strategies: which fields a caller may not set, when the generation is
// incremented, which fields can be selected.
package registry
