// Package runtime defines the interface to a container runtime that the node agent uses.
//
// Terms:
//
//   - A sandbox is what the containers of one pod share: pinned network, IPC and UTS namespaces, a cgroup parent and, on request, a
//     process namespace. It has no process (except for a shared process namespace) and is identified by the pod's UID. It outlives the
//     agent and the runtime's daemon, but not a reboot.
//   - A container is one attempt to run one container of a pod spec. It has an id; a restart is a new container with the next
//     attempt number. Its states are created, running, exited; then it is removed. An exited container keeps its exit status and its log
//     until it is removed.
//   - An image has references and is identified by the digest of its configuration (ID).
//   - A state change is reported by Events. Events are hints without an order between containers; Containers has the actual state.
//
// All methods are safe for concurrent use, and return when their context ends. Removing something that does not exist is not an
// error. node/runtime/fake implements the interface in memory, node/runtime/containerd with containerd; both pass
// runtimetest.Suite.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kontiki/kontiki/node/selinux"
)

// Errors are classes: test for them with errors.Is.
var (
	// ErrNotFound means that the sandbox, container or image does not exist.
	ErrNotFound = errors.New("runtime: not found")
	// ErrNotRunning means that the container has no running process for a signal, attach or exec.
	ErrNotRunning = errors.New("runtime: container is not running")
	// ErrUnavailable means that the runtime's daemon cannot be reached now; a retry may help.
	ErrUnavailable = errors.New("runtime: unavailable")
	// ErrRegistryUnreachable means that a pull got no response from the image's registry, not even a refusal.
	ErrRegistryUnreachable = errors.New("runtime: the registry cannot be reached")
	// ErrInvalidImageName means that an image reference cannot be parsed.
	ErrInvalidImageName = errors.New("runtime: invalid image name")
	// ErrNonRootUnknown and ErrRunAsRoot refuse a container that must not run as root.
	ErrNonRootUnknown = errors.New("runtime: the image's user may be root")
	ErrRunAsRoot      = errors.New("container has runAsNonRoot and image will run as root")
)

// NonRootUnknown is an ErrNonRootUnknown for an image whose user is a name.
type NonRootUnknown struct{ User string }

func (e NonRootUnknown) Error() string {
	return fmt.Sprintf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", e.User)
}

// Is matches ErrNonRootUnknown.
func (e NonRootUnknown) Is(target error) bool { return target == ErrNonRootUnknown }

// Runtime is the complete interface.
type Runtime interface {
	Sandboxes
	Containers
	Streams
	Images
	// Version returns the runtime's name for Node.status.nodeInfo, such as "containerd://1.6.20"; an error means that it is not
	// healthy.
	Version(ctx context.Context) (string, error)
	// Features returns what this runtime supports on this host. It does not change while the agent is running.
	Features() Features
	// Events reports container changes until ctx ends. A slow reader loses events and never blocks the runtime; after a gap (lost
	// events, the daemon was down) it gets an event without a ContainerID, and should list the containers again.
	Events(ctx context.Context) <-chan Event
}

// Features are capabilities that not every host has.
type Features struct {
	// RecursiveReadOnly means that a mount can be made read-only together with all mounts below it.
	RecursiveReadOnly bool
	// AppArmor and SELinux mean that the host's kernel enforces them.
	AppArmor, SELinux bool
	// SELinuxLabels means that containers and their files get SELinux labels.
	SELinuxLabels bool
	// Handlers are what RuntimeClasses can name, sorted by name. The first one, "", is that of pods without a RuntimeClass.
	Handlers []HandlerFeatures
	// NoUserNamespaces says why pods cannot have user namespaces of their own; "" if they can.
	NoUserNamespaces string
	// Swap means that the swap of each container can be limited by itself (cgroup v2).
	Swap bool
	// Devices means that containers need nothing of the devices that were allocated to their pod, as in a simulation.
	Devices bool
}

// HandlerFeatures are what a runtime handler supports.
type HandlerFeatures struct {
	Name                              string
	RecursiveReadOnly, UserNamespaces bool
}

