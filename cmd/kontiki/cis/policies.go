package cis

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// policies is section 5.
var policies = []check{
	{"5.1.1", "cluster-admin is for few", clusterAdmins},
	{"5.1.2", "Secrets are read by few", few("read Secrets", right{[]string{"get", "list", "watch"}, "", "secrets"})},
	{"5.1.3", "Roles name what they allow", wildcards},
	{"5.1.4", "Pods are created by few", few("create pods", right{[]string{"create"}, "", "pods"})},
	{"5.1.5", "Default service accounts are not used", defaultAccounts},
	{"5.1.6", "Pods have tokens only if they need them", tokens},
	{"5.1.7", "The group system:masters is not used", masters},
	{"5.1.8", "Few may bind, impersonate and escalate", few("bind or escalate roles, or impersonate",
		right{[]string{"bind", "escalate"}, "rbac.authorization.k8s.io", "roles"}, right{[]string{"bind", "escalate"}, "rbac.authorization.k8s.io", "clusterroles"},
		right{[]string{"impersonate"}, "", "users"}, right{[]string{"impersonate"}, "", "groups"}, right{[]string{"impersonate"}, "", "serviceaccounts"})},
	{"5.1.9", "Few may create persistent volumes", few("create persistent volumes", right{[]string{"create"}, "", "persistentvolumes"})},
	{"5.1.10", "Few may reach nodes by the API's proxy", few("use nodes/proxy", right{[]string{"get", "create"}, "", "nodes/proxy"})},
	{"5.1.11", "Few may approve certificate signing requests", few("approve certificate signing requests",
		right{[]string{"update", "patch"}, "certificates.k8s.io", "certificatesigningrequests/approval"})},
	{"5.1.12", "Few may change admission webhooks", few("change admission webhooks",
		right{[]string{"create", "update", "patch", "delete"}, "admissionregistration.k8s.io", "validatingwebhookconfigurations"},
		right{[]string{"create", "update", "patch", "delete"}, "admissionregistration.k8s.io", "mutatingwebhookconfigurations"})},
	{"5.1.13", "Few may create tokens of service accounts", few("create tokens of service accounts", right{[]string{"create"}, "", "serviceaccounts/token"})},

	{"5.2.1", "Something decides what pods may be", enforced("", nil)},
	{"5.2.2", "No privileged containers", enforced(baseline, containers("privileged", func(c *corev1.SecurityContext) bool { return ptr.Deref(c.Privileged, false) }))},
	{"5.2.3", "No pods in the host's process namespace", enforced(baseline, func(p *corev1.Pod) string { return said(p.Spec.HostPID, "hostPID") })},
	{"5.2.4", "No pods in the host's IPC namespace", enforced(baseline, func(p *corev1.Pod) string { return said(p.Spec.HostIPC, "hostIPC") })},
	{"5.2.5", "No pods in the host's network", enforced(baseline, func(p *corev1.Pod) string { return said(p.Spec.HostNetwork, "hostNetwork") })},
	{"5.2.6", "No containers that may gain privileges", enforced(restricted, containers("allowPrivilegeEscalation", func(c *corev1.SecurityContext) bool { return ptr.Deref(c.AllowPrivilegeEscalation, false) }))},
	{"5.2.7", "No containers that run as root", enforced(restricted, containers("runAsUser: 0", func(c *corev1.SecurityContext) bool { return ptr.Deref(c.RunAsUser, 1) == 0 }))},
	{"5.2.8", "No containers with NET_RAW", enforced(restricted, containers("NET_RAW", func(c *corev1.SecurityContext) bool {
		return c.Capabilities != nil && slices.ContainsFunc(c.Capabilities.Add, func(c corev1.Capability) bool { return c == "NET_RAW" || c == "ALL" })
	}))},
	{"5.2.9", "No containers with more capabilities", enforced(baseline, containers("capabilities.add", func(c *corev1.SecurityContext) bool { return c.Capabilities != nil && len(c.Capabilities.Add) > 0 }))},
	{"5.2.10", "Containers drop capabilities", enforced(restricted, nil)},
	{"5.2.11", "No host processes on Windows", never("there are no Windows workers")},
	{"5.2.12", "No folders of the host", enforced(baseline, func(p *corev1.Pod) string {
		return said(slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil }), "hostPath")
	})},
	{"5.2.13", "No ports of the host", enforced(baseline, func(p *corev1.Pod) string {
		return said(slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
			return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort != 0 })
		}), "hostPort")
	})},

	{"5.3.1", "The pod network acts on network policies", func(*Facts) answer {
		return fails("NetworkPolicy objects are stored, with a warning, and nothing acts on them yet")
	}},
	{"5.3.2", "Every namespace has a network policy", networkPolicies},
	{"5.4.1", "Secrets are files and not environment variables", secretVariables},
	{"5.4.2", "Secrets are kept elsewhere", person("consider an operator that brings Secrets from a store of their own, or CSI drivers for secrets")},
	{"5.5.1", "Images come from where they should", person("ImagePolicyWebhook is not built: a ValidatingAdmissionPolicy or an admission webhook can check images' names and signatures")},
	{"5.6.1", "Namespaces divide who administers what", person("see that namespaces are those of teams or applications")},
	{"5.6.2", "Pods have a seccomp profile", seccomp},
	{"5.6.3", "Pods have security contexts", person("see the security contexts of pods; the Pod Security level restricted asks for most of them (5.2)")},
	{"5.6.4", "The namespace default is not used", func(f *Facts) answer {
		if len(f.inDefault) > 0 {
			return fails("move these to namespaces of their own", f.inDefault...)
		}
		return passes("there is nothing in it but the Service kubernetes")
	}},
}

