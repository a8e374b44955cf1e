package memory

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/node/numa"
)

// The policies' names, which are those of the kubelet's memoryManagerPolicy.
const (
	None   = "None"
	Static = "Static"
)

// Reserved is what is kept from pods, by NUMA node and resource, in bytes.
type Reserved map[int]map[corev1.ResourceName]uint64

// ParseReserved reads what the kubelet's flag of this name does: "0:memory=1Gi,hugepages-2Mi=4Mi;1:memory=1Gi".
func ParseReserved(s string, m *numa.Machine) (Reserved, error) {
	out := Reserved{}
	for part := range strings.SplitSeq(s, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		node, list, ok := strings.Cut(part, ":")
		id, err := strconv.Atoi(strings.TrimSpace(node))
		if !ok || err != nil {
			return nil, fmt.Errorf("reserved memory %q: want NODE:RESOURCE=AMOUNT,..., such as 0:memory=1Gi", part)
		}
		if !slices.Contains(m.IDs(), id) {
			return nil, fmt.Errorf("reserved memory %q: this machine has the NUMA nodes %v", part, m.IDs())
		}
		if out[id] != nil {
			return nil, fmt.Errorf("reserved memory: NUMA node %d is there twice", id)
		}
		out[id] = map[corev1.ResourceName]uint64{}
		for item := range strings.SplitSeq(list, ",") {
			name, amount, ok := strings.Cut(strings.TrimSpace(item), "=")
			q, err := resource.ParseQuantity(amount)
			if !ok || err != nil || q.Sign() < 0 || !counted(corev1.ResourceName(name)) {
				return nil, fmt.Errorf("reserved memory %q: want memory=AMOUNT or hugepages-SIZE=AMOUNT", item)
			}
			out[id][corev1.ResourceName(name)] = uint64(q.Value())
		}
	}
	return out, nil
}

// Total returns how much memory is reserved on all nodes.
func (r Reserved) Total() uint64 {
	var sum uint64
	for _, l := range r {
		sum += l[corev1.ResourceMemory]
	}
	return sum
}

// counted says whether a resource is memory of NUMA nodes.
func counted(name corev1.ResourceName) bool {
	return name == corev1.ResourceMemory || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}
