package server

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/runtime"
)

// usage is what one running container uses.
type usage struct {
	container runtime.Container
	pod       *corev1.Pod // nil if the agent does not know it any more
	runtime.Usage
}

// usages returns what all running containers use, and whether something could not be read.
func (s *Server) usages(ctx context.Context) (out []usage, failed bool) {
	list, err := s.c.Runtime.ListContainers(ctx, "")
	if err != nil {
		return nil, true
	}
	for _, c := range list {
		if c.State != runtime.StateRunning {
			continue
		}
		used, err := s.c.Runtime.Usage(ctx, c.ID)
		if err != nil {
			if now, err := s.c.Runtime.Container(ctx, c.ID); err == nil && now.State == runtime.StateRunning {
				failed = true
			}
			continue
		}
		pod, _ := s.c.Pods.Pod(c.PodNamespace, c.PodName, types.UID(c.PodUID))
		if newest, ok := s.c.Pods.Pod(c.PodNamespace, c.PodName, ""); ok && newest != nil && string(newest.UID) != c.PodUID {
			continue // it ends, and another pod has its name already: no metric may appear twice
		}
		out = append(out, usage{container: c, pod: pod, Usage: used})
	}
	return out, failed
}

// files is the size of a container's files when it was measured last.
type files struct {
	rootfs, inodes, logs uint64
	measured             bool // rootfs and inodes are known
	at                   time.Time
}

// filesFor is how long a measurement of a container's files is used again: they are walked for it.
const filesFor = time.Minute

// filesOf returns the size of a container's files, measured within the last filesFor; at is zero if that was not possible.
func (s *Server) filesOf(ctx context.Context, id string) files {
	if known, ok := s.files.Get(id); ok && time.Since(known.at) < filesFor {
		return known
	}
	st, err := s.c.Runtime.Stats(ctx, id)
	if err != nil {
		return files{}
	}
	f := files{rootfs: st.RootfsBytes, inodes: st.RootfsInodes, logs: st.LogBytes, measured: st.RootfsErr == nil, at: time.Now()}
	s.files.Put(id, f, 1)
	return f
}
