package volume

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/node/volume/csimount"
)

// State is what is needed to unmount a volume of a pod. It is on disk before anything is mounted, so that whatever is mounted is also
// unmounted when the agent, the pod and its objects are gone.
type State struct {
	// Plugin is the kind of volume; Volume is its name in the pod.
	Plugin string `json:"plugin"`
	Volume string `json:"volume"`
	// PersistentVolume is the name of the persistent volume, if it is one.
	PersistentVolume string `json:"persistentVolume,omitempty"`
	// Dir is the volume's folder below the pod's, and Path what mount returned.
	Dir  string `json:"dir"`
	Path string `json:"path,omitempty"`
	// Mounted says that mounting was completed. If not, all, a part or nothing of it may have been done.
	Mounted bool `json:"mounted"`
	// CSI is what a CSI driver needs.
	CSI *csimount.State `json:"csi,omitempty"`
	// seen says that this process has mounted it or found it mounted.
	seen bool
}

// stateDir is the folder below a pod's with a state file for each of its volumes.
const stateDir = "volume-state"

func (m *Manager) stateFile(uid, volume string) string {
	return filepath.Join(m.podDir(uid), stateDir, volume+".json")
}

// loadStates reads what previous processes left.
func (m *Manager) loadStates() {
	pods, err := os.ReadDir(m.c.RootDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		slog.Error("the state of volumes cannot be read", "err", err)
	}
	for _, pod := range pods {
		files, err := os.ReadDir(filepath.Join(m.podDir(pod.Name()), stateDir))
		if err != nil {
			continue // it has no such volumes
		}
		for _, f := range files {
			if filepath.Ext(f.Name()) != ".json" {
				continue // of an interrupted write
			}
			s, err := durable.Load[State](filepath.Join(m.podDir(pod.Name()), stateDir, f.Name()))
			if err != nil {
				slog.Error("the state of a volume cannot be read; what is mounted in its pod's folder is unmounted when the pod ends", "uid", pod.Name(), "err", err)
				continue
			}
			m.relocate(pod.Name(), s)
			m.keepState(pod.Name(), s)
		}
	}
}

// relocate adapts a state to the folder of the pods, which may have been moved since.
func (m *Manager) relocate(uid string, s *State) {
	move := func(path string) string {
		if i := strings.LastIndex(path, "/pods/"+uid+"/"); i >= 0 {
			return filepath.Join(m.podDir(uid), path[i+len("/pods/"+uid):])
		}
		return path
	}
	s.Dir, s.Path = move(s.Dir), move(s.Path)
	if s.CSI != nil {
		s.CSI.Target = move(s.CSI.Target)
	}
}

// state returns what is known of a volume.
func (m *Manager) state(uid, volume string) (State, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.states[uid][volume]
	if s == nil {
		return State{}, false
	}
	return s.clone(), true
}

// clone returns a copy that shares nothing with the original.
func (s *State) clone() State {
	out := *s
	if s.CSI != nil {
		out.CSI = new(*s.CSI)
	}
	return out
}

// statesOf returns what is known of a pod's volumes.
func (m *Manager) statesOf(uid string) []State {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []State
	for _, s := range m.states[uid] {
		out = append(out, s.clone())
	}
	return out
}

// saveState stores a state durably.
func (m *Manager) saveState(uid string, s State) error {
	path := m.stateFile(uid, s.Volume)
	if err := durable.MakeDir(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("state of the volume: %w", err)
	}
	if err := durable.Save(path, &s); err != nil {
		return fmt.Errorf("state of the volume: %w", err)
	}
	s = s.clone()
	m.keepState(uid, &s)
	if s.CSI != nil {
		m.csi.Keep(csimount.Key{UID: uid, Volume: s.Volume}, *s.CSI)
	}
	return nil
}

// errOncePod is the kubelet's.
var errOncePod = errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")

// reserve keeps a state in memory, unless another pod has the persistent volume.
func (m *Manager) reserve(uid string, s *State) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users(s.PersistentVolume, uid) > 0 {
		return false
	}
	m.keepLocked(uid, s)
	return true
}

func (m *Manager) keepState(uid string, s *State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepLocked(uid, s)
}

// keepLocked keeps a state. The caller holds mu.
func (m *Manager) keepLocked(uid string, s *State) {
	if m.states[uid] == nil {
		m.states[uid] = map[string]*State{}
	}
	m.states[uid][s.Volume] = s
}

// dropState removes the state of a volume that is not mounted any more.
func (m *Manager) dropState(uid string, s State) error {
	if err := os.Remove(m.stateFile(uid, s.Volume)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	m.mu.Lock()
	if delete(m.states[uid], s.Volume); len(m.states[uid]) == 0 {
		delete(m.states, uid)
	}
	m.mu.Unlock()
	if s.CSI != nil {
		m.csi.Drop(csimount.Key{UID: uid, Volume: s.Volume}, *s.CSI)
	}
	return nil
}

// usedBy returns how many other pods have a persistent volume mounted, or begin to.
func (m *Manager) usedBy(pv, but string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.users(pv, but)
}

// users is usedBy for callers that hold mu.
func (m *Manager) users(pv, but string) int {
	n := 0
	for uid, volumes := range m.states {
		for _, s := range volumes {
			if s.PersistentVolume == pv && uid != but {
				n++
			}
		}
	}
	return n
}
