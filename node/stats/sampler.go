package stats

import (
	"context"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/recent"
	"github.com/kontiki/kontiki/node/runtime"
)

// Pods finds the pods of the node.
type Pods interface {
	// Pod returns the pod with that UID or, if it is empty, the newest pod of that name.
	Pod(namespace, name string, uid types.UID) (*corev1.Pod, bool)
}

// Container is what one running container uses.
type Container struct {
	runtime.Container
	Pod   *corev1.Pod // nil if the agent does not know it any more
	Usage runtime.Usage
}

// Sample is one measurement of the node. It is immutable.
type Sample struct {
	Time       time.Time
	Containers []Container
	// Networks are those of the pods with a network of their own, by UID.
	Networks map[string][]Interface
	Node     Machine
	// NodeNetwork is the network of the host.
	NodeNetwork []Interface
	// Failed is true if something of a running container could not be read.
	Failed bool
}

// Sampler measures on request. It is safe for concurrent use.
type Sampler struct {
	runtime runtime.Runtime
	pods    Pods
	turn    chan struct{} // holds an element while somebody measures
	newest  *Sample       // guarded by turn
	files   recent.Cache[string, Files]
}

// maxFiles is of how many containers the size of their files is remembered.
const maxFiles = 4096

// New returns a Sampler of the containers of a runtime.
func New(r runtime.Runtime, pods Pods) *Sampler {
	return &Sampler{runtime: r, pods: pods, turn: make(chan struct{}, 1), files: recent.Cache[string, Files]{Limit: maxFiles}}
}

// Sample returns a measurement that is not older than age. Only one measures at a time, and those that wait share its result. The result has
// what could be read until the context ended.
func (s *Sampler) Sample(ctx context.Context, age time.Duration) *Sample {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return &Sample{Time: time.Now(), Failed: true}
	}
	if s.newest == nil || time.Since(s.newest.Time) > age {
		s.newest = s.measure(ctx)
	}
	return s.newest
}

func (s *Sampler) measure(ctx context.Context) *Sample {
	out := &Sample{Time: time.Now(), Networks: map[string][]Interface{}, Node: machineUsage(), NodeNetwork: networkOf("self")}
	list, err := s.runtime.ListContainers(ctx, "")
	if err != nil {
		out.Failed = true
		return out
	}
	for _, c := range list {
		if c.State != runtime.StateRunning {
			continue
		}
		used, err := s.runtime.Usage(ctx, c.ID)
		if err != nil {
			if now, err := s.runtime.Container(ctx, c.ID); err == nil && now.State == runtime.StateRunning {
				out.Failed = true
			}
			continue
		}
		if used.Time.IsZero() {
			used.Time = time.Now()
		}
		pod, _ := s.pods.Pod(c.PodNamespace, c.PodName, types.UID(c.PodUID))
		if newest, ok := s.pods.Pod(c.PodNamespace, c.PodName, ""); ok && newest != nil && string(newest.UID) != c.PodUID {
			continue // it ends, and another pod has its name already: no metric may appear twice
		}
		out.Containers = append(out.Containers, Container{Container: c, Pod: pod, Usage: used})
		if _, known := out.Networks[c.PodUID]; !known && c.Pid > 0 && pod != nil && !pod.Spec.HostNetwork {
			out.Networks[c.PodUID] = networkOf(strconv.Itoa(c.Pid))
		}
	}
	return out
}

// Files is the size of a container's files when it was measured last.
type Files struct {
	Rootfs, Inodes, Logs uint64
	Measured             bool // Rootfs and Inodes are known
	Time                 time.Time
}

// FilesAge is how long a measurement of a container's files is usually used again: they are walked for it.
const FilesAge = time.Minute

// Files returns the size of a container's files, measured not longer ago than age; Time is zero if that was not possible.
func (s *Sampler) Files(ctx context.Context, id string, age time.Duration) Files {
	if known, ok := s.files.Get(id); ok && time.Since(known.Time) < age {
		return known
	}
	st, err := s.runtime.Stats(ctx, id)
	if err != nil {
		return Files{}
	}
	f := Files{Rootfs: st.RootfsBytes, Inodes: st.RootfsInodes, Logs: st.LogBytes, Measured: st.RootfsErr == nil, Time: time.Now()}
	s.files.Put(id, f, 1)
	return f
}
