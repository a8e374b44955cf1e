package server

import (
	"net/http"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/stats"
)

// stats answers /stats/summary.
func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	sample := s.stats.Sample(r.Context(), sampleAge)
	now := metav1.NewTime(sample.Time)
	sum := statsv1.Summary{Pods: []statsv1.PodStats{}}
	if s.c.Node != nil {
		if n := s.c.Node(); n != nil {
			sum.Node.NodeName = n.Name
		}
	}
	n := sample.Node
	sum.Node.StartTime = metav1.NewTime(n.Boot)
	sum.Node.CPU = &statsv1.CPUStats{Time: now, UsageCoreNanoSeconds: &n.CPU}
	sum.Node.Memory = &statsv1.MemoryStats{Time: now, AvailableBytes: &n.Available, UsageBytes: &n.Used, WorkingSetBytes: &n.Used}
	sum.Node.Swap = &statsv1.SwapStats{Time: now, SwapUsageBytes: &n.Swap}
	sum.Node.Network = networkStats(now, sample.NodeNetwork)
	sum.Node.Fs = filesystem(now, s.c.Dir)
	at := map[string]int{} // places in sum.Pods by UID
	for i := range sample.Containers {
		u := &sample.Containers[i]
		k, ok := at[u.PodUID]
		if !ok {
			k = len(sum.Pods)
			at[u.PodUID] = k
			sum.Pods = append(sum.Pods, newPodStats(u, now, sample.Networks[u.PodUID]))
		}
		p := &sum.Pods[k]
		c := containerStats(u, s.stats.Files(r.Context(), u.ID, stats.FilesAge))
		p.Containers = append(p.Containers, c)
		*p.CPU.UsageCoreNanoSeconds += u.Usage.CPUNanoseconds
		*p.Memory.UsageBytes += u.Usage.MemoryBytes
		*p.Memory.WorkingSetBytes += u.Usage.MemoryWorkingSet
		*p.Memory.RSSBytes += u.Usage.MemoryRSS
		*p.Swap.SwapUsageBytes += u.Usage.SwapBytes
		*p.ProcessStats.ProcessCount += u.Usage.Processes
		if c.Rootfs != nil {
			*p.EphemeralStorage.UsedBytes += *c.Rootfs.UsedBytes + *c.Logs.UsedBytes
		}
		if u.StartedAt.Before(p.StartTime.Time) {
			p.StartTime = metav1.NewTime(u.StartedAt)
		}
	}
	s.addVolumes(r.Context(), sum.Pods)
	writeJSON(w, sum)
}

// newPodStats returns the statistics of a pod whose containers have not been added.
func newPodStats(u *stats.Container, now metav1.Time, network []stats.Interface) statsv1.PodStats {
	zero := func() *uint64 { return new(uint64) }
	p := statsv1.PodStats{
		PodRef:       statsv1.PodReference{Name: u.PodName, Namespace: u.PodNamespace, UID: u.PodUID},
		StartTime:    metav1.NewTime(u.StartedAt),
		CPU:          &statsv1.CPUStats{Time: now, UsageCoreNanoSeconds: zero()},
		Memory:       &statsv1.MemoryStats{Time: now, UsageBytes: zero(), WorkingSetBytes: zero(), RSSBytes: zero()},
		Swap:         &statsv1.SwapStats{Time: now, SwapUsageBytes: zero()},
		ProcessStats: &statsv1.ProcessStats{ProcessCount: zero()}, EphemeralStorage: &statsv1.FsStats{Time: now, UsedBytes: zero()},
	}
	p.Network = networkStats(now, network)
	return p
}

// containerStats returns the statistics of a container; those of its files are missing if they could not be measured.
func containerStats(u *stats.Container, f stats.Files) statsv1.ContainerStats {
	at := metav1.NewTime(u.Usage.Time)
	c := statsv1.ContainerStats{Name: u.Name, StartTime: metav1.NewTime(u.StartedAt),
		CPU:    &statsv1.CPUStats{Time: at, UsageCoreNanoSeconds: &u.Usage.CPUNanoseconds, PSI: psi(u.Usage.CPUPressure)},
		Memory: &statsv1.MemoryStats{Time: at, UsageBytes: &u.Usage.MemoryBytes, WorkingSetBytes: &u.Usage.MemoryWorkingSet, RSSBytes: &u.Usage.MemoryRSS, PageFaults: &u.Usage.PageFaults, MajorPageFaults: &u.Usage.MajorPageFaults, PSI: psi(u.Usage.MemoryPressure)},
		Swap:   &statsv1.SwapStats{Time: at, SwapUsageBytes: &u.Usage.SwapBytes},
	}
	if u.Usage.IOPressure != nil {
		c.IO = &statsv1.IOStats{Time: at, PSI: psi(u.Usage.IOPressure)}
	}
	if u.Usage.MemoryLimitPresent {
		available := u.Usage.MemoryLimit - min(u.Usage.MemoryLimit, u.Usage.MemoryWorkingSet)
		c.Memory.AvailableBytes = &available
	}
	if f.Measured {
		measured := metav1.NewTime(f.Time)
		c.Rootfs = &statsv1.FsStats{Time: measured, UsedBytes: &f.Rootfs, InodesUsed: &f.Inodes}
		c.Logs = &statsv1.FsStats{Time: measured, UsedBytes: &f.Logs}
	}
	return c
}

func psi(p *runtime.Pressure) *statsv1.PSIStats {
	if p == nil {
		return nil
	}
	data := func(s runtime.Stall) statsv1.PSIData {
		return statsv1.PSIData{Total: s.TotalNanoseconds, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &statsv1.PSIStats{Some: data(p.Some), Full: data(p.Full)}
}

// networkStats returns the statistics of a network; the first interface is its default one, as eth0 is a pod's.
func networkStats(now metav1.Time, used []stats.Interface) *statsv1.NetworkStats {
	if len(used) == 0 {
		return nil
	}
	out := &statsv1.NetworkStats{Time: now}
	for i := range used {
		u := &used[i]
		one := statsv1.InterfaceStats{Name: u.Name, RxBytes: &u.RxBytes, RxErrors: &u.RxErrors, TxBytes: &u.TxBytes, TxErrors: &u.TxErrors}
		if i == 0 {
			out.InterfaceStats = one
		}
		out.Interfaces = append(out.Interfaces, one)
	}
	return out
}

// filesystem returns the statistics of the filesystem with a directory, nil if it has none.
func filesystem(now metav1.Time, dir string) *statsv1.FsStats {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return nil
	}
	block := uint64(st.Bsize)
	available, capacity, used := st.Bavail*block, st.Blocks*block, (st.Blocks-st.Bfree)*block
	inodes, free := st.Files, st.Ffree
	inodesUsed := inodes - min(inodes, free)
	return &statsv1.FsStats{Time: now, AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used, Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed}
}
