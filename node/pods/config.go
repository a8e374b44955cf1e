// Package pods runs the pods that a node is assigned: one worker, one goroutine, for each pod UID.
//
// A worker's life is sync -> terminating -> terminated, and never back. While syncing it makes what the pod needs
// (volumes, sandbox, network), starts and restarts containers as their policies say, and reports status. It terminates
// when the pod is deleted or has run to its end; then it stops what runs, hooks and grace period included, and frees
// the network, the volumes and the sandbox. Terminated, it keeps the exited containers, for their logs, until the pod
// itself is gone.
//
// A worker holds no state that it could not find again: after a restart of the agent it sees its containers in the
// runtime and goes on.
package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/runtime"
)

// Objects answers what the node was assigned beside pods. Objects are read-only.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	// Services answers every service, and whether they are known at all yet.
	Services() ([]*corev1.Service, bool)
}

// Volumes makes the volumes of pods.
type Volumes interface {
	// Setup makes every volume of the pod, or brings it up to date, and answers where each is on the host. It is
	// idempotent.
	Setup(ctx context.Context, pod *corev1.Pod, hostIP string, podIPs []string) (map[string]string, error)
	// Refresh brings some volumes of a pod up to date.
	Refresh(ctx context.Context, pod *corev1.Pod, volumes []string, hostIP string, podIPs []string) error
	// SubPath answers the path to mount for a part of a volume; it cannot be led out of the volume by links.
	SubPath(pod *corev1.Pod, container string, index int, volumePath, subPath string) (string, error)
	// TearDown removes all volumes of a pod. An unknown uid is no error.
	TearDown(ctx context.Context, uid string) error
}

// DNS is what goes into pods' resolv.conf.
type DNS struct {
	Domain  string
	Servers []string
}

// Event is one that a worker wants recorded. Container is the one it is about, "" for the pod.
type Event struct {
	Pod       *corev1.Pod
	FieldPath string
	Type      string // Normal or Warning
	Reason    string
	Message   string
}

// Sink takes what workers have to say. Its methods must not block.
type Sink interface {
	// PodStatus reports a changed status. terminated says that nothing of the pod runs or is held any more.
	PodStatus(pod *corev1.Pod, status corev1.PodStatus, terminated bool)
	Event(e Event)
}

// Config is what the workers need. All of it is required unless said otherwise.
type Config struct {
	NodeName string
	// NodeIP is the node's address; status and downward API show it.
	NodeIP  netip.Addr
	Runtime runtime.Runtime
	Network netapi.Network
	Volumes Volumes
	Objects Objects
	Sink    Sink
	DNS     func() DNS
	// Node answers the Node object for allocatable resources (downward API defaults); may answer nil.
	Node func() *corev1.Node
	// ClusterNode answers the Node object as the cluster has it, with labels and taints that others gave it; may be nil,
	// and may answer nil.
	ClusterNode func() *corev1.Node
	// AllowedUnsafeSysctls are names, and prefixes that end in "*", of sysctls that pods may set beside the safe ones.
	AllowedUnsafeSysctls []string
	// RootDir holds a folder for each pod that was admitted; LogDir is /var/log/pods.
	RootDir string
	LogDir  string
	// LogLinkDir is /var/log/containers, where log collectors look; "" for none.
	LogLinkDir string
	// Starts bounds how many pods start containers at once; 0 for 4. A runtime on two cores is fastest at 3 to 4.
	Starts int
}

// Reasons of waiting containers.
var (
	errCrashLoop     = errors.New("CrashLoopBackOff")
	errImagePull     = errors.New("ErrImagePull")
	errImageBackOff  = errors.New("ImagePullBackOff")
	errNeverPull     = errors.New("ErrImageNeverPull")
	errInvalidName   = errors.New("InvalidImageName")
	errImageInspect  = errors.New("ImageInspectError")
	errCreateConfig  = errors.New("CreateContainerConfigError")
	errCreate        = errors.New("CreateContainerError")
	errRun           = errors.New("RunContainerError")
	errPostStartHook = errors.New("PostStartHookError")
)

const (
	backOffInitial = 10 * time.Second
	backOffMax     = 300 * time.Second
)

// PodFullName names a pod in messages.
func PodFullName(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}