// Sandboxes creates and removes sandboxes.
type Sandboxes interface {
	// EnsureSandbox creates the sandbox, or its missing parts, and returns it. Errors: a handler that the node does not have, or that does not
	// support what is configured.
	EnsureSandbox(ctx context.Context, c SandboxConfig) (Sandbox, error)
	// UpdateSandbox changes those limits of a sandbox that are not zero. A memory limit below what is in use is refused or reached by
	// killing, as the kernel decides. Errors: ErrNotFound.
	UpdateSandbox(ctx context.Context, uid string, r Resources) error
	// RemoveSandbox removes it. None of its containers may be running; exited ones may remain. An unknown uid is not an error.
	RemoveSandbox(ctx context.Context, uid string) error
	ListSandboxes(ctx context.Context) ([]Sandbox, error)
}

// Containers runs containers.
type Containers interface {
	// CreateContainer creates a container without starting it. Errors: ErrNotFound for the image, ErrRunAsRoot, ErrNonRootUnknown.
	CreateContainer(ctx context.Context, c ContainerConfig) (id string, err error)
	// StartContainer starts a created container. If that fails the container becomes exited, with exit code 128 and reason
	// StartError.
	StartContainer(ctx context.Context, id string) error
	// SignalContainer sends a signal to the container's first process. Errors: ErrNotRunning.
	SignalContainer(ctx context.Context, id string, signal string) error
	// KillContainer kills every process of the container and waits until it has exited.
	KillContainer(ctx context.Context, id string) error
	// RemoveContainer removes an exited (or only created) container and its log files.
	RemoveContainer(ctx context.Context, id string) error
	// Container returns one container, ListContainers all of this node, or of one pod if podUID is not "".
	Container(ctx context.Context, id string) (Container, error)
	ListContainers(ctx context.Context, podUID string) ([]Container, error)
	// UpdateResources changes those limits of a running container that are not zero. Errors: ErrNotRunning.
	UpdateResources(ctx context.Context, id string, r Resources) error
	// Usage returns what a running container uses of processors, memory and devices. It costs the reading of some small files.
	Usage(ctx context.Context, id string) (Usage, error)
	// Stats returns that and the size of the container's files, which are walked.
	Stats(ctx context.Context, id string) (Stats, error)
}

// Streams connects to running containers.
type Streams interface {
	// Exec runs a command beside the container's process and returns its exit code when it has ended and all its output is written.
	// If ctx ends first, the process is killed and ctx's error returned.
	Exec(ctx context.Context, id string, o ExecOptions) (exitCode int, err error)
	// Attach connects to the container's own streams until it exits, the input of a stdinOnce container ends, or ctx ends.
	Attach(ctx context.Context, id string, o AttachOptions) error
}

// Images manages local images.
type Images interface {
	// GetImage returns a local image by reference or ID. Errors: ErrNotFound, ErrInvalidImageName.
	GetImage(ctx context.Context, ref string) (Image, error)
	// PullImage pulls an image from its registry, anonymously if auth is empty. Concurrent pulls of one reference with the same
	// credentials share the work.
	PullImage(ctx context.Context, ref string, auth Auth) (Image, error)
	// ImportImage imports an archive (OCI layout or docker save, optionally gzipped) and returns its images.
	ImportImage(ctx context.Context, archive io.Reader) ([]Image, error)
	ListImages(ctx context.Context) ([]Image, error)
	// ExportImage writes a local image as an archive that ImportImage reads. Errors: ErrNotFound, ErrInvalidImageName.
	ExportImage(ctx context.Context, ref string, archive io.Writer) error
	// ImageRoot is a path on the filesystem that has the images' and containers' files.
	ImageRoot(ctx context.Context) (string, error)
	// MountImage mounts the files of a local image, read-only, on an existing directory for a pod that has a sandbox. It is
	// idempotent: an existing mount stays. In a user namespace they belong to the pod's users. The caller unmounts it, RemoveSandbox removes the rest.
	MountImage(ctx context.Context, podUID, ref, target string) error
	// RemoveImage removes all names of the image with that ID or reference.
	RemoveImage(ctx context.Context, ref string) error
}

// NamespaceMode says which namespace a pod uses.
type NamespaceMode uint8

