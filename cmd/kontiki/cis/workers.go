package cis

import (
	"fmt"
	"path/filepath"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
)

func units(f *Facts) []string { return f.Units }

// identity returns the files of the worker's certificates and keys on this host.
func identity(f *Facts) []string {
	dir := filepath.Join(f.AgentDir, "identity")
	return []string{dir, filepath.Join(dir, "identity.json")}
}

const noProxy = "service routing is a part of the agent: there is no kube-proxy"

// workers is section 4.
var workers = []check{
	{"4.1.1", "Service file: mode 600", modes("systemd unit of Kontiki", 0o600, units)},
	{"4.1.2", "Service file: owner root", ofRoot("systemd unit of Kontiki", units)},
	{"4.1.3", "kube-proxy's kubeconfig: mode 600", never(noProxy)},
	{"4.1.4", "kube-proxy's kubeconfig: owner root", never(noProxy)},
	{"4.1.5", "The agent's credentials: mode 600", modes("worker's identity", 0o700, identity)},
	{"4.1.6", "The agent's credentials: owner root", ofRoot("worker's identity", identity)},
	{"4.1.7", "The agent's CA: mode 644", modes("worker's identity, which has the CA", 0o700, identity)},
	{"4.1.8", "The agent's CA: owner root", ofRoot("worker's identity, which has the CA", identity)},
	{"4.1.9", "The agent's configuration: mode 600", modes("configuration file", 0o600, configFile)},
	{"4.1.10", "The agent's configuration: owner root", ofRoot("configuration file", configFile)},

	{"4.2.1", "No anonymous requests to workers", kubelet("workers say so", "see the worker's /configz", func(c *kubeletv1beta1.KubeletConfiguration) string {
		if ptr.Deref(c.Authentication.Anonymous.Enabled, true) {
			return "anonymous requests are accepted"
		}
		return ""
	})},
	{"4.2.2", "Workers ask who may do what", kubelet("workers ask a master", "see the worker's /configz", func(c *kubeletv1beta1.KubeletConfiguration) string {
		if c.Authorization.Mode != kubeletv1beta1.KubeletAuthorizationModeWebhook {
			return fmt.Sprintf("authorization mode %q", c.Authorization.Mode)
		}
		return ""
	})},
	{"4.2.3", "Workers check the certificates of their clients", built("workers accept certificates of masters, checked with the cluster's CA")},
	{"4.2.4", "No port for reading without authentication", kubelet("workers have none", "see the worker's /configz", func(c *kubeletv1beta1.KubeletConfiguration) string {
		if c.ReadOnlyPort != 0 {
			return fmt.Sprintf("port %d", c.ReadOnlyPort)
		}
		return ""
	})},
	{"4.2.5", "Connections that nobody uses end", kubelet("workers end them", "see the worker's /configz", func(c *kubeletv1beta1.KubeletConfiguration) string {
		if c.StreamingConnectionIdleTimeout.Duration == 0 {
			return "streams may be idle for ever"
		}
		return ""
	})},
	{"4.2.6", "The agent makes its chains of iptables", never("Kontiki uses nftables, in tables of its own, and looks after them")},
	{"4.2.7", "Hosts keep their names", never("a worker's name is in its certificate, which a master signed when it joined: it cannot take another's")},
	{"4.2.8", "Events are not lost", never("events go over the worker's session, with limits of their own; there is no --event-qps")},
	{"4.2.9", "Workers have certificates", built("workers serve their port with certificates of the cluster's CA")},
	{"4.2.10", "Workers' client certificates are renewed", built("workers renew them by themselves at two thirds of their lifetime")},
	{"4.2.11", "Workers' serving certificates are renewed", built("workers renew them by themselves at two thirds of their lifetime")},
	{"4.2.12", "Strong ciphers", built("workers' port has TLS 1.2 and 1.3 with Go's default ciphers, which have forward secrecy")},
	{"4.2.13", "Limit for processes of a pod", kubelet("workers have one", "pods have no limit of processes: node pressure evicts pods when processes run out, which is all there is", func(c *kubeletv1beta1.KubeletConfiguration) string {
		if ptr.Deref(c.PodPidsLimit, -1) <= 0 {
			return "no limit"
		}
		return ""
	})},
	{"4.2.14", "Containers have a seccomp profile by default", kubelet("--seccomp-default is on", "set --seccomp-default on the workers", func(c *kubeletv1beta1.KubeletConfiguration) string {
		if !ptr.Deref(c.SeccompDefault, false) {
			return "--seccomp-default is off"
		}
		return ""
	})},
	{"4.2.15", "The unit accepts connections from known addresses only", person("IPAddressDeny= and IPAddressAllow= of the systemd unit: an override can set them to the addresses of hosts and pods")},

	{"4.3.1", "kube-proxy's metrics are local", never(noProxy + "; its metrics are on the worker's port, for those who may read them")},
}
