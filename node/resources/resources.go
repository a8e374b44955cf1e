// Package resources computes the limits of CPU and memory that the cgroups of a pod and its containers get, and keeps what a node has granted
// to a pod, which its spec may exceed while it is resized (KEP-1287).
package resources

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

const (
	// CPUPeriod is that of CPU quotas, in microseconds.
	CPUPeriod = 100_000
	minShares = 2
	// MinQuota is the lowest quota that the kernel takes, in microseconds.
	MinQuota = 1000
)

func cpuShares(milli int64) uint64 {
	return uint64(max(minShares, min(milli*1024/1000, 262144)))
}

// MilliCPU returns the request, in thousandths, that gives a number of shares.
func MilliCPU(shares uint64) int64 { return int64(shares) * 1000 / 1024 }

// maxMilliCPU is the highest limit that is told to the kernel: a million cores. It refuses far higher ones.
const maxMilliCPU = 1e9

func cpuQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(MinQuota, min(milli, maxMilliCPU)*CPUPeriod/1000)
}

// ForContainer returns one container's limits for the runtime.
func ForContainer(pod *corev1.Pod, c *corev1.Container, nodeMemory int64) runtime.Resources {
	req, lim := c.Resources.Requests, c.Resources.Limits
	l := LimitsOf(pod, c)
	cpu := l.CPURequest
	if _, ok := req[corev1.ResourceCPU]; !ok {
		cpu = l.CPULimit // without a request, the limit is the request
	}
	r := runtime.Resources{
		CPUShares:   cpuShares(cpu),
		CPUQuota:    cpuQuota(l.CPULimit),
		CPUPeriod:   CPUPeriod,
		MemoryLimit: l.MemoryLimit,
		OOMScoreAdj: oomScore(pod, c, nodeMemory),
	}
	for name, q := range lim {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			if n, err := resource.ParseQuantity(size); err == nil {
				if r.HugePages == nil {
					r.HugePages = map[string]uint64{}
				}
				r.HugePages[pageSize(n.Value())] = uint64(amount.Value(&q))
			}
		}
	}
	return r
}

func pageSize(n int64) string {
	units := []string{"B", "KB", "MB", "GB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return resource.NewQuantity(n, resource.DecimalSI).String() + units[i]
}

// ForPod returns the limits of the pod's parent cgroup: a limit is set only if every container has one.
func ForPod(pod *corev1.Pod) runtime.Resources {
	reqs := helper.PodRequests(pod, helper.PodResourcesOptions{})
	r := runtime.Resources{CPUShares: cpuShares(amount.Milli(reqs.Cpu())), CPUPeriod: CPUPeriod}
	if q, ok := podspec.Limit(pod, corev1.ResourceCPU); ok {
		r.CPUQuota = cpuQuota(amount.Milli(&q))
	}
	if q, ok := podspec.Limit(pod, corev1.ResourceMemory); ok {
		r.MemoryLimit = amount.Value(&q)
	}
	return r
}

// oomScore returns the OOM score adjustment, which determines what is killed first when the node runs out of memory.
func oomScore(pod *corev1.Pod, c *corev1.Container, nodeMemory int64) int {
	if pod.Spec.PriorityClassName == "system-node-critical" || pod.Spec.PriorityClassName == "system-cluster-critical" && pod.Spec.Priority != nil && *pod.Spec.Priority > 2_000_000_000 {
		return -997
	}
	switch podspec.QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if nodeMemory <= 0 {
		return 999
	}
	adj := 1000 - 1000*amount.Value(c.Resources.Requests.Memory())/nodeMemory
	return int(max(3, min(adj, 999)))
}
