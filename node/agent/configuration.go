package agent

import (
	"cmp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"github.com/kontiki/kontiki/node/cpus"
	"github.com/kontiki/kontiki/node/memory"
	"github.com/kontiki/kontiki/node/numa"
)

// Configuration returns what the agent works by, as far as a kubelet's configuration has fields for it; the node's port shows it at
// /configz.
func (a *Agent) Configuration() *kubeletv1beta1.KubeletConfiguration {
	no, yes := false, true
	c := &kubeletv1beta1.KubeletConfiguration{
		Port: int32(a.c.Port), Address: a.c.NodeIP.String(), MaxPods: int32(a.c.MaxPods), EnableServer: &yes,
		CgroupsPerQOS: &no, CgroupDriver: "cgroupfs", FailSwapOn: &no, SerializeImagePulls: &no, AllowedUnsafeSysctls: a.c.AllowedUnsafeSysctls,
		NodeStatusUpdateFrequency: metav1.Duration{Duration: a.c.NodePeriod}, StreamingConnectionIdleTimeout: metav1.Duration{Duration: 4 * time.Hour},
		EnableDebuggingHandlers: &yes, EnableProfilingHandler: &no, EnableSystemLogHandler: &yes, EnableSystemLogQuery: &no,
		Authentication: kubeletv1beta1.KubeletAuthentication{Anonymous: kubeletv1beta1.KubeletAnonymousAuthentication{Enabled: &no},
			Webhook: kubeletv1beta1.KubeletWebhookAuthentication{Enabled: &yes, CacheTTL: metav1.Duration{Duration: 2 * time.Minute}}},
		Authorization: kubeletv1beta1.KubeletAuthorization{Mode: kubeletv1beta1.KubeletAuthorizationModeWebhook},
	}
	c.SeccompDefault, c.SingleProcessOOMKill, c.StaticPodPath = &a.c.SeccompDefault, &a.c.SingleProcessOOMKill, a.c.StaticPods
	c.MemorySwap.SwapBehavior = string(a.c.Swap)
	for _, p := range a.c.Shutdown {
		c.ShutdownGracePeriodByPodPriority = append(c.ShutdownGracePeriodByPodPriority,
			kubeletv1beta1.ShutdownGracePeriodByPodPriority{Priority: p.Priority, ShutdownGracePeriodSeconds: int64(p.Grace / time.Second)})
	}
	if a.machinery.all != nil {
		h := a.c.Hardware
		c.CPUManagerPolicy, c.CPUManagerPolicyOptions, c.ReservedSystemCPUs = cmp.Or(h.CPUPolicy, cpus.None), h.CPUOptions, h.ReservedCPUs
		c.MemoryManagerPolicy = cmp.Or(h.MemoryPolicy, memory.None)
		c.TopologyManagerPolicy, c.TopologyManagerScope = cmp.Or(h.TopologyPolicy, numa.None), cmp.Or(h.TopologyScope, numa.ScopeContainer)
		c.TopologyManagerPolicyOptions = h.TopologyOptions
	}
	c.APIVersion, c.Kind = kubeletv1beta1.SchemeGroupVersion.String(), "KubeletConfiguration"
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.welcome != nil {
		c.ClusterDomain, c.ClusterDNS = a.welcome.ClusterDomain, a.welcome.ClusterDns
	}
	return c
}
