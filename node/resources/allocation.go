package resources

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// Allocation is the CPU and memory that the node has granted to a pod, and what of it is set in the cgroups. A change of the pod's
// spec is granted when it fits beside the other pods (Manager.resize), and then set by the pod's worker (worker.resizeContainers).
// It is stored in the pod's directory and never changed: a new allocation replaces it.
type Allocation struct {
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"`
	Containers map[string]corev1.ResourceRequirements `json:"containers"`
	// AppliedPod is set in the pod's cgroup, Applied in those of containers that were resized since they were created, by ID. The
	// label of any other container has its values.
	AppliedPod runtime.Resources `json:"appliedPod"`
	Applied    map[string]Limits `json:"applied,omitempty"`
	// Round counts how often all containers of the pod were restarted by a rule.
	Round int `json:"round,omitempty"`
	// Handler is what the pod's RuntimeClass named when its sandbox was created, nil before that.
	Handler *string `json:"handler,omitempty"`
}

// Limits are one container's CPU, in thousandths, and memory in bytes. What the container does not limit, its pod may.
type Limits struct {
	CPURequest    int64 `json:"cpuRequest,omitempty"`
	CPULimit      int64 `json:"cpuLimit,omitempty"`
	MemoryRequest int64 `json:"memoryRequest,omitempty"`
	MemoryLimit   int64 `json:"memoryLimit,omitempty"`
}

// LimitsOf returns a container's limits, where those of the pod hold for what the container does not limit.
func LimitsOf(pod *corev1.Pod, c *corev1.Container) Limits {
	req, lim := c.Resources.Requests, c.Resources.Limits
	l := Limits{CPURequest: amount.Milli(req.Cpu()), CPULimit: amount.Milli(lim.Cpu()), MemoryRequest: amount.Value(req.Memory()), MemoryLimit: amount.Value(lim.Memory())}
	if r := pod.Spec.Resources; r != nil {
		if l.CPULimit == 0 {
			l.CPULimit = amount.Milli(r.Limits.Cpu())
		}
		if l.MemoryLimit == 0 {
			l.MemoryLimit = amount.Value(r.Limits.Memory())
		}
	}
	return l
}

// LabelLimits has the limits with which a container was created.
const LabelLimits = "limits"

// Label returns the value of LabelLimits.
func (l Limits) Label() string {
	b, _ := json.Marshal(l) // cannot fail
	return string(b)
}

// Allocate grants a pod what its spec requires.
func Allocate(pod *corev1.Pod) *Allocation {
	a := &Allocation{Pod: pod.Spec.Resources, Containers: map[string]corev1.ResourceRequirements{}, AppliedPod: ForPod(pod)}
	for c, kind := range podspec.Containers(pod) {
		if kind != podspec.Ephemeral {
			a.Containers[c.Name] = c.Resources
		}
	}
	return a
}

// Grant returns an allocation of what a pod's spec requires, with nothing of the change set yet.
func (a *Allocation) Grant(pod *corev1.Pod) *Allocation {
	next := Allocate(pod)
	next.AppliedPod, next.Applied, next.Round, next.Handler = a.AppliedPod, a.Applied, a.Round, a.Handler
	return next
}

// Granted says whether the allocation is what a pod's spec requires.
func (a *Allocation) Granted(pod *corev1.Pod) bool { return a.Apply(pod) == pod }

// Apply returns the pod with the allocated resources in its spec: pod itself if they are the same.
func (a *Allocation) Apply(pod *corev1.Pod) *corev1.Pod {
	if a == nil {
		return pod
	}
	out := pod
	change := func() *corev1.Pod {
		if out == pod {
			out = pod.DeepCopy()
		}
		return out
	}
	if !equality.Semantic.DeepEqual(a.Pod, pod.Spec.Resources) {
		change().Spec.Resources = a.Pod
	}
	for c, kind := range podspec.Containers(pod) {
		if r, ok := a.Containers[c.Name]; ok && kind != podspec.Ephemeral && !equality.Semantic.DeepEqual(r, c.Resources) {
			mine, _ := podspec.Container(change(), c.Name)
			mine.Resources = r
		}
	}
	return out
}

// AppliedTo returns the limits of a container's cgroup, false if they are not known: an earlier version of the agent created it.
func (a *Allocation) AppliedTo(c *runtime.Container) (l Limits, known bool) {
	if a != nil {
		if l, known = a.Applied[c.ID]; known {
			return l, true
		}
	}
	known = json.Unmarshal([]byte(c.Labels[LabelLimits]), &l) == nil
	return l, known
}

// With returns the allocation after containers were resized. Containers that no longer run are dropped.
func (a *Allocation) With(pod runtime.Resources, containers map[string]Limits, running func(id string) bool) *Allocation {
	next := *a
	next.AppliedPod, next.Applied = pod, maps.Clone(a.Applied)
	if next.Applied == nil {
		next.Applied = map[string]Limits{}
	}
	maps.Copy(next.Applied, containers)
	maps.DeleteFunc(next.Applied, func(id string, _ Limits) bool { return !running(id) })
	return &next
}

// allocationFile stores a pod's allocation. It need not survive a crash of the host, after which nothing of the pod is running.
const allocationFile = "allocation.json"

// Save writes the allocation to the pod's directory, which it creates if it must.
func (a *Allocation) Save(dir string) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, allocationFile)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// LoadAllocation returns the stored allocation, nil if there is none.
func LoadAllocation(dir string) (*Allocation, error) {
	b, err := os.ReadFile(filepath.Join(dir, allocationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	a := &Allocation{}
	if err == nil {
		err = json.Unmarshal(b, a)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}
