// Package runtime is what the node agent needs of a container runtime.
//
// Nouns:
//
//   - A sandbox is what the containers of one pod share: pinned network, IPC and UTS namespaces, a cgroup parent and, if
//     asked for, a process namespace. It has no process of its own (except for a shared process namespace) and is named
//     by the pod's UID. It outlives the agent and the runtime's daemon, but not the machine.
//   - A container is one attempt to run one container of a pod spec. It has an id of its own; a restart is a new
//     container with the next attempt number. Life: created -> running -> exited, and then removed. An exited container
//     keeps its exit status and its log until it is removed.
//   - An image is named by references and identified by the digest of its configuration (ID).
//   - A state change is told through Events. Events are hints without order between containers; Containers is the truth.
//
// All methods are safe for concurrent use, and honour their context. Removing what is not there is no error.
// node/runtime/fake implements it in memory, node/runtime/containerd for real; both pass runtimetest.Suite.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Errors are classes: test with errors.Is.
var (
	// ErrNotFound says that the sandbox, container or image is not there.
	ErrNotFound = errors.New("runtime: not found")
	// ErrNotRunning says that the container has no process to signal, attach to or exec beside.
	ErrNotRunning = errors.New("runtime: container is not running")
	// ErrUnavailable says that the runtime's daemon cannot be reached now; trying again may help.
	ErrUnavailable = errors.New("runtime: unavailable")
	// ErrRegistryUnreachable says that a pull got no answer from the image's registry, not even a refusal.
	ErrRegistryUnreachable = errors.New("runtime: the registry cannot be reached")
	// ErrInvalidImageName says that an image reference cannot be parsed.
	ErrInvalidImageName = errors.New("runtime: invalid image name")
	// ErrNonRootUnknown and ErrRunAsRoot refuse a container that must not run as root.
	ErrNonRootUnknown = errors.New("runtime: the user of the image is not known to be another than root")
	ErrRunAsRoot      = errors.New("container has runAsNonRoot and image will run as root")
)

// NonRootUnknown is the ErrNonRootUnknown of an image whose user is a name.
type NonRootUnknown struct{ User string }

func (e NonRootUnknown) Error() string {
	return fmt.Sprintf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", e.User)
}

// Is makes it an ErrNonRootUnknown.
func (e NonRootUnknown) Is(target error) bool { return target == ErrNonRootUnknown }

// Runtime is the whole seam.
type Runtime interface {
	Sandboxes
	Containers
	Streams
	Images
	// Version names the runtime for Node.status.nodeInfo, "containerd://1.6.20"; an error means it is not healthy.
	Version(ctx context.Context) (string, error)
	// Features says what this runtime can do on this host. It does not change while the agent lives.
	Features() Features
	// Events tells container changes until ctx ends. A slow reader loses events, never blocks the runtime; after a gap
	// (lost events, the daemon was away) it gets an event with no ContainerID, and should list again.
	Events(ctx context.Context) <-chan Event
}

// Features are what not every host can do.
type Features struct {
	// RecursiveReadOnly says that a mount can be made read-only with all that is mounted below it.
	RecursiveReadOnly bool
	// AppArmor and SELinux say that the host's kernel enforces them.
	AppArmor, SELinux bool
}

// Sandboxes makes and removes what the containers of a pod share.
type Sandboxes interface {
	// EnsureSandbox makes the sandbox, or what is missing of it, and answers it.
	EnsureSandbox(ctx context.Context, c SandboxConfig) (Sandbox, error)
	// RemoveSandbox frees it. None of its containers may be running; exited ones may stay. An unknown uid is no error.
	RemoveSandbox(ctx context.Context, uid string) error
	ListSandboxes(ctx context.Context) ([]Sandbox, error)
}

