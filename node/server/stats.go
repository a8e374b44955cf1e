package server

import (
	"net/http"
	"strconv"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/kontiki/kontiki/node/runtime"
)

// stats answers /stats/summary.
func (s *Server) stats(w http.ResponseWriter, r *http.Request) {
	now := metav1.Now()
	sum := stats.Summary{Pods: []stats.PodStats{}}
	if s.c.Node != nil {
		if n := s.c.Node(); n != nil {
			sum.Node.NodeName = n.Name
		}
	}
	n := nodeUsage()
	sum.Node.StartTime = metav1.NewTime(n.boot)
	sum.Node.CPU = &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &n.cpu}
	sum.Node.Memory = &stats.MemoryStats{Time: now, AvailableBytes: &n.available, UsageBytes: &n.used, WorkingSetBytes: &n.used}
	sum.Node.Swap = &stats.SwapStats{Time: now, SwapUsageBytes: &n.swap}
	sum.Node.Network = networkStats(now, networkOf("self"))
	sum.Node.Fs = filesystem(now, s.c.Dir)
	at := map[string]int{} // places in sum.Pods by UID
	used, _ := s.usages(r.Context())
	for i := range used {
		u := &used[i]
		k, ok := at[u.container.PodUID]
		if !ok {
			k = len(sum.Pods)
			at[u.container.PodUID] = k
			sum.Pods = append(sum.Pods, newPodStats(u, now))
		}
		p := &sum.Pods[k]
		c := containerStats(u, s.filesOf(r.Context(), u.container.ID))
		p.Containers = append(p.Containers, c)
		*p.CPU.UsageCoreNanoSeconds += u.CPUNanoseconds
		*p.Memory.UsageBytes += u.MemoryBytes
		*p.Memory.WorkingSetBytes += u.MemoryWorkingSet
		*p.Memory.RSSBytes += u.MemoryRSS
		*p.Swap.SwapUsageBytes += u.SwapBytes
		*p.ProcessStats.ProcessCount += u.Processes
		if c.Rootfs != nil {
			*p.EphemeralStorage.UsedBytes += *c.Rootfs.UsedBytes + *c.Logs.UsedBytes
		}
		if u.container.StartedAt.Before(p.StartTime.Time) {
			p.StartTime = metav1.NewTime(u.container.StartedAt)
		}
	}
	s.addVolumes(r.Context(), sum.Pods)
	writeJSON(w, sum)
}

// newPodStats returns the statistics of a pod whose containers have not been added.
func newPodStats(u *usage, now metav1.Time) stats.PodStats {
	zero := func() *uint64 { return new(uint64) }
	p := stats.PodStats{
		PodRef:       stats.PodReference{Name: u.container.PodName, Namespace: u.container.PodNamespace, UID: u.container.PodUID},
		StartTime:    metav1.NewTime(u.container.StartedAt),
		CPU:          &stats.CPUStats{Time: now, UsageCoreNanoSeconds: zero()},
		Memory:       &stats.MemoryStats{Time: now, UsageBytes: zero(), WorkingSetBytes: zero(), RSSBytes: zero()},
		Swap:         &stats.SwapStats{Time: now, SwapUsageBytes: zero()},
		ProcessStats: &stats.ProcessStats{ProcessCount: zero()}, EphemeralStorage: &stats.FsStats{Time: now, UsedBytes: zero()},
	}
	if u.container.Pid > 0 && u.pod != nil && !u.pod.Spec.HostNetwork {
		p.Network = networkStats(now, networkOf(strconv.Itoa(u.container.Pid)))
	}
	return p
}

// containerStats returns the statistics of a container; those of its files are missing if they could not be measured.
func containerStats(u *usage, f files) stats.ContainerStats {
	at := metav1.NewTime(u.Time)
	c := stats.ContainerStats{Name: u.container.Name, StartTime: metav1.NewTime(u.container.StartedAt),
		CPU:    &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &u.CPUNanoseconds, PSI: psi(u.CPUPressure)},
		Memory: &stats.MemoryStats{Time: at, UsageBytes: &u.MemoryBytes, WorkingSetBytes: &u.MemoryWorkingSet, RSSBytes: &u.MemoryRSS, PageFaults: &u.PageFaults, MajorPageFaults: &u.MajorPageFaults, PSI: psi(u.MemoryPressure)},
		Swap:   &stats.SwapStats{Time: at, SwapUsageBytes: &u.SwapBytes},
	}
	if u.IOPressure != nil {
		c.IO = &stats.IOStats{Time: at, PSI: psi(u.IOPressure)}
	}
	if u.MemoryLimitPresent {
		available := u.MemoryLimit - min(u.MemoryLimit, u.MemoryWorkingSet)
		c.Memory.AvailableBytes = &available
	}
	if f.measured {
		measured := metav1.NewTime(f.at)
		c.Rootfs = &stats.FsStats{Time: measured, UsedBytes: &f.rootfs, InodesUsed: &f.inodes}
		c.Logs = &stats.FsStats{Time: measured, UsedBytes: &f.logs}
	}
	return c
}

func psi(p *runtime.Pressure) *stats.PSIStats {
	if p == nil {
		return nil
	}
	data := func(s runtime.Stall) stats.PSIData {
		return stats.PSIData{Total: s.TotalNanoseconds, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &stats.PSIStats{Some: data(p.Some), Full: data(p.Full)}
}

// networkStats returns the statistics of a network; the first interface is its default one, as eth0 is a pod's.
func networkStats(now metav1.Time, used []networkUse) *stats.NetworkStats {
	if len(used) == 0 {
		return nil
	}
	out := &stats.NetworkStats{Time: now}
	for i := range used {
		u := &used[i]
		one := stats.InterfaceStats{Name: u.name, RxBytes: &u.rxBytes, RxErrors: &u.rxErrors, TxBytes: &u.txBytes, TxErrors: &u.txErrors}
		if i == 0 {
			out.InterfaceStats = one
		}
		out.Interfaces = append(out.Interfaces, one)
	}
	return out
}

// filesystem returns the statistics of the filesystem with a directory, nil if it has none.
func filesystem(now metav1.Time, dir string) *stats.FsStats {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return nil
	}
	block := uint64(st.Bsize)
	available, capacity, used := st.Bavail*block, st.Blocks*block, (st.Blocks-st.Bfree)*block
	inodes, free := st.Files, st.Ffree
	inodesUsed := inodes - min(inodes, free)
	return &stats.FsStats{Time: now, AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used, Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed}
}
