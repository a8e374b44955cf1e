package containerd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kontiki/kontiki/node/runtime"
)

func newSpec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}, Annotations: map[string]string{"io.containerd.runc.v2.group": "mine"}}
}

func TestCDIDevicesAreInjected(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("vendor.json", `{"cdiVersion":"0.6.0","kind":"example.com/gpu","devices":[
	  {"name":"0","containerEdits":{"env":["GPU=0"],"deviceNodes":[{"path":"/dev/gpu0","hostPath":"/dev/null"}],"mounts":[{"hostPath":"/lib","containerPath":"/gpu-lib","options":["ro","bind"]}]}},
	  {"name":"1","containerEdits":{"env":["SECOND=1"]}}]}`)
	s := newSpec()
	c := runtime.ContainerConfig{CDIDevices: []string{"example.com/gpu=0"}, Annotations: map[string]string{"cdi.k8s.io/plugin": "example.com/gpu=1,example.com/gpu=0"}}
	if err := injectCDI(s, c, dir); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.Process.Env, "GPU=0") || !slices.Contains(s.Process.Env, "SECOND=1") || len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/gpu0" || s.Linux.Devices[0].Major != 1 ||
		len(s.Linux.Resources.Devices) != 1 || len(s.Mounts) != 1 {
		t.Errorf("%+v %+v %+v", s.Process.Env, s.Linux.Devices, s.Mounts)
	}
	if err := injectCDI(newSpec(), runtime.ContainerConfig{CDIDevices: []string{"example.com/gpu=2"}}, dir); err == nil || !strings.Contains(err.Error(), "example.com/gpu=2") {
		t.Errorf("a device that no specification has: %v", err)
	}
	write("broken.json", "{")
	if err := injectCDI(newSpec(), runtime.ContainerConfig{CDIDevices: []string{"other.com/nic=1"}}, dir); err == nil || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("a device that may be in a specification that cannot be read: %v", err)
	}
	if err := injectCDI(s, c, dir); err != nil {
		t.Errorf("another vendor's broken specification: %v", err)
	}
	if err := injectCDI(newSpec(), runtime.ContainerConfig{}, filepath.Join(dir, "none")); err != nil {
		t.Error(err)
	}
}

func TestAnnotationsOfOthers(t *testing.T) {
	s := newSpec()
	annotate(s, runtime.ContainerConfig{Annotations: map[string]string{"vendor.com/key": "v", "io.containerd.runc.v2.group": "theirs", "run.oci.keep_original_groups": "1"}})
	if len(s.Annotations) != 2 || s.Annotations["vendor.com/key"] != "v" || s.Annotations["io.containerd.runc.v2.group"] != "mine" {
		t.Errorf("%v", s.Annotations)
	}
}

func TestDevicesOfADirectoryAndWhatIsNoDevice(t *testing.T) {
	r := &Runtime{}
	s := newSpec()
	if err := r.devices(s, runtime.ContainerConfig{Devices: []runtime.Device{{HostPath: "/dev/null", ContainerPath: "/dev/a", Permissions: "r"}}}); err != nil || len(s.Linux.Devices) != 1 {
		t.Errorf("%v %v", s.Linux.Devices, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.devices(newSpec(), runtime.ContainerConfig{Devices: []runtime.Device{{HostPath: file, ContainerPath: "/dev/a"}}}); err == nil || !strings.Contains(err.Error(), "it is not a device") {
		t.Errorf("a file: %v", err)
	}
	s = newSpec()
	if err := r.devices(s, runtime.ContainerConfig{Devices: []runtime.Device{{HostPath: "/dev", ContainerPath: "/dev/host", Permissions: "rw"}}}); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == "/dev/host/null" }) {
		t.Errorf("the devices below a directory: %v", s.Linux.Devices)
	}
}