// Levels of the Pod Security standards.
const (
	baseline   = "baseline"
	restricted = "restricted"
	enforce    = "pod-security.kubernetes.io/enforce"
)

// system says whether a namespace is one of the cluster's own.
func system(name string) bool { return strings.HasPrefix(name, "kube-") }

// enforced answers whether every namespace but the system's enforces a Pod Security level that forbids something; "" for any level but
// privileged. uses says what a pod has of it.
func enforced(level string, uses func(*corev1.Pod) string) func(*Facts) answer {
	return func(f *Facts) answer {
		if disabled, ok := f.Flags["disable-admission-plugins"]; ok && has(disabled, "PodSecurity") {
			return fails("remove PodSecurity from --disable-admission-plugins")
		}
		var found []string
		for i := range f.namespaces {
			n := &f.namespaces[i]
			has := n.Labels[enforce]
			if system(n.Name) || n.DeletionTimestamp != nil || has == restricted || has == baseline && level != restricted {
				continue
			}
			found = append(found, "namespace "+n.Name)
		}
		if len(found) == 0 {
			return passes(fmt.Sprintf("every namespace enforces the Pod Security level %s", orAny(level)))
		}
		for i := range f.pods {
			p := &f.pods[i]
			if uses == nil || system(p.Namespace) {
				continue
			}
			if what := uses(p); what != "" {
				found = append(found, fmt.Sprintf("pod %s/%s: %s", p.Namespace, p.Name, what))
			}
		}
		if f.Flags["admission-control-config-file"] != "" {
			return manual(fmt.Sprintf("these namespaces have no label %s=%s; --admission-control-config-file may have a default", enforce, orAny(level)), found...)
		}
		return fails(fmt.Sprintf("label these namespaces with %s=%s", enforce, orAny(level)), found...)
	}
}

func orAny(level string) string {
	if level == "" {
		return baseline
	}
	return level
}

func said(is bool, what string) string {
	if is {
		return what
	}
	return ""
}

// containers returns a function that names the containers of a pod with a security context of a kind.
func containers(what string, is func(*corev1.SecurityContext) bool) func(*corev1.Pod) string {
	return func(p *corev1.Pod) string {
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			if c.SecurityContext != nil && is(c.SecurityContext) {
				return what + " in container " + c.Name
			}
		}
		return ""
	}
}

// tokens answers which pods have the token of a service account that has no rights: they cannot need it.
func tokens(f *Facts) answer {
	useful := map[string]bool{}
	note := func(namespace, kind, name, of string) {
		if kind == "ServiceAccount" {
			if of == "" {
				of = namespace
			}
			useful[of+"/"+name] = true
		}
	}
	for i := range f.bindings {
		for _, s := range f.bindings[i].Subjects {
			note(f.bindings[i].Namespace, s.Kind, s.Name, s.Namespace)
		}
	}
	for i := range f.wide {
		for _, s := range f.wide[i].Subjects {
			note("", s.Kind, s.Name, s.Namespace)
		}
	}
	var found []string
	for i := range f.pods {
		p := &f.pods[i]
		mounted := slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
				return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == ""
			})
		})
		if mounted && !useful[p.Namespace+"/"+p.Spec.ServiceAccountName] {
			found = append(found, fmt.Sprintf("pod %s/%s: service account %s has no rights", p.Namespace, p.Name, p.Spec.ServiceAccountName))
		}
	}
	if len(found) > 0 {
		return fails("set automountServiceAccountToken: false for these pods or their service accounts", found...)
	}
	return passes("pods that have a token of the API have a service account with rights")
}

func networkPolicies(f *Facts) answer {
	has := map[string]bool{}
	for i := range f.policies {
		has[f.policies[i].Namespace] = true
	}
	var found []string
	for i := range f.namespaces {
		if n := f.namespaces[i].Name; !has[n] && !system(n) {
			found = append(found, "namespace "+n)
		}
	}
	if len(found) > 0 {
		return fails("these namespaces have none", found...)
	}
	return passes("every namespace has one")
}

func secretVariables(f *Facts) answer {
	var found []string
	for i := range f.pods {
		p := &f.pods[i]
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			if slices.ContainsFunc(c.EnvFrom, func(e corev1.EnvFromSource) bool { return e.SecretRef != nil }) ||
				slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil }) {
				found = append(found, fmt.Sprintf("pod %s/%s, container %s", p.Namespace, p.Name, c.Name))
			}
		}
	}
	if len(found) > 0 {
		return manual("decide whether these can read their Secrets from files", found...)
	}
	return passes("no container has a Secret in its environment")
}

func seccomp(f *Facts) answer {
	var found []string
	for i := range f.pods {
		p := &f.pods[i]
		if c := f.kubelets[p.Spec.NodeName]; system(p.Namespace) || c != nil && ptr.Deref(c.SeccompDefault, false) {
			continue
		}
		confined := func(s *corev1.SeccompProfile) bool { return s != nil && s.Type != corev1.SeccompProfileTypeUnconfined }
		if p.Spec.SecurityContext != nil && confined(p.Spec.SecurityContext.SeccompProfile) {
			continue
		}
		if slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
			return c.SecurityContext == nil || !confined(c.SecurityContext.SeccompProfile)
		}) {
			found = append(found, fmt.Sprintf("pod %s/%s", p.Namespace, p.Name))
		}
	}
	if len(found) > 0 {
		return fails("set seccompProfile: {type: RuntimeDefault}, or --seccomp-default on the workers", found...)
	}
	return passes("all pods have one")
}
