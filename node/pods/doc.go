// Package pods runs the pods that are assigned to a node: one worker, which is one goroutine, for each pod UID.
//
// A worker goes from syncing to terminating to terminated, and never back. While syncing it creates what the pod needs (volumes,
// sandbox, network), starts and restarts containers as their policies say, and reports status. It terminates when the pod is
// deleted or has finished: then it stops what is running, with hooks and the grace period, and frees the network, the volumes and
// the sandbox. Once terminated, it keeps the exited containers, for their logs, until the pod object is gone.
//
// A worker keeps no state that it could not read again: after a restart of the agent it finds its containers in the runtime and
// continues.
//
// Where to find what:
//
//   - config.go: what the package needs of others, and the reasons of waiting containers
//   - manager.go: the Manager, which passes pods to their workers; admit.go: whether a pod may run here (node/fit: beside
//     the others)
//   - worker.go: the worker's loop; actions.go decides, from what is observed, which containers are started, restarted and stopped
//   - setup.go: volumes, sandbox and network before the first container; start.go: one container
//   - config_container.go, files.go, imagevolume.go, loglinks.go: what a container is created with: its configuration, the files
//     that the agent mounts, volumes from images, and links to its log (node/environ makes its variables)
//   - images.go, credentials.go: pulling images (records of pulls are in node/pulls); node/pods/eviction removes those that are
//     not used
//   - hooks.go, prober.go, probemetrics.go: lifecycle handlers and probes; backoff.go: delays between attempts
//   - restartall.go: containers whose exit restarts the whole pod
//   - resize.go, resizing.go, swap.go: limits of CPU, memory and swap (node/resources), and their change while containers run
//   - storage.go: limits of local storage; pressure.go: the pods that may go when the node runs out of something (node/pods/eviction looks
//     at the node and decides which); preempt.go: pods that go for critical ones
//   - stop.go, cleanup.go: the end of a pod and of what it leaves; hold.go: pods that must not run for the time being
//   - status.go: the pod's status; timeline.go: how long the steps of its start took
package pods
