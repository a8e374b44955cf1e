package dra

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/durable"
)

// checkpoint is what outlives the agent.
type checkpoint struct {
	BootID string  `json:"bootID"`
	Claims []saved `json:"claims"`
}

type saved struct {
	Namespace   string                  `json:"namespace"`
	Name        string                  `json:"name"`
	UID         types.UID               `json:"uid"`
	Pods        []types.UID             `json:"pods"`
	Drivers     map[string]*driverState `json:"drivers"`
	Prepared    bool                    `json:"prepared"`
	Unpreparing bool                    `json:"unpreparing,omitempty"`
}

func (m *Manager) save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	c := checkpoint{BootID: m.c.BootID, Claims: []saved{}}
	for k, v := range m.claims {
		s := saved{Namespace: k.namespace, Name: k.name, UID: v.uid, Drivers: v.drivers, Prepared: v.prepared, Unpreparing: v.unpreparing}
		for uid := range v.pods {
			s.Pods = append(s.Pods, uid)
		}
		c.Claims = append(c.Claims, s)
	}
	b, err := json.Marshal(c)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(m.c.File, b, 0o600); err != nil {
		return fmt.Errorf("checkpoint ResourceClaim state: %w", err)
	}
	return nil
}

func (m *Manager) load() error {
	c, err := durable.Load[checkpoint](m.c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: remove the file only if no pod of this node uses claimed devices", err)
	}
	for _, s := range c.Claims {
		v := &claim{uid: s.UID, drivers: s.Drivers, pods: map[types.UID]bool{}, prepared: s.Prepared && c.BootID == m.c.BootID, unpreparing: s.Unpreparing}
		if v.drivers == nil {
			v.drivers = map[string]*driverState{}
		}
		for _, uid := range s.Pods {
			v.pods[uid] = true
		}
		m.claims[key{s.Namespace, s.Name}] = v
	}
	return nil
}
