// Package custom makes the rows of custom resources from CustomResourceDefinitions: one for each served version, as their schemas,
// subresources and columns differ. Objects are unstructured; they are stored as JSON, in the version that is the storage version when they
// are written, so versions lie side by side in the store and are converted when they are read.
//
// The rules are upstream's (k8s.io/apiextensions-apiserver/pkg/registry/customresource and pkg/apiserver/customresource_handler.go), with
// its packages for schemas, pruning, defaults, validation and CEL. What they need of a schema is made on first use and kept with the row.
package custom