const (
	NamespacePod  NamespaceMode = iota // the pod's own, shared by its containers
	NamespaceHost                      // the agent's
)

// SandboxConfig describes a sandbox.
type SandboxConfig struct {
	UID, Namespace, Name string
	Hostname             string
	Handler              string // of the pod's RuntimeClass, "" for the default
	Net, IPC             NamespaceMode
	// HostPID puts the containers into the host's process namespace; SharePID gives them a common one.
	HostPID, SharePID bool
	Sysctls           map[string]string
	// SELinux replaces parts of the label that the pod's processes have, where containers have labels.
	SELinux *selinux.Options
	// Users are the ids that the pod's users have on the host: its containers run in a user namespace. nil if they run in the host's.
	Users *IDRange
	// Resources are the pod's limits, for the parent cgroup: the sum over its containers, zero for none.
	Resources Resources
}

// IDRange is a range of user ids of the host, and of the group ids of the same numbers. User 0 of a user namespace is the first.
type IDRange struct{ First, Length uint32 }

// Sandbox is an existing sandbox.
type Sandbox struct {
	UID, Namespace, Name string
	// NetNS is the path of the pinned network namespace, "" if the pod uses the host's network.
	NetNS string
	// Generation changes when the sandbox had to be created again, as after a reboot.
	Generation string
}

// Resources limit a container or a pod. Zero means no limit.
type Resources struct {
	CPUShares   uint64
	CPUQuota    int64 // microseconds per period
	CPUPeriod   uint64
	MemoryLimit int64 // bytes
	Swap        int64 // bytes of swap besides the memory; here zero means none, if the host can limit it
	PidsLimit   int64
	OOMScoreAdj int
	HugePages   map[string]uint64 // page size ("2MB") to bytes
	// CPUs and Memories are the processors and the NUMA nodes to use, as the kernel writes sets: "0-3,8". "" means all.
	CPUs, Memories string
}

// KeyValue is one environment variable.
type KeyValue struct{ Name, Value string }

// Propagation is the direction in which mounts are propagated between host and container.
type Propagation uint8

const (
	PropagationPrivate Propagation = iota
	PropagationHostToContainer
	PropagationBidirectional
)

// Mount binds a file or directory of the host into the container.
type Mount struct {
	HostPath, ContainerPath string
	ReadOnly                bool
	RecursiveReadOnly       bool
	Propagation             Propagation
	// Relabel gives everything in it the label that the container's files have, where containers have SELinux labels.
	Relabel bool
	// Image says that the source was mounted by MountImage, for the pod's users.
	Image bool
}

// Device is a host's device to pass to the container.
type Device struct{ HostPath, ContainerPath, Permissions string }

// Security is the resolved security context.
type Security struct {
	RunAsUser, RunAsGroup *int64
	RunAsNonRoot          bool
	// SupplementalGroups are added to those of the image's /etc/group; StrictGroups ignores the image's.
	SupplementalGroups []int64
	StrictGroups       bool
	Privileged         bool
	AddCaps, DropCaps  []string // without CAP_, "ALL" allowed
	ReadOnlyRootfs     bool
	NoNewPrivileges    bool
	// Seccomp is "" or "unconfined", "runtime/default", or "localhost/PATH". AppArmor likewise.
	Seccomp  string
	AppArmor string
	// SELinux is the container's own, if its pod's does not apply.
	SELinux *selinux.Options
	// UnmaskedProc leaves /proc unmasked (procMount: Unmasked).
	UnmaskedProc bool
}

// ContainerConfig describes a container.
type ContainerConfig struct {
	Sandbox    SandboxConfig
	Name       string
	Attempt    int
	Image      string   // reference or ID of a local image
	Command    []string // replaces the image's entrypoint
	Args       []string // replaces the image's cmd
	WorkingDir string
	Env        []KeyValue // in order; later ones and those here override the image's
	Mounts     []Mount
	Devices    []Device
	Resources  Resources
	Security   Security
	Stdin      bool
	StdinOnce  bool
	TTY        bool
	// SingleProcessOOMKill lets the kernel kill single processes if the container is out of memory. Otherwise all are killed together,
	// where the host has cgroup v2.
	SingleProcessOOMKill bool
	StopSignal           string // replaces the image's
	// ProcessesOf is the id of a running container whose process namespace this container joins, "" for none.
	ProcessesOf string
	LogPath     string // absolute path of the CRI log file: .../POD/CONTAINER/N.log
	Labels      map[string]string
	// Annotations are added to the OCI specification. Those of CDI (cdi.k8s.io/...) name devices, like CDIDevices.
	Annotations map[string]string
	// CDIDevices are fully qualified names of devices that the host's CDI specifications describe: "vendor.com/class=name".
	CDIDevices []string
}

