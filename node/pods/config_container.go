package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/runtime"
)

const (
	labelMessagePath   = "terminationMessagePath"
	labelMessagePolicy = "terminationMessagePolicy"
)

func hostname(pod *corev1.Pod) string {
	h := pod.Spec.Hostname
	if h == "" {
		h = pod.Name
	}
	if pod.Spec.HostnameOverride != nil {
		h = *pod.Spec.HostnameOverride
	}
	if len(h) > 63 {
		h = strings.TrimRight(h[:63], "-.")
	}
	return h
}

func (w *worker) fqdn(pod *corev1.Pod) string {
	if pod.Spec.Subdomain == "" || pod.Spec.HostnameOverride != nil {
		return ""
	}
	return fmt.Sprintf("%s.%s.%s.svc.%s", hostname(pod), pod.Spec.Subdomain, pod.Namespace, w.m.c.DNS().Domain)
}

func (w *worker) sandboxConfig(pod *corev1.Pod) runtime.SandboxConfig {
	c := runtime.SandboxConfig{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Hostname: hostname(pod),
		HostPID: pod.Spec.HostPID, SharePID: pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace, Resources: podResources(pod)}
	if pod.Spec.HostNetwork {
		c.Net = runtime.NamespaceHost
	}
	if pod.Spec.HostIPC {
		c.IPC = runtime.NamespaceHost
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		if f := w.fqdn(pod); f != "" {
			c.Hostname = f
		}
	}
	if sc := pod.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		c.Sysctls = map[string]string{}
		for _, s := range sc.Sysctls {
			c.Sysctls[s.Name] = s.Value
		}
	}
	return c
}

func podNetwork(pod *corev1.Pod, netns string) netapi.PodNetwork {
	n := netapi.PodNetwork{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, NetNS: netns}
	for _, l := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range l {
			for _, p := range l[i].Ports {
				if p.HostPort > 0 {
					proto := string(p.Protocol)
					if proto == "" {
						proto = "TCP"
					}
					n.HostPorts = append(n.HostPorts, netapi.HostPort{HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: proto})
				}
			}
		}
	}
	return n
}

// containerConfig builds what the runtime is asked for.
func (w *worker) containerConfig(pod *corev1.Pod, c *corev1.Container, img runtime.Image, attempt int) (runtime.ContainerConfig, error) {
	env, err := w.m.environment(pod, c, w.podIPs)
	if err != nil {
		return runtime.ContainerConfig{}, err
	}
	vars := map[string]string{}
	for _, kv := range env {
		vars[kv.Name] = kv.Value
	}
	lookup := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	expandAll := func(in []string) []string {
		var out []string
		for _, s := range in {
			out = append(out, expand(s, lookup))
		}
		return out
	}
	security, err := securityOf(pod, c)
	if err != nil {
		return runtime.ContainerConfig{}, err
	}
	cfg := runtime.ContainerConfig{
		Sandbox: w.sandboxConfig(pod), Name: c.Name, Attempt: attempt, Image: c.Image,
		Command: expandAll(c.Command), Args: expandAll(c.Args), WorkingDir: c.WorkingDir, Env: env,
		Resources: containerResources(pod, c, w.m.nodeMemory()), Security: security,
		Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		LogPath: filepath.Join(w.m.podLogDir(pod), c.Name, strconv.Itoa(attempt)+".log"),
		Labels:  map[string]string{labelHash: hashOf(c)},
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		cfg.StopSignal = string(*c.Lifecycle.StopSignal)
	}
	if cfg.Mounts, cfg.Devices, err = w.mounts(pod, c, lookup); err != nil {
		return cfg, err
	}
	if path := c.TerminationMessagePath; path != "" {
		host := filepath.Join(w.m.podDir(pod.UID), "containers", c.Name, strconv.Itoa(attempt))
		if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
			return cfg, err
		}
		if err := os.WriteFile(host, nil, 0o666); err != nil {
			return cfg, err
		}
		if err := os.Chmod(host, 0o666); err != nil { // whoever the container runs as must be able to write it
			return cfg, err
		}
		cfg.Mounts = append(cfg.Mounts, runtime.Mount{HostPath: host, ContainerPath: path})
		cfg.Labels[labelMessagePath] = host
	}
	cfg.Labels[labelMessagePolicy] = string(c.TerminationMessagePolicy)
	return cfg, nil
}

