package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/node/fit"
	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/pods/eviction"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/userns"
)

// Objects provides the objects assigned to the node besides pods. They are read-only.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	RuntimeClass(name string) (*nodev1.RuntimeClass, bool)
	// Services returns every service; ok is false if they are not known yet.
	Services() ([]*corev1.Service, bool)
}

// Volumes manages the volumes of pods.
type Volumes interface {
	// Setup creates or updates every volume of the pod, and returns the path of each on the host. It is idempotent.
	Setup(ctx context.Context, pod *corev1.Pod, hostIP string, podIPs []string) (map[string]string, error)
	// Refresh updates some volumes of a pod.
	Refresh(ctx context.Context, pod *corev1.Pod, volumes []string, hostIP string, podIPs []string) error
	// SubPath returns the path to mount for a part of a volume; links cannot lead it out of the volume.
	SubPath(pod *corev1.Pod, container string, index int, volumePath, subPath string) (string, error)
	// Labelled says whether the files of a volume get the SELinux label of the containers that mount it.
	Labelled(pod *corev1.Pod, v *corev1.Volume) bool
	// TearDown removes all volumes of a pod. An unknown uid is not an error.
	TearDown(ctx context.Context, uid string) error
}

// Hardware gives pods what only one of them can have at a time: devices of plugins and drivers, processors, memory of a NUMA node.
type Hardware interface {
	// Manages says whether Allocate checks that there is enough of a resource.
	Manages(name corev1.ResourceName) bool
	// Allocate gives a pod what it requests, before it is admitted. It is idempotent, and keeps nothing if it fails. An error with a
	// method Reason() string says why the pod is refused.
	Allocate(ctx context.Context, pod *corev1.Pod) error
	// Prepare makes the pod's claimed devices usable, before its sandbox is made. It is idempotent.
	Prepare(ctx context.Context, pod *corev1.Pod) error
	// Container returns what a container of the pod gets. It is called each time before the container is created.
	Container(ctx context.Context, pod *corev1.Pod, container string) (runtime.Edits, error)
	// NoCPUQuota says whether containers of the pod have processors of their own, so that the pod's time is not limited.
	NoCPUQuota(uid types.UID) bool
	// Release frees what the pod has. Nothing of it is running. An unknown uid is not an error.
	Release(ctx context.Context, uid types.UID) error
	// Pods returns the pods that have something.
	Pods() []types.UID
	// Fixed returns why the resources of a pod cannot be changed while it runs, "" if they can.
	Fixed(pod, next *corev1.Pod) string
	// Health returns the devices of a container for the pod's status.
	Health(pod *corev1.Pod, container string) []corev1.ResourceStatus
}

// Users gives ids of the host to pods with user namespaces of their own.
type Users interface {
	// Of returns the ids of a pod, the same each time. The pod's folder exists.
	Of(pod string) (userns.Range, error)
	// Release frees them when the folder is gone.
	Release(pod string)
}

// DNS is the cluster's part of pods' resolv.conf.
type DNS struct {
	Domain  string
	Servers []string
}

// Event is an event to record. Container is the container that it is about, "" for the pod.
type Event struct {
	Pod       *corev1.Pod
	FieldPath string
	Type      string // Normal or Warning
	Reason    string
	Message   string
}

// Sink receives statuses and events of workers. Its methods must not block.
type Sink interface {
	// PodStatus reports a changed status. terminated means that nothing of the pod is running and all its resources are freed.
	PodStatus(pod *corev1.Pod, status corev1.PodStatus, terminated bool)
	Event(e Event)
}

// Config has what the workers need. All fields are required unless stated otherwise.
type Config struct {
	NodeName string
	// NodeIP is the node's address, for status and downward API.
	NodeIP  netip.Addr
	Runtime runtime.Runtime
	Network netapi.Network
	Volumes Volumes
	Objects Objects
	Sink    Sink
	// Hardware may be nil: then pods that claim devices are refused, unless the runtime simulates them.
	Hardware Hardware
	DNS      func() DNS
	// Timeline keeps the steps of pods' starts; nil keeps nothing.
	Timeline *timeline.Recorder
	// Node returns the Node object for allocatable resources (downward API defaults); it may return nil.
	Node func() *corev1.Node
	// ClusterNode returns the Node object as the cluster has it, with labels and taints set by others. It may be nil, and may
	// return nil.
	ClusterNode func() *corev1.Node
	// AllowedUnsafeSysctls are names, and prefixes that end in "*", of sysctls that pods may set in addition to the safe ones.
	AllowedUnsafeSysctls []string
	// RootDir has a directory for each pod that was admitted; LogDir is /var/log/pods.
	RootDir string
	LogDir  string
	// Seccomp is the folder with the seccomp profiles of type Localhost; "" means /var/lib/kubelet/seccomp.
	Seccomp string
	// LogLinkDir is /var/log/containers, where log collectors look; "" means no links.
	LogLinkDir string
	// Rooms returns what is available of each signal on the node; nil means that the node is not guarded: nothing is evicted, and no
	// image is removed.
	Rooms func(ctx context.Context) map[eviction.Signal]eviction.Room
	// Eviction are the thresholds below which pods are evicted.
	Eviction []eviction.Threshold
	// ImageGC says when unused images are removed; zero means eviction.DefaultImageGC.
	ImageGC eviction.ImageGC
	// PullDir remembers with which credentials images were pulled; "" forgets that with the process.
	PullDir string
	// NodeCredentials returns what the node has for a repository, for pods without Secrets that fit; nil for nothing. It may take minutes.
	NodeCredentials func(ctx context.Context, repository string) []runtime.Auth
	// Pulls limits how many images are pulled concurrently; 0 means 5.
	Pulls int
	// Hold says whether nothing of a pod may run now: what is running is killed, and starts again when it may. nil if all pods may.
	Hold func(ctx context.Context, pod *corev1.Pod) bool
	// Users gives ids to pods with user namespaces of their own; nil if there are none, and then NoUsers says why.
	Users   Users
	NoUsers string
	// SeccompDefault gives containers that name no seccomp profile the runtime's default one, instead of none.
	SeccompDefault bool
	// SingleProcessOOMKill lets the kernel kill single processes of a container that is out of memory, instead of all of them.
	SingleProcessOOMKill bool
	// Swap says who may use the node's swap, of which there are SwapTotal bytes; "" means NoSwap.
	Swap      SwapBehavior
	SwapTotal int64
	// Closed returns why the node takes no pods at all now, nil if it takes them; it may be nil.
	Closed func() *fit.Refusal
	// Static says whether a pod is a static one: it is critical, and nothing of it waits for a master. nil if there are none.
	Static func(uid types.UID) bool
	// Starts limits how many pods start containers concurrently; 0 means 4. On two cores a runtime is fastest with 3 to 4.
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

// PodFullName returns a pod's name for messages.
func PodFullName(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}
