package upgrade

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pods are the running pods of a host.
type pods map[types.UID]podState

type podState struct {
	name     string
	ready    bool
	restarts map[string]int32 // by container
}

func podsOf(ctx context.Context, c Cluster, h Host) (pods, error) {
	if h.Role == Master {
		return nil, nil
	}
	list, err := c.Pods(ctx, h.Name)
	if err != nil {
		return nil, err
	}
	out := pods{}
	for i := range list {
		p := &list[i]
		if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
			continue
		}
		s := podState{name: p.Namespace + "/" + p.Name, restarts: map[string]int32{}}
		for _, c := range p.Status.Conditions {
			s.ready = s.ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			s.restarts[c.Name] = c.RestartCount
		}
		out[p.UID] = s
	}
	return out, nil
}

// compare says whether pods are after an upgrade as they were before. Pods that were not ready before may do as they like, and gone is how many
// have been deleted or have ended meanwhile, as they may at any time.
func (before pods) compare(after pods) (gone int, err error) {
	var unready, restarted []string
	for uid, was := range before {
		now, ok := after[uid]
		if !ok {
			gone++
			continue
		}
		if !was.ready {
			continue
		}
		if !now.ready {
			unready = append(unready, was.name)
		}
		for container, n := range was.restarts {
			if now.restarts[container] > n {
				restarted = append(restarted, was.name+" ("+container+")")
			}
		}
	}
	switch {
	case len(restarted) > 0:
		return gone, fmt.Errorf("%w, which an upgrade does not do: %s", errRestarted, some(restarted))
	case len(unready) > 0:
		return gone, fmt.Errorf("pods that were ready are not: %s", some(unready))
	}
	return gone, nil
}

// say describes what became of pods.
func (before pods) say(gone int) string {
	switch {
	case len(before) == 0:
		return ""
	case gone > 0:
		return fmt.Sprintf(", with %d of its %d pods; %d ended meanwhile", len(before)-gone, len(before), gone)
	}
	return fmt.Sprintf(", with its %d pod(s) as before", len(before))
}

// some joins names, the first of many.
func some(names []string) string {
	const most = 5
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
