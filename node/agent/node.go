package agent

import (
	"bufio"
	"context"
	"maps"
	"os"
	goruntime "runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/eintr"
	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/shutdown"
)

// nodeStatus checks the machine and keeps the Node object. The object is replaced and never changed, so a new pointer means a new
// status.
type nodeStatus struct {
	c Config
	// pressure returns the conditions of what the node runs out of; nil for none.
	pressure func() []corev1.NodeConditionType
	// shutdown says whether the machine is shutting down; nil if that is not known.
	shutdown func() bool
	// inUse returns the volumes that are attached and in use; nil for none.
	inUse func() []corev1.UniqueVolumeName
	// devices returns what device plugins offer; nil for nothing.
	devices        func() (capacity, allocatable corev1.ResourceList)
	reserved       int    // processors that pods cannot request
	reservedMemory uint64 // bytes that pods cannot request
	mu             sync.Mutex
	node           *corev1.Node
}

func newNodeStatus(c Config) *nodeStatus {
	n := &nodeStatus{c: c}
	n.node = n.build(nil, "", context.Canceled)
	return n
}

func (n *nodeStatus) current() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node
}

// look builds a new Node object. It returns the runtime's error, which is also in the Ready condition.
func (n *nodeStatus) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	version, err := n.c.Runtime.Version(ctx)
	var images []corev1.ContainerImage
	if err == nil {
		if list, lerr := n.c.Runtime.ListImages(ctx); lerr == nil {
			for _, i := range list {
				images = append(images, corev1.ContainerImage{Names: append(append([]string{}, i.RepoDigests...), i.RepoTags...), SizeBytes: i.Size})
			}
		}
		sort.Slice(images, func(i, j int) bool {
			if images[i].SizeBytes != images[j].SizeBytes {
				return images[i].SizeBytes > images[j].SizeBytes
			}
			return strings.Join(images[i].Names, ",") < strings.Join(images[j].Names, ",")
		})
		images = images[:min(len(images), 50)]
	}
	if ctx.Err() != nil && err == nil {
		return ctx.Err()
	}
	node := n.build(images, version, err)
	n.mu.Lock()
	defer n.mu.Unlock()
	node.Status.VolumesInUse = n.node.Status.VolumesInUse // useChanged keeps it
	if !equality.Semantic.DeepEqual(node, n.node) {
		n.node = node
	}
	return err
}

// useChanged takes over which volumes are in use. It returns whether that has changed.
func (n *nodeStatus) useChanged() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.inUse() // under the lock, so that a later call has a later answer
	if slices.Equal(n.node.Status.VolumesInUse, now) {
		return false
	}
	node := n.node.DeepCopy()
	node.Status.VolumesInUse = now
	n.node = node
	return true
}

// keepMemory is kept free of pods, and 10 % of the disk, as with the kubelet; with less the node is under pressure.
const keepMemory = 100 << 20

