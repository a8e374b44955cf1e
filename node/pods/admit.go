package pods

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/kontiki/kontiki/node/fit"
	"github.com/kontiki/kontiki/node/podspec"
)

// Reasons of refusals, which are the kubelet's.
const (
	reasonUnsupported = "PodFeatureUnsupported"
	reasonSysctl      = "SysctlForbidden"
	reasonAppArmor    = "AppArmor"
	reasonUnexpected  = "UnexpectedAdmissionError"
	reasonOS          = "PodOSNotSupported"
	reasonOSLabel     = "PodOSSelectorNodeLabelDoesNotMatch"
)

// safeSysctls are the sysctls that a pod may set without an administrator's permission: they are namespaced, and have no influence
// on other pods of the node.
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range",
	"net.ipv4.tcp_syncookies", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
}

// CheckSysctlPatterns returns an error if a list may not be given as AllowedUnsafeSysctls. It must contain names, or prefixes that
// end in "*", of namespaced sysctls.
func CheckSysctlPatterns(patterns []string) error {
	for _, p := range patterns {
		ns, name, _ := sysctl.GetNamespace(p)
		if star := strings.IndexByte(p, '*'); name == "" || star >= 0 && star != len(p)-1 {
			return fmt.Errorf("sysctl %q: want a name, or a prefix that ends in \".*\"", p)
		}
		if ns == sysctl.UnknownNamespace {
			return fmt.Errorf("the sysctls %q are not known to be namespaced", name)
		}
	}
	return nil
}

