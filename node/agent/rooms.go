package agent

import (
	"context"
	"sync"

	"github.com/kontiki/kontiki/node/pods/eviction"
)

// nodefs returns a folder of the file system with the pods' volumes.
func (c *Config) nodefs() string {
	if c.Kubelet != nil {
		return c.Kubelet.Dir()
	}
	return c.StateDir
}

// rooms returns a function that says how much of each signal is available on the machine, nil for a simulated node.
func (a *Agent) rooms() func(context.Context) map[eviction.Signal]eviction.Room {
	if a.c.Capacity != nil {
		return nil
	}
	var mu sync.Mutex
	var imageRoot string
	return func(ctx context.Context) map[eviction.Signal]eviction.Room {
		mem := memInfo()
		out := map[eviction.Signal]eviction.Room{"memory.available": {Available: int64(mem["MemAvailable"]), Capacity: int64(mem["MemTotal"])}}
		disk := func(prefix, path string) {
			if d := diskOf(path); d.usable > 0 {
				out[eviction.Signal(prefix+".available")] = eviction.Room{Available: int64(d.free), Capacity: int64(d.usable)}
				if d.inodes > 0 { // some filesystems have no limit
					out[eviction.Signal(prefix+".inodesFree")] = eviction.Room{Available: int64(d.inodesFree), Capacity: int64(d.inodes)}
				}
			}
		}
		disk("nodefs", a.c.nodefs())
		mu.Lock()
		defer mu.Unlock()
		if imageRoot == "" {
			if root, err := a.c.Runtime.ImageRoot(ctx); err == nil {
				imageRoot = root
			}
		}
		if imageRoot != "" {
			disk("imagefs", imageRoot)
		}
		if free, limit := pids(); limit > 0 {
			out["pid.available"] = eviction.Room{Available: int64(free), Capacity: int64(limit)}
		}
		return out
	}
}