func (w *worker) mounts(pod *corev1.Pod, c *corev1.Container, lookup func(string) (string, bool)) ([]runtime.Mount, []runtime.Device, error) {
	var out []runtime.Mount
	own := map[string]bool{}
	for i, m := range c.VolumeMounts {
		host, ok := w.volumes[m.Name]
		if !ok {
			return nil, nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			missing := ""
			sub = expand(m.SubPathExpr, func(n string) (string, bool) {
				v, ok := lookup(n)
				if !ok {
					missing = n
				}
				return v, ok
			})
			if missing != "" {
				return nil, nil, fmt.Errorf("missing value for %q", missing)
			}
		}
		if sub != "" {
			p, err := w.m.c.Volumes.SubPath(pod, c.Name, i, host, sub)
			if err != nil {
				return nil, nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
			host = p
		}
		path := m.MountPath
		if !filepath.IsAbs(path) {
			path = "/" + path
		}
		rm := runtime.Mount{HostPath: host, ContainerPath: path, ReadOnly: m.ReadOnly}
		if m.MountPropagation != nil {
			switch *m.MountPropagation {
			case corev1.MountPropagationBidirectional:
				rm.Propagation = runtime.PropagationBidirectional
			case corev1.MountPropagationHostToContainer:
				rm.Propagation = runtime.PropagationHostToContainer
			}
		}
		own[filepath.Clean(path)] = true
		out = append(out, rm)
	}
	for name, path := range map[string]string{"hosts": "/etc/hosts", "hostname": "/etc/hostname", "resolv.conf": "/etc/resolv.conf"} {
		if !own[path] {
			out = append(out, runtime.Mount{HostPath: filepath.Join(w.m.podDir(pod.UID), "etc", name), ContainerPath: path})
		}
	}
	return out, nil, nil
}

// securityOf merges the pod's and the container's security contexts: the container's wins, field by field.
func securityOf(pod *corev1.Pod, c *corev1.Container) (runtime.Security, error) {
	var s runtime.Security
	s.Seccomp = "unconfined"
	seccomp := func(p *corev1.SeccompProfile) error {
		if p == nil {
			return nil
		}
		switch p.Type {
		case corev1.SeccompProfileTypeRuntimeDefault:
			s.Seccomp = "runtime/default"
		case corev1.SeccompProfileTypeUnconfined:
			s.Seccomp = "unconfined"
		case corev1.SeccompProfileTypeLocalhost:
			if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
				return fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost.")
			}
			s.Seccomp = "localhost/" + filepath.Join("/var/lib/kubelet/seccomp", filepath.Clean("/"+*p.LocalhostProfile))
		}
		return nil
	}
	apparmor := func(p *corev1.AppArmorProfile) {
		if p != nil && p.Type == corev1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil {
			s.AppArmor = "localhost/" + *p.LocalhostProfile
		}
	}
	if p := pod.Spec.SecurityContext; p != nil {
		s.RunAsUser, s.RunAsGroup = p.RunAsUser, p.RunAsGroup
		s.RunAsNonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
		s.SupplementalGroups = append(s.SupplementalGroups, p.SupplementalGroups...)
		if p.FSGroup != nil {
			s.SupplementalGroups = append(s.SupplementalGroups, *p.FSGroup)
		}
		if p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
			s.StrictGroups = true
		}
		if err := seccomp(p.SeccompProfile); err != nil {
			return s, err
		}
		apparmor(p.AppArmorProfile)
	}
	p := c.SecurityContext
	if p == nil {
		return s, nil
	}
	if p.RunAsUser != nil {
		s.RunAsUser = p.RunAsUser
	}
	if p.RunAsGroup != nil {
		s.RunAsGroup = p.RunAsGroup
	}
	if p.RunAsNonRoot != nil {
		s.RunAsNonRoot = *p.RunAsNonRoot
	}
	if s.RunAsNonRoot && s.RunAsUser != nil && *s.RunAsUser == 0 {
		return s, fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", PodFullName(pod), c.Name)
	}
	s.Privileged = p.Privileged != nil && *p.Privileged
	if p.Capabilities != nil {
		for _, v := range p.Capabilities.Add {
			s.AddCaps = append(s.AddCaps, string(v))
		}
		for _, v := range p.Capabilities.Drop {
			s.DropCaps = append(s.DropCaps, string(v))
		}
	}
	s.ReadOnlyRootfs = p.ReadOnlyRootFilesystem != nil && *p.ReadOnlyRootFilesystem
	s.NoNewPrivileges = p.AllowPrivilegeEscalation != nil && !*p.AllowPrivilegeEscalation
	s.UnmaskedProc = p.ProcMount != nil && *p.ProcMount == corev1.UnmaskedProcMount
	if err := seccomp(p.SeccompProfile); err != nil {
		return s, err
	}
	apparmor(p.AppArmorProfile)
	return s, nil
}
