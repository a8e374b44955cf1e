// Package registry says what each kind is: its names, its types, how it is prepared, validated, selected and deleted.
// A kind is one row of a table; the object service, discovery and the in-process client are driven by the table and
// know no kind by name.
//
// Defaulting, conversion and validation are the data-model packages of k8s.io/kubernetes (pkg/apis/...), so messages
// equal upstream's. What a row adds is what upstream keeps in its registry strategies: which fields a caller may not
// set, when the generation grows, which fields can be selected on.
package registry
