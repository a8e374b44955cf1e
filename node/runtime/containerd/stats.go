package containerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	ocicgroups "github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"

	"github.com/kontiki/kontiki/node/runtime"
)

// Usage implements runtime.Runtime.
func (r *Runtime) Usage(_ context.Context, id string) (runtime.Usage, error) {
	c, _, err := r.running(id)
	if err != nil {
		return runtime.Usage{}, err
	}
	return r.cg.usage(filepath.Join(r.podCgroup(c.snapshot().PodUID), id))
}

// Stats implements runtime.Runtime.
func (r *Runtime) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	c, _, err := r.running(id)
	if err != nil {
		return runtime.Stats{}, err
	}
	info := c.snapshot()
	var s runtime.Stats
	s.Usage, s.UsageErr = r.cg.usage(filepath.Join(r.podCgroup(info.PodUID), id))
	u, err := r.rootfsUsage(ctx, id)
	s.RootfsBytes, s.RootfsInodes, s.RootfsErr = uint64(u.Bytes), uint64(u.Inodes), err
	logs, _ := filepath.Glob(info.LogPath + "*")
	for _, l := range logs {
		if st, err := os.Stat(l); err == nil {
			s.LogBytes += uint64(st.Size())
		}
	}
	return s, nil
}

// measured are the controllers of cgroup v1 whose files are read.
var measured = []string{"cpu", "cpuacct", "memory", "pids", "blkio"}

// usage reads what a cgroup uses.
func (c cgroups) usage(path string) (runtime.Usage, error) {
	u := runtime.Usage{Time: time.Now()}
	read, err := c.read(path)
	if err != nil {
		return u, fmt.Errorf("read the usage of cgroup %s: %w", path, err)
	}
	cpu, memory := read.CpuStats, read.MemoryStats
	u.CPUNanoseconds, u.CPUUserNanoseconds, u.CPUSystemNanoseconds = cpu.CpuUsage.TotalUsage, cpu.CpuUsage.UsageInUsermode, cpu.CpuUsage.UsageInKernelmode
	u.Periods, u.ThrottledPeriods, u.ThrottledNanoseconds = cpu.ThrottlingData.Periods, cpu.ThrottlingData.ThrottledPeriods, cpu.ThrottlingData.ThrottledTime

	// The names that version 1 has for a whole hierarchy.
	total := func(name string) uint64 {
		if !c.v2 {
			name = "total_" + name
		}
		return memory.Stats[name]
	}
	u.MemoryBytes, u.MemoryFailures = memory.Usage.Usage, memory.Usage.Failcnt
	u.MemoryWorkingSet = u.MemoryBytes - min(u.MemoryBytes, total("inactive_file"))
	u.PageFaults, u.MajorPageFaults = total("pgfault"), total("pgmajfault")
	if c.v2 {
		u.MemoryRSS, u.MemoryCache, u.SwapBytes = total("anon"), total("file"), memory.SwapOnlyUsage.Usage
	} else {
		u.MemoryRSS, u.MemoryCache, u.SwapBytes = total("rss"), total("cache"), total("swap")
	}
	u.MemoryLimit = memory.Usage.Limit
	u.MemoryLimitPresent = u.MemoryLimit > 0 && u.MemoryLimit < 1<<60

	u.Processes = read.PidsStats.Current
	u.ReadBytes, u.WriteBytes = operations(read.BlkioStats.IoServiceBytesRecursive)
	u.Reads, u.Writes = operations(read.BlkioStats.IoServicedRecursive)
	u.CPUPressure, u.MemoryPressure, u.IOPressure = pressure(cpu.PSI), pressure(memory.PSI), pressure(read.BlkioStats.PSI)
	return u, nil
}

// read reads the files of a cgroup with the library that runc and kubelets use.
func (c cgroups) read(path string) (*ocicgroups.Stats, error) {
	config := &ocicgroups.Cgroup{Resources: &ocicgroups.Resources{}}
	options := &ocicgroups.StatsOptions{Controllers: ocicgroups.CPU | ocicgroups.Memory | ocicgroups.Pids | ocicgroups.IO}
	if c.v2 {
		m, err := fs2.NewManager(config, filepath.Join(c.root, path))
		if err != nil {
			return nil, err
		}
		return m.Stats(options)
	}
	paths := map[string]string{}
	for _, controller := range measured {
		dir := filepath.Join(c.root, controller, path)
		if _, err := os.Stat(dir); err == nil {
			paths[controller] = dir
		}
	}
	m, err := fs.NewManager(config, paths)
	if err != nil {
		return nil, err
	}
	return m.Stats(options)
}

// operations sums up the reads and the writes of all devices.
func operations(entries []ocicgroups.BlkioStatEntry) (reads, writes uint64) {
	for _, e := range entries {
		switch e.Op {
		case "Read":
			reads += e.Value
		case "Write":
			writes += e.Value
		}
	}
	return reads, writes
}

func pressure(p *ocicgroups.PSIStats) *runtime.Pressure {
	if p == nil {
		return nil
	}
	// The kernel counts microseconds.
	stall := func(d ocicgroups.PSIData) runtime.Stall {
		return runtime.Stall{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, TotalNanoseconds: 1000 * d.Total}
	}
	return &runtime.Pressure{Some: stall(p.Some), Full: stall(p.Full)}
}