func (n *nodeStatus) build(images []corev1.ContainerImage, version string, runtimeErr error) *corev1.Node {
	hostname := n.c.NodeName
	arch := goruntime.GOARCH
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.c.NodeName, Labels: map[string]string{
		"kubernetes.io/hostname": hostname, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch,
	}}}
	for k, v := range n.c.Labels {
		node.Labels[k] = v
	}
	if root := n.c.folderRoot(); root != "" {
		node.Annotations = map[string]string{localpath.Root: root}
	}
	node.Spec.Taints = n.c.Taints
	s := &node.Status
	s.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.c.NodeIP.String()}, {Type: corev1.NodeHostName, Address: hostname}}
	mem := memInfo()
	disk := diskOf(n.c.nodefs())
	s.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(int64(mem["MemTotal"]), resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(n.c.MaxPods), resource.DecimalSI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(int64(disk.total), resource.BinarySI),
		"hugepages-1Gi":                 *resource.NewQuantity(0, resource.DecimalSI),
		"hugepages-2Mi":                 *resource.NewQuantity(0, resource.DecimalSI),
	}
	maps.Copy(s.Capacity, n.c.Capacity)
	s.Allocatable = s.Capacity.DeepCopy()
	s.Allocatable[corev1.ResourceMemory] = *resource.NewQuantity(max(0, int64(mem["MemTotal"])-int64(max(keepMemory, n.reservedMemory))), resource.BinarySI)
	s.Allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(disk.total/10*9), resource.BinarySI)
	if n.reserved > 0 {
		s.Allocatable[corev1.ResourceCPU] = *resource.NewQuantity(int64(max(0, goruntime.NumCPU()-n.reserved)), resource.DecimalSI)
	}
	maps.Copy(s.Allocatable, n.c.Capacity)
	addDevices(s, n.devices)
	s.DaemonEndpoints.KubeletEndpoint.Port = n.c.Port
	s.Images = images
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	s.NodeInfo = corev1.NodeSystemInfo{
		MachineID: firstLine("/etc/machine-id"), SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"), BootID: firstLine("/proc/sys/kernel/random/boot_id"),
		KernelVersion: unix.ByteSliceToString(uts.Release[:]), OSImage: osName(), ContainerRuntimeVersion: version, KubeletVersion: n.c.Version,
		OperatingSystem: "linux", Architecture: arch,
	}
	if swap := int64(mem["SwapTotal"]); swap > 0 {
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &swap}
	}
	s.DeclaredFeatures = declaredFeatures
	s.RuntimeHandlers, s.Features = capabilities(n.c.Runtime.Features())
	n.mu.Lock()
	var old []corev1.NodeCondition
	if n.node != nil {
		old = n.node.Status.Conditions
	}
	n.mu.Unlock()
	add := func(t corev1.NodeConditionType, bad bool, reasons, messages [2]string) {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: reasons[0], Message: messages[0]}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, reasons[1], messages[1]
		}
		s.Conditions = append(s.Conditions, c)
	}
	var pressure []corev1.NodeConditionType
	if n.pressure != nil {
		pressure = n.pressure()
	}
	add(corev1.NodeMemoryPressure, slices.Contains(pressure, corev1.NodeMemoryPressure), [2]string{"KubeletHasSufficientMemory", "KubeletHasInsufficientMemory"},
		[2]string{"kubelet has sufficient memory available", "kubelet has insufficient memory available"})
	add(corev1.NodeDiskPressure, slices.Contains(pressure, corev1.NodeDiskPressure), [2]string{"KubeletHasNoDiskPressure", "KubeletHasDiskPressure"},
		[2]string{"kubelet has no disk pressure", "kubelet has disk pressure"})
	add(corev1.NodePIDPressure, slices.Contains(pressure, corev1.NodePIDPressure), [2]string{"KubeletHasSufficientPID", "KubeletHasInsufficientPID"},
		[2]string{"kubelet has sufficient PID available", "kubelet has insufficient PID available"})
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if runtimeErr != nil {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", "container runtime is down: "+runtimeErr.Error()
	}
	if n.shutdown != nil && n.shutdown() {
		ready.Status, ready.Reason = corev1.ConditionFalse, "KubeletNotReady"
		ready.Message = strings.TrimSuffix(shutdown.NotReady+"; "+strings.TrimPrefix(ready.Message, "kubelet is posting ready status"), "; ")
	}
	s.Conditions = append(s.Conditions, ready)
	now := metav1.Now().Rfc3339Copy()
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.LastTransitionTime, c.LastHeartbeatTime = now, now
		for _, o := range old {
			if o.Type != c.Type {
				continue
			}
			if o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
			}
			if o.Status == c.Status && o.Reason == c.Reason && o.Message == c.Message {
				c.LastHeartbeatTime = o.LastHeartbeatTime // a heartbeat alone is not reported
			}
		}
	}
	return node
}

// declaredFeatures are those of upstream's names for what newer nodes alone support, sorted.
var declaredFeatures = []string{"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits"}

// capabilities are what pods can ask of the node's runtime handlers, and of the node. The policy of supplementary groups is kept on every host.
func capabilities(f runtime.Features) ([]corev1.NodeRuntimeHandler, *corev1.NodeFeatures) {
	var handlers []corev1.NodeRuntimeHandler
	for _, h := range f.Handlers {
		handlers = append(handlers, corev1.NodeRuntimeHandler{Name: h.Name, Features: &corev1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: new(h.RecursiveReadOnly), UserNamespaces: new(h.UserNamespaces),
		}})
	}
	return handlers, &corev1.NodeFeatures{SupplementalGroupsPolicy: new(true)}
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(s)
}

func osName() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

// memInfo reads /proc/meminfo, in bytes.
func memInfo() map[string]uint64 {
	out := map[string]uint64{}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return out
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		k, v, _ := strings.Cut(sc.Text(), ":")
		if n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64); err == nil {
			out[k] = n << 10
		}
	}
	return out
}

type diskSize struct{ total, usable, free, inodes, inodesFree uint64 }

// diskOf returns the size of a filesystem. What is reserved for root is not usable: it never becomes free for others.
func diskOf(path string) diskSize {
	var st unix.Statfs_t
	if eintr.Retry(func() error { return unix.Statfs(path, &st) }) != nil {
		return diskSize{}
	}
	size := uint64(st.Bsize)
	return diskSize{st.Blocks * size, (st.Blocks - (st.Bfree - st.Bavail)) * size, st.Bavail * size, st.Files, st.Ffree}
}

// pids returns how many process ids are free, and how many there can be.
func pids() (free, limit uint64) {
	limit, err := strconv.ParseUint(firstLine("/proc/sys/kernel/pid_max"), 10, 64)
	if err != nil {
		return 0, 0
	}
	f := strings.Fields(firstLine("/proc/loadavg"))
	if len(f) < 4 {
		return limit, limit
	}
	_, total, _ := strings.Cut(f[3], "/")
	used, _ := strconv.ParseUint(total, 10, 64)
	return limit - min(used, limit), limit
}
