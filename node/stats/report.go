package stats

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// minWindow is the shortest time over which a rate is an average. A report that is requested earlier is the last one.
	minWindow = 5 * time.Second
	// firstWindow is the shortest time since a container's start over which its first rate is an average, as metrics-server has it.
	firstWindow = 10 * time.Second
	// longestFirst is how long ago a container can have been started for its first rate to be an average since then.
	longestFirst = time.Minute
	// maxContainers limits a report. Masters accept messages of 2 MiB; a container takes less than 400 bytes.
	maxContainers = 4096
	// filesAge is how old the size of a container's files in a report may be, and filesTime how long measuring them may take for one report.
	filesAge, filesTime = 5 * time.Minute, 2 * time.Second
)

// Reporter makes reports of samples. It is used by one goroutine at a time.
type Reporter struct {
	sampler *Sampler
	dir     string
	base    map[string]point // by container
	node    point
	last    *nodev1.UsageReport
	at      time.Time
	again   bool // a running container has no rate yet
}

// point is a reading of a counter of processor time.
type point struct {
	time time.Time
	cpu  uint64
}

// NewReporter returns a Reporter of a sampler's measurements. dir is a directory of the file system that the report tells of.
func NewReporter(s *Sampler, dir string) *Reporter {
	return &Reporter{sampler: s, dir: dir, base: map[string]point{}}
}

// Report returns what the node uses now, with rates since the report before, and how soon the next report should follow if the usual
// period is every: earlier if containers have no rate yet. The report is shared and read-only.
func (r *Reporter) Report(ctx context.Context, every time.Duration) (*nodev1.UsageReport, time.Duration) {
	if r.last == nil || time.Since(r.at) >= minWindow {
		r.measure(ctx)
	}
	if r.again {
		return r.last, min(minWindow, every)
	}
	return r.last, every
}

func (r *Reporter) measure(ctx context.Context) {
	s := r.sampler.Sample(ctx, minWindow/2)
	r.again = false
	report := &nodev1.UsageReport{Node: r.nodeUsage(s)}
	base := make(map[string]point, len(s.Containers))
	places := map[string]*nodev1.PodUsage{}
	filesUntil := time.Now().Add(filesTime)
	for i := range s.Containers {
		if i == maxContainers {
			break
		}
		c := &s.Containers[i]
		pod := places[c.PodUID]
		if pod == nil {
			pod = &nodev1.PodUsage{Namespace: c.PodNamespace, Name: c.PodName, Uid: c.PodUID, Complete: true, Network: networkUsage(s.Networks[c.PodUID])}
			places[c.PodUID] = pod
			report.Pods = append(report.Pods, pod)
		}
		now := point{c.Usage.Time, c.Usage.CPUNanoseconds}
		compute := computeUsage(&c.Usage)
		compute.CpuNanocores, compute.WindowMs = r.rate(c, now)
		if compute.WindowMs == 0 {
			pod.Complete, r.again = false, true
		}
		base[c.ID] = now
		used := &nodev1.ContainerUsage{Name: c.Name, Time: c.Usage.Time.UnixNano(), Started: c.StartedAt.UnixNano(), Compute: compute}
		r.addFiles(ctx, used, c.ID, filesUntil)
		pod.Containers = append(pod.Containers, used)
	}
	slices.SortFunc(report.Pods, func(a, b *nodev1.PodUsage) int {
		if a.Uid < b.Uid {
			return -1
		}
		return 1
	})
	if !s.Failed {
		r.base = base
	}
	r.last, r.at = report, time.Now()
}

// rate returns the average use of processors since the report before, or since the container was started if that was after it; 0 and 0 if
// there is nothing to compare with.
func (r *Reporter) rate(c *Container, now point) (nanocores uint64, windowMs uint32) {
	from, known := r.base[c.ID]
	if !known {
		since := now.time.Sub(c.StartedAt)
		if c.StartedAt.IsZero() || since < firstWindow || since > longestFirst {
			return 0, 0
		}
		from = point{c.StartedAt, 0}
	}
	return average(from, now)
}