// Containers runs containers.
type Containers interface {
	// CreateContainer prepares a container; nothing of it runs. Errors: ErrNotFound for the image, ErrRunAsRoot, ErrNonRootUnknown.
	CreateContainer(ctx context.Context, c ContainerConfig) (id string, err error)
	// StartContainer runs a created container. When it fails the container becomes exited, with exit code 128 and reason StartError.
	StartContainer(ctx context.Context, id string) error
	// SignalContainer sends a signal to the container's first process. Errors: ErrNotRunning.
	SignalContainer(ctx context.Context, id string, signal string) error
	// KillContainer kills every process of the container and waits until it has exited.
	KillContainer(ctx context.Context, id string) error
	// RemoveContainer removes an exited (or merely created) container and its log files.
	RemoveContainer(ctx context.Context, id string) error
	// Container answers one container, ListContainers all of this node, or of one pod when podUID is not "".
	Container(ctx context.Context, id string) (Container, error)
	ListContainers(ctx context.Context, podUID string) ([]Container, error)
	// UpdateResources changes the limits of a running container.
	UpdateResources(ctx context.Context, id string, r Resources) error
	// Stats answers what a running container uses.
	Stats(ctx context.Context, id string) (Stats, error)
}

// Streams are the interactive ways into a running container.
type Streams interface {
	// Exec runs a command beside the container's process and answers its exit code when it has ended and all its
	// output is written. When ctx ends first the process is killed and ctx's error answered.
	Exec(ctx context.Context, id string, o ExecOptions) (exitCode int, err error)
	// Attach connects to the container's own streams until it exits, the input of a stdinOnce container ends, or ctx ends.
	Attach(ctx context.Context, id string, o AttachOptions) error
}

// Images keeps images.
type Images interface {
	// GetImage answers a local image by reference or ID. Errors: ErrNotFound, ErrInvalidImageName.
	GetImage(ctx context.Context, ref string) (Image, error)
	// PullImage fetches an image from its registry. Concurrent pulls of one reference share the work.
	PullImage(ctx context.Context, ref string, auth []Auth) (Image, error)
	// ImportImage reads an archive (OCI layout or docker save, gzip allowed) and answers the images it held.
	ImportImage(ctx context.Context, archive io.Reader) ([]Image, error)
	ListImages(ctx context.Context) ([]Image, error)
	// MountImage mounts the files of a local image, read-only, on an existing folder for a pod that has a sandbox. It is
	// idempotent: what is mounted there stays. The mount goes with whoever unmounts it, the rest with RemoveSandbox.
	MountImage(ctx context.Context, podUID, ref, target string) error
	// RemoveImage removes all names of the image with that ID or reference.
	RemoveImage(ctx context.Context, ref string) error
}

// NamespaceMode says whose namespace a pod uses.
type NamespaceMode uint8

const (
	NamespacePod  NamespaceMode = iota // one of its own, shared by its containers
	NamespaceHost                      // the agent's
)

// SandboxConfig asks for a sandbox.
type SandboxConfig struct {
	UID, Namespace, Name string
	Hostname             string
	Net, IPC             NamespaceMode
	// HostPID puts the containers into the host's process namespace; SharePID gives them one in common.
	HostPID, SharePID bool
	Sysctls           map[string]string
	// Resources are the pod's own limits, zero for none: the sum over containers, as the cgroup parent's.
	Resources Resources
}

// Sandbox is one that exists.
type Sandbox struct {
	UID, Namespace, Name string
	// NetNS is the path of the pinned network namespace, "" with the host's network.
	NetNS string
	// Generation changes when the sandbox had to be made anew, as after a reboot.
	Generation string
}

// Resources limit a container or a pod. Zero means no limit.
type Resources struct {
	CPUShares   uint64
	CPUQuota    int64 // microseconds a period
	CPUPeriod   uint64
	MemoryLimit int64 // bytes
	PidsLimit   int64
	OOMScoreAdj int
	HugePages   map[string]uint64 // page size ("2MB") to bytes
}

// KeyValue is one environment variable.
type KeyValue struct{ Name, Value string }

// Propagation says which mounts pass between host and container.
type Propagation uint8

const (
	PropagationPrivate Propagation = iota
	PropagationHostToContainer
	PropagationBidirectional
)

// Mount binds a file or folder of the host into the container.
type Mount struct {
	HostPath, ContainerPath string
	ReadOnly                bool
	RecursiveReadOnly       bool
	Propagation             Propagation
}

