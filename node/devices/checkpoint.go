package devices

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/kontiki/kontiki/internal/durable"
)

// checkpointFile is beside the plugins' sockets, as the kubelet's is.
const checkpointFile = "kontiki_checkpoint.json"

// checkpoint is what outlives the agent.
type checkpoint struct {
	Allocations []entry `json:"allocations"`
	// Resources that the node has reported, so that those whose plugin does not come back are set to zero; the value is whether the plugin
	// wants PreStartContainer calls.
	Resources map[string]bool `json:"resources"`
}

type entry struct {
	Pod       types.UID        `json:"pod"`
	Container string           `json:"container"`
	Resource  string           `json:"resource"`
	Devices   []string         `json:"devices"`
	Nodes     map[string][]int `json:"nodes,omitempty"`
	Answer    []byte           `json:"answer"` // a ContainerAllocateResponse
}

// save writes what is allocated to disk.
func (m *Manager) save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	c := checkpoint{Allocations: []entry{}, Resources: map[string]bool{}}
	var errs []error
	for uid, containers := range m.pods {
		for container, resources := range containers {
			for name, a := range resources {
				if a.answer == nil {
					continue
				}
				answer, err := proto.Marshal(a.answer)
				if err != nil {
					errs = append(errs, err)
				}
				c.Allocations = append(c.Allocations, entry{uid, container, name, a.devices, a.nodes, answer})
			}
		}
	}
	for name, r := range m.resources {
		c.Resources[name] = r.preStart
	}
	m.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return durable.Save(filepath.Join(m.c.Dir, checkpointFile), c)
}

// load reads what a previous manager wrote.
func (m *Manager) load() error {
	path := filepath.Join(m.c.Dir, checkpointFile)
	c, err := durable.Load[checkpoint](path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: remove the file only if no pod of this node uses devices", err)
	}
	for _, e := range c.Allocations {
		answer := &pluginapi.ContainerAllocateResponse{}
		if err := proto.Unmarshal(e.Answer, answer); err != nil {
			return fmt.Errorf("%s: %w: remove it only if no pod of this node uses devices", path, err)
		}
		m.insertLocked(e.Pod, e.Container, e.Resource, &allocation{e.Devices, e.Nodes, answer})
	}
	for name, preStart := range c.Resources {
		m.resources[name] = &extended{preStart: preStart}
	}
	return nil
}

func (m *Manager) insertLocked(uid types.UID, container, resource string, a *allocation) {
	if m.pods[uid] == nil {
		m.pods[uid] = podDevices{}
	}
	if m.pods[uid][container] == nil {
		m.pods[uid][container] = map[string]*allocation{}
	}
	m.pods[uid][container][resource] = a
}

func (m *Manager) removeLocked(uid types.UID, container, resource string) {
	delete(m.pods[uid][container], resource)
	if len(m.pods[uid][container]) == 0 {
		delete(m.pods[uid], container)
	}
	if len(m.pods[uid]) == 0 {
		delete(m.pods, uid)
	}
}