// Admit decides, before anything of a pod is created, whether this node can run it as its spec requires. What the node does not
// support is refused with a reason, never ignored; unsupported kinds of volumes are refused when they are mounted. Whether the pod
// fits beside the others is checked by fit.
func (m *Manager) Admit(pod *corev1.Pod) *fit.Refusal {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != corev1.Linux {
		return &fit.Refusal{Reason: reasonOS, Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if os, ok := pod.Labels[corev1.LabelOSStable]; ok && os != string(corev1.Linux) {
		return &fit.Refusal{Reason: reasonOSLabel, Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if missing := m.unsupported(pod); len(missing) > 0 {
		return &fit.Refusal{Reason: reasonUnsupported, Message: "Pod requires node features that are not available: " + strings.Join(missing, ", ")}
	}
	if r := m.admitSysctls(pod); r != nil {
		return r
	}
	return m.admitAppArmor(pod)
}

func (m *Manager) admitSysctls(pod *corev1.Pod) *fit.Refusal {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	forbid := func(format string, args ...any) *fit.Refusal {
		return &fit.Refusal{Reason: reasonSysctl, Message: "forbidden sysctl: " + fmt.Sprintf(format, args...)}
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(s.Name)
		if !slices.Contains(safeSysctls, name) && !slices.ContainsFunc(m.c.AllowedUnsafeSysctls, func(p string) bool { return matchSysctl(p, name) }) {
			return forbid("%q not allowlisted", name)
		}
		ns, _, _ := sysctl.GetNamespace(name)
		switch {
		case ns == sysctl.NetNamespace && pod.Spec.HostNetwork,
			ns == sysctl.UTSNamespace && pod.Spec.HostNetwork, // a pod in the host's network has the host's name
			ns == sysctl.IPCNamespace && pod.Spec.HostIPC,
			ns == sysctl.UserNamespace: // they are set before the pod is in its user namespace, if it has one
			return forbid("%q not allowed with host %s enabled", name, ns)
		case ns == sysctl.UnknownNamespace:
			return forbid("%q not allowlisted", name)
		}
	}
	return nil
}

func matchSysctl(pattern, name string) bool {
	pattern = sysctl.NormalizeName(pattern)
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// admitAppArmor refuses a pod with an AppArmor profile that the host cannot enforce.
func (m *Manager) admitAppArmor(pod *corev1.Pod) *fit.Refusal {
	wanted := func(p *corev1.AppArmorProfile) bool {
		return p != nil && p.Type != corev1.AppArmorProfileTypeUnconfined
	}
	want := pod.Spec.SecurityContext != nil && wanted(pod.Spec.SecurityContext.AppArmorProfile)
	for c := range podspec.Containers(pod) {
		want = want || c.SecurityContext != nil && wanted(c.SecurityContext.AppArmorProfile)
	}
	for k, v := range pod.Annotations {
		want = want || strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && v != corev1.DeprecatedAppArmorBetaProfileNameUnconfined
	}
	if want && !m.features.AppArmor {
		return &fit.Refusal{Reason: reasonAppArmor, Message: "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
	}
	return nil
}

// unsupported returns the fields of a pod's spec that this node does not support.
func (m *Manager) unsupported(pod *corev1.Pod) []string {
	var out []string
	refuse := func(used bool, field string) {
		if used {
			out = append(out, field)
		}
	}
	spec := &pod.Spec
	devices := m.features.Devices || m.c.Hardware != nil
	users := podspec.OwnUsers(pod)
	if users {
		why := m.noUsers()
		refuse(why != "", "hostUsers: false ("+why+")")
	}
	refuse(len(spec.ResourceClaims) > 0 && !devices, "resourceClaims")
	refuse(pod.Status.ExtendedResourceClaimStatus != nil && !devices, "extended resources that are devices")
	refuse(spec.Resources != nil && len(spec.Resources.Claims) > 0, "resources.claims")
	if s := spec.SecurityContext; s != nil {
		refuse(m.unlabelled(s.SELinuxOptions), "securityContext.seLinuxOptions (the agent runs without --selinux)")
	}
	for c, kind := range podspec.Containers(pod) {
		refuse := func(used bool, field string) { refuse(used, kind.Field()+"["+c.Name+"]."+field) }
		refuse(len(c.Resources.Claims) > 0 && !devices, "resources.claims")
		for _, r := range c.RestartPolicyRules {
			refuse(r.Action != corev1.ContainerRestartRuleActionRestart && r.Action != corev1.ContainerRestartRuleActionRestartAllContainers,
				"restartPolicyRules.action: "+string(r.Action))
		}
		for _, v := range c.VolumeMounts {
			refuse(users && v.MountPropagation != nil && *v.MountPropagation != corev1.MountPropagationNone,
				"volumeMounts["+v.Name+"].mountPropagation with hostUsers: false")
			refuse(len(v.BindMountOptions) > 0, "volumeMounts["+v.Name+"].bindMountOptions")
			refuse(v.RecursiveReadOnly != nil && *v.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled && !m.features.RecursiveReadOnly,
				"volumeMounts["+v.Name+"].recursiveReadOnly")
		}
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil {
				refuse(otherHTTP(p.HTTPGet), "probe httpGet.protocol")
				refuse(p.GRPC != nil && p.GRPC.Mode != nil && *p.GRPC.Mode != corev1.GRPCProbeModePlaintext, "probe grpc.mode")
			}
		}
		if l := c.Lifecycle; l != nil {
			for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
				refuse(h != nil && otherHTTP(h.HTTPGet), "lifecycle httpGet.protocol")
			}
		}
		if s := c.SecurityContext; s != nil {
			refuse(m.unlabelled(s.SELinuxOptions), "securityContext.seLinuxOptions (the agent runs without --selinux)")
			// It is valid only in a user namespace: without one, root would have access to all of the host's /proc/sys.
			refuse(s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount && !users && !(s.Privileged != nil && *s.Privileged), "securityContext.procMount: Unmasked")
		}
	}
	return out
}

// unlabelled says whether the host's kernel would enforce a label that containers do not get. Where it has no SELinux, labels mean nothing.
func (m *Manager) unlabelled(o *corev1.SELinuxOptions) bool {
	return o != nil && m.features.SELinux && !m.features.SELinuxLabels
}

// noUsers says why pods cannot have user namespaces here, "" if they can.
func (m *Manager) noUsers() string {
	switch {
	case m.features.NoUserNamespaces != "":
		return m.features.NoUserNamespaces
	case m.c.Users == nil && m.c.NoUsers == "":
		return "the node has no ids for them"
	case m.c.Users == nil:
		return m.c.NoUsers
	}
	return ""
}

// otherHTTP says whether a handler requires a protocol other than HTTP/1.1.
func otherHTTP(a *corev1.HTTPGetAction) bool {
	return a != nil && a.Protocol != nil && *a.Protocol != corev1.HTTPProtocolHTTP1
}
