// Package userns gives pods with hostUsers: false the ids of the host that the users in their user namespaces have (KEP-127).
//
// Each such pod has a range of its own: user and group 0 in the pod is the range's first id on the host, and so on. Which range is recorded
// in the pod's folder, so that a restarted agent keeps it, and is free again when the folder is gone.
package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/kontiki/kontiki/internal/durable"
)

// IDsPerPod is the number of ids of a pod, which is the kubelet's default.
const IDsPerPod = 65536

// Range is a range of user ids of the host, and of the group ids of the same numbers.
type Range struct{ First, Length uint32 }

// DefaultRange are the ids for pods if the host does not say others: all but the first 65536, which the host's own users have.
var DefaultRange = Range{First: IDsPerPod, Length: 1<<32 - IDsPerPod}

// check returns an error if pods cannot be given parts of a range.
func (r Range) check(pods int) error {
	switch {
	case r.First < IDsPerPod:
		return fmt.Errorf("the first id %d is less than %d: the host's own users may have it", r.First, IDsPerPod)
	case r.First%IDsPerPod != 0 || r.Length%IDsPerPod != 0:
		return fmt.Errorf("the first id %d and the length %d are not both multiples of %d", r.First, r.Length, IDsPerPod)
	case uint64(r.First)+uint64(r.Length) > 1<<32:
		return fmt.Errorf("%d ids from %d: ids have 32 bits", r.Length, r.First)
	case int(r.Length/IDsPerPod) < pods:
		return fmt.Errorf("%d ids are enough for %d pods, the node may have %d", r.Length, r.Length/IDsPerPod, pods)
	}
	return nil
}

// record is the content of a pod's file, in the kubelet's format.
type record struct {
	UIDs []mapping `json:"uidMappings"`
	GIDs []mapping `json:"gidMappings"`
}

type mapping struct {
	Host      uint32 `json:"hostId"`
	Container uint32 `json:"containerId"`
	Length    uint32 `json:"length"`
}

const file = "userns"

// Manager gives ranges to pods. It is safe for concurrent use.
type Manager struct {
	dir   string
	whole Range
	mu    sync.Mutex
	used  map[uint32]string // first ids to pods' UIDs
	pods  map[string]uint32 // the reverse
	next  uint32            // where the search for a free range begins: what was freed last is used last
}

// Open returns a manager for a range, at least as large as the pods need that the node may have. dir has a folder for each pod, named by its
// UID, in which the range of a pod is recorded.
func Open(dir string, whole Range, pods int) (*Manager, error) {
	if err := whole.check(pods); err != nil {
		return nil, fmt.Errorf("ids for user namespaces: %w", err)
	}
	m := &Manager{dir: dir, whole: whole, used: map[uint32]string{}, pods: map[string]uint32{}, next: whole.First}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ids for user namespaces: %w", err)
	}
	for _, e := range entries {
		first, err := m.load(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && m.used[first] != "" {
			err = fmt.Errorf("the ids from %d are those of pod %s", first, m.used[first])
		}
		if err != nil { // if another pod got these ids, it could read this one's files
			return nil, fmt.Errorf("ids of pod %s (%s): %w", e.Name(), filepath.Join(dir, e.Name(), file), err)
		}
		m.used[first], m.pods[e.Name()] = e.Name(), first
	}
	return m, nil
}

// load returns the first id of a pod that a previous agent recorded. It need not be of the present range, which may have changed.
func (m *Manager) load(pod string) (uint32, error) {
	r, err := durable.Load[record](filepath.Join(m.dir, pod, file))
	if err != nil {
		return 0, err
	}
	if r == nil || len(r.UIDs) != 1 || len(r.GIDs) != 1 || r.UIDs[0] != r.GIDs[0] || r.UIDs[0].Container != 0 || r.UIDs[0].Length != IDsPerPod ||
		r.UIDs[0].Host < IDsPerPod || r.UIDs[0].Host%IDsPerPod != 0 {
		return 0, errors.New("want one mapping of users, and the same of groups")
	}
	return r.UIDs[0].Host, nil
}

// Of returns the ids of a pod. If it has none yet, it gets some, which are recorded in its folder; that must exist.
func (m *Manager) Of(pod string) (Range, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if first, ok := m.pods[pod]; ok {
		return Range{first, IDsPerPod}, nil
	}
	count := m.whole.Length / IDsPerPod
	for i := range count {
		first := m.whole.First + ((m.next-m.whole.First)/IDsPerPod+i)%count*IDsPerPod
		if m.used[first] != "" {
			continue
		}
		ids := []mapping{{Host: first, Length: IDsPerPod}}
		if err := durable.Save(filepath.Join(m.dir, pod, file), &record{ids, ids}); err != nil {
			return Range{}, fmt.Errorf("ids for the pod's user namespace: %w", err)
		}
		m.used[first], m.pods[pod] = pod, first
		m.next = m.whole.First + (first-m.whole.First+IDsPerPod)%m.whole.Length
		return Range{first, IDsPerPod}, nil
	}
	return Range{}, fmt.Errorf("all %d ranges of ids for user namespaces are in use", count)
}

// Release frees the ids of a pod whose folder is gone. It is not an error if it has none.
func (m *Manager) Release(pod string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if first, ok := m.pods[pod]; ok {
		delete(m.pods, pod)
		delete(m.used, first)
	}
}
