package pods

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/kontiki/kontiki/node/environ"
	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/selinux"
)

const (
	labelMessagePath   = "terminationMessagePath"
	labelMessagePolicy = "terminationMessagePolicy"
)

func hostname(pod *corev1.Pod) string {
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o // up to the kernel's maximum
	}
	h := pod.Spec.Hostname
	if h == "" {
		h = pod.Name
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

// maxHostname is the kernel's limit.
const maxHostname = 64

// handler returns the runtime handler of a pod, "" for the default. It stays the same when the RuntimeClass is deleted or made again. Errors
// have the kubelet's text.
func (w *worker) handler(pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.alloc != nil && w.alloc.Handler != nil {
		return *w.alloc.Handler, nil
	}
	class, ok := w.m.c.Objects.RuntimeClass(*name)
	if !ok {
		return "", fmt.Errorf("failed to get RuntimeClass %s: runtimeclass.node.k8s.io %q not found", *name, *name)
	}
	if w.alloc != nil {
		next := *w.alloc
		next.Handler = &class.Handler
		w.setAllocationLocked(&next)
	}
	return class.Handler, nil
}

func (w *worker) sandboxConfig(pod *corev1.Pod) (runtime.SandboxConfig, error) {
	c := runtime.SandboxConfig{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Hostname: hostname(pod),
		HostPID: pod.Spec.HostPID, SharePID: pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace, Resources: resources.ForPod(pod)}
	var err error
	if c.Handler, err = w.handler(pod); err != nil {
		return c, err
	}
	w.mu.Lock()
	if w.alloc != nil {
		c.Resources = w.alloc.AppliedPod
	}
	w.mu.Unlock()
	if podspec.OwnUsers(pod) {
		if why := w.m.noUsers(); why != "" {
			return c, errors.New("user namespaces: " + why)
		}
		ids, err := w.m.c.Users.Of(string(pod.UID))
		if err != nil {
			return c, err
		}
		c.Users = &runtime.IDRange{First: ids.First, Length: ids.Length}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		c.SELinux = labelOptions(sc.SELinuxOptions)
	}
	if pod.Spec.HostNetwork {
		c.Net = runtime.NamespaceHost
	}
	if pod.Spec.HostIPC {
		c.IPC = runtime.NamespaceHost
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		if f := w.fqdn(pod); f != "" {
			if len(f) > maxHostname {
				return c, fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", f, maxHostname, len(f))
			}
			c.Hostname = f
		}
	}
	if sc := pod.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		c.Sysctls = map[string]string{}
		for _, s := range sc.Sysctls {
			c.Sysctls[sysctl.NormalizeName(s.Name)] = s.Value
		}
	}
	return c, nil
}

func podNetwork(pod *corev1.Pod, netns string) netapi.PodNetwork {
	n := netapi.PodNetwork{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, NetNS: netns}
	for _, p := range podspec.HostPorts(pod) {
		n.HostPorts = append(n.HostPorts, netapi.HostPort{HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: string(p.Protocol)})
	}
	return n
}

// containerConfig returns the configuration to pass to the runtime.
func (w *worker) containerConfig(pod *corev1.Pod, c *corev1.Container, o observed, attempt int) (runtime.ContainerConfig, error) {
	services, known := w.m.c.Objects.Services()
	if !known && !w.m.static(pod.UID) {
		return runtime.ContainerConfig{}, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	sources := environ.Sources{Objects: w.m.c.Objects, Services: services, Node: w.m.node(), NodeIP: w.m.c.NodeIP.String(), PodIPs: w.podIPs, Volumes: w.volumes}
	env, err := sources.Variables(pod, c)
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
			out = append(out, environ.Expand(s, lookup))
		}
		return out
	}
	security, err := securityOf(pod, c, seccompConfig{w.m.c.Seccomp, w.m.c.SeccompDefault})
	if err != nil {
		return runtime.ContainerConfig{}, err
	}
	sandbox, err := w.sandboxConfig(pod)
	if err != nil {
		return runtime.ContainerConfig{}, err
	}
	cfg := runtime.ContainerConfig{
		Sandbox: sandbox, Name: c.Name, Attempt: attempt, Image: c.Image,
		Command: expandAll(c.Command), Args: expandAll(c.Args), WorkingDir: c.WorkingDir, Env: env,
		Resources: resources.ForContainer(pod, c, w.m.nodeMemory()), Security: security,
		SingleProcessOOMKill: w.m.c.SingleProcessOOMKill,
		Stdin:                c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		LogPath: filepath.Join(w.m.podLogDir(pod), c.Name, strconv.Itoa(attempt)+".log"),
		Labels:  map[string]string{labelHash: hashOf(c), labelSandbox: w.sandbox, resources.LabelLimits: resources.LimitsOf(pod, c).Label(), labelRound: roundLabel(pod, c, o.round())},
	}
	cfg.Resources.Swap = w.m.swapOf(pod, resources.LimitsOf(pod, c))
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		cfg.StopSignal = string(*c.Lifecycle.StopSignal)
	}
	if cfg.Mounts, cfg.Devices, err = w.mounts(pod, c, lookup); err != nil {
		return cfg, err
	}
	if path := c.TerminationMessagePath; path != "" {
		host, err := w.makeMessageFile(pod, c.Name, attempt)
		if err != nil {
			return cfg, err
		}
		cfg.Mounts = append(cfg.Mounts, runtime.Mount{HostPath: host, ContainerPath: path, Relabel: true})
		cfg.Labels[labelMessagePath] = host
	}
	cfg.Labels[labelMessagePolicy] = string(c.TerminationMessagePolicy)
	if target := targetOf(pod, c.Name); target != "" && !sandbox.HostPID && !sandbox.SharePID {
		l := o.latest(target)
		if l == nil || l.State != runtime.StateRunning {
			return cfg, fmt.Errorf("unable to find target container %q", target)
		}
		cfg.ProcessesOf = l.ID
	}
	return cfg, nil
}

