// Package dra makes devices usable that pods claim with ResourceClaims (dynamic resource allocation, KEP-4381).
//
// The scheduler decides which devices of which drivers a claim gets. A driver's program on the node registers through node/plugins
// and serves the gRPC service DRAPlugin (k8s.io/kubelet/pkg/apis/dra/v1, or v1beta1). Before the first container of a pod is created, Prepare
// asks the drivers of its claims to make the devices ready (NodePrepareResources), and gets names of CDI devices, which Container returns for
// those containers that request them. When the last pod of a claim on the node has ended, Unprepare tells the drivers
// (NodeUnprepareResources). Claims that are being prepared or are prepared are on disk before a driver is called, so that each is unprepared
// even if the agent, or the pod, is gone meanwhile.
//
// Drivers publish their devices themselves, as ResourceSlices. When a driver has been gone for 30 seconds, its slices of this node are removed,
// so that no pod waits here for a driver that does not come back.
package dra
