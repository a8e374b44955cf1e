// Package managed computes metadata.managedFields: which manager owns which fields of an object (server-side apply, KEP-555).
//
// Fields.Track records what an update or a creation has changed, and Fields.Apply merges an applied configuration. Both give the results
// of upstream's field manager (k8s.io/apimachinery/pkg/util/managedfields), which carries out Apply. Track avoids most of its work, as it
// would be the most expensive part of a write; see track.go.
package managed
