// Package devices speaks the kubelet's device plugin protocol (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1), by which vendors' programs offer
// a node's hardware to pods as extended resources.
//
// A plugin connects to kubelet.sock in the folder device-plugins and registers a resource and a socket of its own in that folder. The Manager
// connects to it and is sent the devices of the resource, and whether they are healthy. When a pod with such a resource is admitted, Allocate
// chooses devices for each of its containers and asks the plugin what the container must get: variables, mounts, device files, annotations
// and CDI devices. These answers are kept on disk before the pod starts, so that a restarted agent gives no device away twice and creates
// containers as before; the devices are free again when Release is called.
//
// When the last plugin of a resource ends, its devices count as unhealthy: the node still has the capacity, but nothing allocatable. After five
// minutes the capacity is zero too. Containers that are running are left alone.
//
// Plugins run as root on the node, but what they send is bounded all the same: messages, devices, names and the time of each call.
package devices
