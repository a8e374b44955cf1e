package containerd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/kontiki/kontiki/node/runtime"
)

// ownAnnotations are prefixes of annotations that mean something to containerd or the runtime: they are not taken from others.
var ownAnnotations = []string{"io.containerd.", "io.kubernetes.cri", "org.opencontainers.", "run.oci.", "org.systemd.property."}

// annotate adds a container's annotations to its specification.
func annotate(s *specs.Spec, c runtime.ContainerConfig) {
	for k, v := range c.Annotations {
		if !slices.ContainsFunc(ownAnnotations, func(prefix string) bool { return strings.HasPrefix(k, prefix) }) {
			s.Annotations[k] = v
		}
	}
}

// injectCDI adds what the host's CDI specifications (in /etc/cdi and /var/run/cdi) say of the container's devices: device nodes, mounts,
// variables and hooks. Nothing that it sets may be replaced later.
//
// The specifications are read anew each time: drivers write one for each claim shortly before.
func injectCDI(s *specs.Spec, c runtime.ContainerConfig, dirs ...string) error {
	_, devices, err := cdi.ParseAnnotations(c.Annotations)
	if err != nil {
		return fmt.Errorf("CDI devices in annotations: %w", err)
	}
	for _, d := range c.CDIDevices {
		if !slices.Contains(devices, d) {
			devices = append(devices, d)
		}
	}
	if len(devices) == 0 {
		return nil
	}
	options := []cdi.Option{cdi.WithAutoRefresh(false)}
	if len(dirs) > 0 {
		options = append(options, cdi.WithSpecDirs(dirs...))
	}
	cache, err := cdi.NewCache(options...)
	if err != nil {
		return err
	}
	if missing, err := cache.InjectDevices(s, devices...); err != nil {
		// A specification that cannot be read may be the one that is missing.
		broken := cache.GetErrors()
		files := slices.Sorted(maps.Keys(broken))
		if len(missing) > 0 && len(files) > 0 {
			return fmt.Errorf("CDI device injection failed: %w (%s: %v)", err, files[0], broken[files[0]][0])
		}
		return fmt.Errorf("CDI device injection failed: %w", err)
	}
	return nil
}
