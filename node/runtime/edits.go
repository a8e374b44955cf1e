package runtime

// Edits are what the owners of a node's hardware add to a container: device plugins, DRA drivers, and those who give away processors.
type Edits struct {
	Env         []KeyValue
	Mounts      []Mount
	Devices     []Device
	Annotations map[string]string
	// CDIDevices are fully qualified names of devices that the host's CDI specifications describe: "vendor.com/class=name".
	CDIDevices []string
	// CPUs and Memories are the processors and the NUMA nodes that the container is confined to, as the kernel writes sets: "0-3,8". ""
	// means all.
	CPUs, Memories string
	// NoCPUQuota removes the limit of processor time, because the container has processors of its own.
	NoCPUQuota bool
}

// Apply adds edits to a container. Its own variables and mounts come first: an edit does not replace a variable or a mount of the pod.
func (c *ContainerConfig) Apply(e Edits) {
	named := map[string]bool{}
	for _, kv := range c.Env {
		named[kv.Name] = true
	}
	for _, kv := range e.Env {
		if !named[kv.Name] {
			c.Env = append(c.Env, kv)
		}
	}
	mounted := map[string]bool{}
	for _, m := range c.Mounts {
		mounted[m.ContainerPath] = true
	}
	for _, m := range e.Mounts {
		if !mounted[m.ContainerPath] {
			c.Mounts = append(c.Mounts, m)
		}
	}
	c.Devices = append(c.Devices, e.Devices...)
	if len(e.Annotations) > 0 && c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	for k, v := range e.Annotations {
		if _, ok := c.Annotations[k]; !ok {
			c.Annotations[k] = v
		}
	}
	c.CDIDevices = append(c.CDIDevices, e.CDIDevices...)
	if e.NoCPUQuota {
		c.Resources.CPUQuota, c.Resources.CPUPeriod = 0, 0
	}
	if e.CPUs != "" {
		c.Resources.CPUs = e.CPUs
	}
	if e.Memories != "" {
		c.Resources.Memories = e.Memories
	}
}