// Device passes a host's device.
type Device struct{ HostPath, ContainerPath, Permissions string }

// Security is the resolved security context.
type Security struct {
	RunAsUser, RunAsGroup *int64
	RunAsNonRoot          bool
	// SupplementalGroups go in addition to those of the image's /etc/group; StrictGroups leaves the image's out.
	SupplementalGroups []int64
	StrictGroups       bool
	Privileged         bool
	AddCaps, DropCaps  []string // without CAP_, "ALL" allowed
	ReadOnlyRootfs     bool
	NoNewPrivileges    bool
	// Seccomp is "" or "unconfined", "runtime/default", or "localhost/PATH". AppArmor likewise.
	Seccomp  string
	AppArmor string
	// MaskedPaths false leaves /proc unmasked (procMount: Unmasked).
	UnmaskedProc bool
}

// ContainerConfig asks for a container.
type ContainerConfig struct {
	Sandbox    SandboxConfig
	Name       string
	Attempt    int
	Image      string   // reference or ID of a local image
	Command    []string // replaces the image's entrypoint
	Args       []string // replaces the image's cmd
	WorkingDir string
	Env        []KeyValue // in order; later ones win; over the image's
	Mounts     []Mount
	Devices    []Device
	Resources  Resources
	Security   Security
	Stdin      bool
	StdinOnce  bool
	TTY        bool
	StopSignal string // replaces the image's
	// ProcessesOf is the id of a running container whose process namespace this one joins, "" for none.
	ProcessesOf string
	LogPath     string // absolute path of the CRI log file: .../POD/CONTAINER/N.log
	Labels      map[string]string
	Annotations map[string]string
}

// State is where a container is in its life.
type State uint8

const (
	StateUnknown State = iota
	StateCreated
	StateRunning
	StateExited
)

func (s State) String() string { return [...]string{"unknown", "created", "running", "exited"}[s] }

// Container is what is known of one.
type Container struct {
	ID           string
	PodUID       string
	PodNamespace string
	PodName      string
	Name         string
	Attempt      int
	Image        string // as asked
	ImageID      string // digest of the configuration, "sha256:..."
	ImageRef     string // "repo@sha256:..." where known, else ImageID
	State        State
	Pid          int
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	ExitCode     int
	OOMKilled    bool
	Reason       string // why it exited, when the runtime knows: OOMKilled, StartError, Unknown
	Message      string
	LogPath      string
	StopSignal   string
	Labels       map[string]string
	User         *User
	Stdin        bool
	StdinOnce    bool
	TTY          bool
}

// User is who a container's first process runs as.
type User struct {
	UID, GID int64
	Groups   []int64
}

// Event says that a container changed.
type Event struct {
	ContainerID string
	PodUID      string
	State       State
}

// Size is a terminal's.
type Size struct{ Width, Height uint16 }

// ExecOptions is a command to run. Nil streams are not connected; Stdout and Stderr may be one writer. Resize is read
// while the command runs.
type ExecOptions struct {
	Command        []string
	TTY            bool
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// AttachOptions connects to a container's own streams.
type AttachOptions struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// Auth is one set of registry credentials to try.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken string
}

// Image is one local image.
type Image struct {
	ID          string   // "sha256:..." of its configuration
	RepoTags    []string // "docker.io/library/busybox:1"
	RepoDigests []string // "docker.io/library/busybox@sha256:..."
	Size        int64    // bytes
	User        string
	StopSignal  string
	// Imported says that the image came from an archive that an administrator imported, and was not pulled since.
	Imported bool
}

// Stats is one reading.
type Stats struct {
	Time               time.Time
	CPUNanoseconds     uint64
	MemoryBytes        uint64
	MemoryWorkingSet   uint64
	MemoryRSS          uint64
	PageFaults         uint64
	MajorPageFaults    uint64
	Processes          uint64
	RootfsBytes        uint64
	RootfsInodes       uint64
	LogBytes           uint64
	MemoryLimit        uint64
	MemoryLimitPresent bool
}