// average returns the use of processors between two readings.
func average(from, to point) (nanocores uint64, windowMs uint32) {
	window := to.time.Sub(from.time)
	if from.time.IsZero() || window < time.Second || to.cpu < from.cpu {
		return 0, 0
	}
	return uint64(float64(to.cpu-from.cpu) / window.Seconds()), uint32(window.Milliseconds())
}

// addFiles adds the size of a container's files, if it is known or there is time to measure it.
func (r *Reporter) addFiles(ctx context.Context, used *nodev1.ContainerUsage, id string, until time.Time) {
	if !time.Now().Before(until) {
		return // the next report has it
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if f := r.sampler.Files(ctx, id, filesAge); f.Measured {
		used.RootfsBytes, used.RootfsInodes, used.LogBytes, used.FilesTime = f.Rootfs, f.Inodes, f.Logs, f.Time.UnixNano()
	}
}

func (r *Reporter) nodeUsage(s *Sample) *nodev1.NodeUsage {
	m := &s.Node
	now := point{s.Time, m.CPU}
	compute := &nodev1.ComputeUsage{CpuNanoseconds: m.CPU, MemoryBytes: m.Used, MemoryWorkingSetBytes: m.Used, SwapBytes: m.Swap,
		CpuPressure: pressureUsage(m.CPUPressure), MemoryPressure: pressureUsage(m.MemoryPressure), IoPressure: pressureUsage(m.IOPressure)}
	compute.CpuNanocores, compute.WindowMs = average(r.node, now)
	if compute.WindowMs == 0 {
		r.again = true
	}
	r.node = now
	return &nodev1.NodeUsage{Time: s.Time.UnixNano(), Compute: compute, Fs: filesystemUsage(r.dir), Network: networkUsage(s.NodeNetwork),
		MemoryAvailableBytes: m.Available, BootTime: m.Boot.UnixNano()}
}

func computeUsage(u *runtime.Usage) *nodev1.ComputeUsage {
	return &nodev1.ComputeUsage{CpuNanoseconds: u.CPUNanoseconds, MemoryBytes: u.MemoryBytes, MemoryWorkingSetBytes: u.MemoryWorkingSet, MemoryRssBytes: u.MemoryRSS,
		SwapBytes: u.SwapBytes, Processes: u.Processes, CpuPeriods: u.Periods, CpuThrottledPeriods: u.ThrottledPeriods, CpuThrottledNanoseconds: u.ThrottledNanoseconds,
		ReadBytes: u.ReadBytes, WriteBytes: u.WriteBytes,
		CpuPressure: pressureUsage(u.CPUPressure), MemoryPressure: pressureUsage(u.MemoryPressure), IoPressure: pressureUsage(u.IOPressure)}
}

func pressureUsage(p *runtime.Pressure) *nodev1.Pressure {
	if p == nil {
		return nil
	}
	return &nodev1.Pressure{SomeAvg10: float32(p.Some.Avg10), SomeAvg60: float32(p.Some.Avg60), SomeAvg300: float32(p.Some.Avg300), SomeTotal: p.Some.TotalNanoseconds,
		FullAvg10: float32(p.Full.Avg10), FullAvg60: float32(p.Full.Avg60), FullAvg300: float32(p.Full.Avg300), FullTotal: p.Full.TotalNanoseconds}
}

func networkUsage(used []Interface) *nodev1.NetworkUsage {
	if len(used) == 0 {
		return nil
	}
	out := &nodev1.NetworkUsage{}
	for i := range used {
		u := &used[i]
		out.RxBytes, out.TxBytes = out.RxBytes+u.RxBytes, out.TxBytes+u.TxBytes
		out.RxErrors, out.TxErrors = out.RxErrors+u.RxErrors, out.TxErrors+u.TxErrors
	}
	return out
}

func filesystemUsage(dir string) *nodev1.FilesystemUsage {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return nil
	}
	block := uint64(st.Bsize)
	return &nodev1.FilesystemUsage{CapacityBytes: st.Blocks * block, UsedBytes: (st.Blocks - st.Bfree) * block, AvailableBytes: st.Bavail * block,
		Inodes: st.Files, InodesFree: st.Ffree}
}
