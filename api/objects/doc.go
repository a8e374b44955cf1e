// Package objects is the object service: every write and read of a Kubernetes object passes through it, whether it comes from a
// front (REST, gRPC) or from the in-process client of controllers and the scheduler, so no rule can be bypassed.
//
// A write: default -> mutating admission -> prepare -> managed fields -> validate -> validating admission -> stamp -> seal ->
// propose one command. The command contains everything that must happen together: the object's put or delete with its precondition,
// a check that its namespace still exists, what the kind allocates (the IPAddress of a service's address and keys of its ports, put with the
// precondition "absent", so two masters can never allocate the same one), and what admission joins to it (the counters of quotas).
//
// A read copies bytes: a stored version caches its decoded object, its JSON and its protobuf, each built at most once and shared by
// all readers. Everything that is returned as *kv.Version or by Decode is read-only.
package objects
