// Package objects is the one object service: every write and read of a Kubernetes object passes through it, whichever
// front (REST, gRPC, the in-process client of controllers and scheduler) it came in by, so no rule can be walked around.
//
// A write: default -> mutating admission -> prepare -> managed fields -> validate -> validating admission -> stamp ->
// seal -> propose one command. The command holds everything that must happen together: the object's put or delete with
// its precondition, a check that its namespace still exists, and what the kind allocates (service addresses and ports
// are keys of their own, put with "absent" as their precondition, so two masters can never hand out the same one).
//
// A read copies bytes: a stored version carries its decoded object, its JSON and its protobuf, each built at most once
// and shared by every reader. Whatever is returned as *kv.Version or came out of Decode is read-only.
package objects