// targetOf returns the container whose processes an ephemeral container should see, "" for none.
func targetOf(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			return e.TargetContainerName
		}
	}
	return ""
}

// onlyRead says whether no container may write to a volume, because it shows objects of the cluster, or an image, or because the pod
// says so.
func onlyRead(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == name {
			return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil || v.Image != nil ||
				v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly || v.NFS != nil && v.NFS.ReadOnly
		}
	}
	return false
}

// recursiveReadOnly says whether a mount is read-only together with all mounts below it.
func recursiveReadOnly(m corev1.VolumeMount, supported bool) bool {
	return m.ReadOnly && supported && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled
}

// labelled says whether the files of a volume get the SELinux label of the containers that mount it.
func (m *Manager) labelled(pod *corev1.Pod, volume string) bool {
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == volume })
	return m.features.SELinuxLabels && i >= 0 && m.c.Volumes.Labelled(pod, &pod.Spec.Volumes[i])
}

// labelOptions returns the options of a security context, nil if it has none.
func labelOptions(o *corev1.SELinuxOptions) *selinux.Options {
	if o == nil {
		return nil
	}
	return &selinux.Options{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
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
			sub = environ.Expand(m.SubPathExpr, func(n string) (string, bool) {
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
		rm := runtime.Mount{HostPath: host, ContainerPath: path, ReadOnly: m.ReadOnly || onlyRead(pod, m.Name),
			RecursiveReadOnly: recursiveReadOnly(m, w.m.features.RecursiveReadOnly), Image: w.imageMounts[m.Name], Relabel: w.m.labelled(pod, m.Name)}
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
			out = append(out, runtime.Mount{HostPath: filepath.Join(w.m.podDir(pod.UID), "etc", name), ContainerPath: path, Relabel: true,
				ReadOnly: c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem})
		}
	}
	devices, err := w.devices(pod, c)
	return out, devices, err
}

// devices returns the volumes that a container gets as devices.
func (w *worker) devices(pod *corev1.Pod, c *corev1.Container) ([]runtime.Device, error) {
	var out []runtime.Device
	for _, d := range c.VolumeDevices {
		host, ok := w.volumes[d.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		}
		if !filepath.IsAbs(d.DevicePath) {
			return nil, fmt.Errorf("error DevicePath `%s` must be an absolute path", d.DevicePath)
		}
		access := "mrw"
		if onlyRead(pod, d.Name) {
			access = "r"
		}
		out = append(out, runtime.Device{HostPath: host, ContainerPath: d.DevicePath, Permissions: access})
	}
	return out, nil
}

// seccompConfig is the folder with the seccomp profiles of type Localhost, and whether containers that name no profile have the runtime's
// default one.
type seccompConfig struct {
	profiles  string
	byDefault bool
}

// securityOf merges the pod's and the container's security contexts: the container's fields take precedence.
func securityOf(pod *corev1.Pod, c *corev1.Container, seccomp seccompConfig) (runtime.Security, error) {
	var s runtime.Security
	profiles := seccomp.profiles
	s.Seccomp = "unconfined"
	if seccomp.byDefault {
		s.Seccomp = "runtime/default"
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
		if err := confine(&s, p.SeccompProfile, p.AppArmorProfile, profiles); err != nil {
			return s, err
		}
	}
	if p := c.SecurityContext; p != nil {
		s.SELinux = labelOptions(p.SELinuxOptions)
		if p.RunAsUser != nil {
			s.RunAsUser = p.RunAsUser
		}
		if p.RunAsGroup != nil {
			s.RunAsGroup = p.RunAsGroup
		}
		if p.RunAsNonRoot != nil {
			s.RunAsNonRoot = *p.RunAsNonRoot
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
		if err := confine(&s, p.SeccompProfile, p.AppArmorProfile, profiles); err != nil {
			return s, err
		}
	}
	// The result decides, whichever context set it.
	if s.RunAsNonRoot && s.RunAsUser != nil && *s.RunAsUser == 0 {
		return s, fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", PodFullName(pod), c.Name)
	}
	return s, nil
}

// confine sets the given seccomp and AppArmor profiles.
func confine(s *runtime.Security, seccomp *corev1.SeccompProfile, apparmor *corev1.AppArmorProfile, profiles string) error {
	if seccomp != nil {
		switch seccomp.Type {
		case corev1.SeccompProfileTypeRuntimeDefault:
			s.Seccomp = "runtime/default"
		case corev1.SeccompProfileTypeUnconfined:
			s.Seccomp = "unconfined"
		case corev1.SeccompProfileTypeLocalhost:
			if seccomp.LocalhostProfile == nil || *seccomp.LocalhostProfile == "" {
				return fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost.")
			}
			s.Seccomp = "localhost/" + filepath.Join(profiles, filepath.Clean("/"+*seccomp.LocalhostProfile))
		}
	}
	if apparmor != nil {
		switch apparmor.Type {
		case corev1.AppArmorProfileTypeRuntimeDefault:
			s.AppArmor = "runtime/default"
		case corev1.AppArmorProfileTypeUnconfined:
			s.AppArmor = "unconfined"
		case corev1.AppArmorProfileTypeLocalhost:
			if apparmor.LocalhostProfile == nil || strings.TrimSpace(*apparmor.LocalhostProfile) == "" {
				return fmt.Errorf("invalid empty AppArmor profile name")
			}
			s.AppArmor = "localhost/" + *apparmor.LocalhostProfile
		}
	}
	return nil
}
