package devices

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/kontiki/kontiki/node/runtime"
)

// maxEdits limits each list of a plugin's answer for a container.
const maxEdits = 1000

// checkAnswer refuses an answer that no container can be created with.
func checkAnswer(a *pluginapi.ContainerAllocateResponse) error {
	if len(a.Envs) > maxEdits || len(a.Mounts) > maxEdits || len(a.Devices) > maxEdits || len(a.Annotations) > maxEdits || len(a.CdiDevices) > maxEdits {
		return fmt.Errorf("the device plugin's answer has more than %d variables, mounts, devices, annotations or CDI devices", maxEdits)
	}
	for name := range a.Envs {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("the device plugin's answer has a variable with the name %.200q", name)
		}
	}
	for _, m := range a.Mounts {
		if !filepath.IsAbs(m.GetHostPath()) || !filepath.IsAbs(m.GetContainerPath()) {
			return fmt.Errorf("the device plugin's answer has a mount of %.200q on %.200q: want absolute paths", m.GetHostPath(), m.GetContainerPath())
		}
	}
	for _, d := range a.Devices {
		if !filepath.IsAbs(d.GetHostPath()) || !filepath.IsAbs(d.GetContainerPath()) {
			return fmt.Errorf("the device plugin's answer has the device %.200q as %.200q: want absolute paths", d.GetHostPath(), d.GetContainerPath())
		}
		if strings.Trim(d.Permissions, "rwm") != "" {
			return fmt.Errorf("the device plugin's answer has the device %.200q with the permissions %.200q: want some of r, w and m", d.HostPath, d.Permissions)
		}
	}
	return nil
}

// Container returns what a container must get for its devices, and tells plugins that require it that the container is about to start.
func (m *Manager) Container(ctx context.Context, pod *corev1.Pod, container string) (runtime.Edits, error) {
	var answers []*pluginapi.ContainerAllocateResponse
	type call struct {
		p   *plugin
		ids []string
	}
	var calls []call
	m.mu.Lock()
	resources := m.pods[pod.UID][container]
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		a, r := resources[name], m.resources[name]
		if a.answer == nil {
			continue
		}
		answers = append(answers, a.answer)
		if r == nil || !r.preStart {
			continue
		}
		if len(r.plugins) == 0 {
			m.mu.Unlock()
			return runtime.Edits{}, fmt.Errorf("the device plugin of %s must be asked before the container starts, and is not connected", name)
		}
		calls = append(calls, call{r.plugins[len(r.plugins)-1], a.devices})
	}
	m.mu.Unlock()
	for _, c := range calls {
		if err := c.p.preStart(ctx, c.ids); err != nil {
			return runtime.Edits{}, fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
		}
	}
	e := editsOf(answers)
	if m.c.Real != nil {
		for i := range e.Mounts {
			e.Mounts[i].HostPath = m.c.Real(e.Mounts[i].HostPath)
		}
	}
	return e, nil
}

func (p *plugin) preStart(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, preStartTimeout)
	defer cancel()
	_, err := p.api.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: ids})
	return err
}

// editsOf combines answers of several plugins. Of two that set the same thing, the first one counts.
func editsOf(answers []*pluginapi.ContainerAllocateResponse) runtime.Edits {
	var e runtime.Edits
	seen := map[[2]string]bool{}
	first := func(kind, key string) bool {
		k := [2]string{kind, key}
		defer func() { seen[k] = true }()
		return !seen[k]
	}
	for _, a := range answers {
		for _, k := range slices.Sorted(maps.Keys(a.Envs)) {
			if first("env", k) {
				e.Env = append(e.Env, runtime.KeyValue{Name: k, Value: a.Envs[k]})
			}
		}
		for _, d := range a.Devices {
			if first("device", d.ContainerPath) {
				e.Devices = append(e.Devices, runtime.Device{HostPath: d.HostPath, ContainerPath: d.ContainerPath, Permissions: d.Permissions})
			}
		}
		for _, m := range a.Mounts {
			if first("mount", m.ContainerPath) {
				e.Mounts = append(e.Mounts, runtime.Mount{HostPath: m.HostPath, ContainerPath: m.ContainerPath, ReadOnly: m.ReadOnly})
			}
		}
		for k, v := range a.Annotations {
			if first("annotation", k) {
				if e.Annotations == nil {
					e.Annotations = map[string]string{}
				}
				e.Annotations[k] = v
			}
		}
		for _, d := range a.CdiDevices {
			if first("cdi", d.GetName()) {
				e.CDIDevices = append(e.CDIDevices, d.GetName())
			}
		}
	}
	return e
}