// State is the state of a container.
type State uint8

const (
	StateUnknown State = iota
	StateCreated
	StateRunning
	StateExited
)

func (s State) String() string { return [...]string{"unknown", "created", "running", "exited"}[s] }

// Container describes an existing container.
type Container struct {
	ID           string
	PodUID       string
	PodNamespace string
	PodName      string
	Name         string
	Attempt      int
	Image        string // as requested
	ImageID      string // digest of the configuration, "sha256:..."
	ImageRef     string // "repo@sha256:..." if known, otherwise ImageID
	State        State
	Pid          int
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	ExitCode     int
	OOMKilled    bool
	Reason       string // why it exited, if the runtime knows: OOMKilled, StartError, Unknown
	Message      string
	LogPath      string
	StopSignal   string
	Labels       map[string]string
	User         *User
	Users        *IDRange // as its sandbox's
	Stdin        bool
	StdinOnce    bool
	TTY          bool
}

// User is the user of a container's first process.
type User struct {
	UID, GID int64
	Groups   []int64
}

// Event reports that a container changed.
type Event struct {
	ContainerID string
	PodUID      string
	State       State
}

// Size is the size of a terminal in characters.
type Size struct{ Width, Height uint16 }

// ExecOptions describes a command to run. Nil streams are not connected; Stdout and Stderr may be one writer. Resize is read while
// the command runs.
type ExecOptions struct {
	Command        []string
	TTY            bool
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// AttachOptions describes a connection to a container's own streams.
type AttachOptions struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// Auth is one set of registry credentials.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken string
}

// Image describes a local image.
type Image struct {
	ID          string   // "sha256:..." of its configuration
	RepoTags    []string // "docker.io/library/busybox:1"
	RepoDigests []string // "docker.io/library/busybox@sha256:..."
	Size        int64    // bytes
	User        string
	StopSignal  string
	// Imported means that an administrator imported the image from an archive, and it has not been pulled since.
	Imported bool
}

// Usage is what the cgroup of a container has used since it was created, or uses now.
type Usage struct {
	Time time.Time
	// CPU times.
	CPUNanoseconds, CPUUserNanoseconds, CPUSystemNanoseconds uint64
	// Periods of the CPU limit, those in which it was reached, and for how long.
	Periods, ThrottledPeriods, ThrottledNanoseconds uint64

	MemoryBytes, MemoryWorkingSet, MemoryRSS, MemoryCache uint64
	SwapBytes                                             uint64
	// MemoryFailures is how often memory reached its limit; 0 if the kernel does not count it.
	MemoryFailures              uint64
	PageFaults, MajorPageFaults uint64
	MemoryLimit                 uint64 // if MemoryLimitPresent
	MemoryLimitPresent          bool

	Processes uint64
	// What was read from and written to block devices, in bytes and operations.
	ReadBytes, WriteBytes, Reads, Writes uint64
	// Pressure stall information (PSI); nil where the kernel has none for cgroups.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// Pressure says for how long some or all of the processes had to wait for a resource: in the last 10, 60 and 300 seconds in percent of the
// time, and in nanoseconds altogether.
type Pressure struct{ Some, Full Stall }

// Stall is one line of pressure stall information.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	TotalNanoseconds     uint64
}

// Stats is one measurement of a container, its files included.
type Stats struct {
	Usage
	// UsageErr means that Usage could not be read.
	UsageErr     error
	RootfsBytes  uint64
	RootfsInodes uint64
	// RootfsErr means that RootfsBytes and RootfsInodes could not be measured.
	RootfsErr error
	LogBytes  uint64
}
