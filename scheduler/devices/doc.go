// Package devices is the scheduler's plugin DynamicResources (KEP-4381): it allocates devices, which drivers publish in ResourceSlices,
// to the ResourceClaims of pods.
//
// Which devices a claim gets is calculated by upstream's allocator (k8s.io/dynamic-resource-allocation/structured) for each node that the
// other filters pass. What it is given is kept here (State): the slices with the taints of DeviceTaintRules, the classes, and which
// devices are taken. Taken are those of claims whose stored status has an allocation, and those that have been decided and are not written
// yet (pending). A pending allocation ends only when the stored claim has it, or when it is certain that it will never be stored. Nothing
// else is remembered, so a scheduler that starts anew needs only the stored claims.
//
//	PreEnqueue   the pod's claims exist
//	PreFilter    they can be used, and the classes that they need exist
//	Filter       the allocated ones can be used on the node, and the others can be allocated there
//	Reserve      the allocations become pending
//	PreBind      they are stored, with the pod in status.reservedFor; then conditions that devices require are awaited
//	Undo         if the pod is not bound after all, it is removed from status.reservedFor
//	PostFilter   an allocation that nobody uses and that keeps the pod from every node is given up
//
// Requests for extended resources that a DeviceClass provides (KEP-5004) become a claim that the scheduler makes when the pod is bound.
package devices
