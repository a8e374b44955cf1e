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
//
// # Where what is
//
// All of it is one type, Service, whose methods share the attempt, the view and the command of a write.
//
//   - the service and its requests: service.go, request.go, front.go (what both fronts need)
//   - writes: create.go, update.go, patch.go, status.go, scale.go, delete.go, transact.go; of pods bind.go, bindall.go, evict.go,
//     disruption.go; what an operation may do: admission.go, authorize.go, escalation.go
//   - reads: list.go, listing.go, watch.go, computed.go; package views has states of the past and of transactions
//   - forms of objects: codec.go, decode.go; package managed has managed fields
//   - deleted objects that are kept: undelete.go, package deleted
//   - duties of the leader: mark.go, reseal.go; fence.go keeps an earlier leader's from writing
//   - errors: invalid.go, fielderror.go
package objects
