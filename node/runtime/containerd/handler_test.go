package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

func TestParseHandlers(t *testing.T) {
	for _, c := range []struct{ name, value, want, err string }{
		{"runsc", "io.containerd.runsc.v1", "{runsc io.containerd.runsc.v1 }", ""},
		{"crun", "io.containerd.runc.v2:/usr/bin/crun", "{crun io.containerd.runc.v2 /usr/bin/crun}", ""},
		{"kata-qemu", "io.containerd.kata-qemu.v2:/etc/kata/q.toml", "{kata-qemu io.containerd.kata-qemu.v2 /etc/kata/q.toml}", ""},
		{"Crun", "io.containerd.runc.v2", "", `handler "Crun": a lowercase RFC 1123 label`},
		{"", "io.containerd.runc.v2", "", `handler ""`},
		{"x", "", "", "handler x: want the type of a containerd shim"},
		{"x", "../../bin/sh", "", `not "../../bin/sh"`},
		{"x", "/bin/sh", "", "want the type"},
		{"x", "io.containerd.runc.v2:crun", "", `handler x: want an absolute path after the type, not "crun"`},
		{"x", "io.containerd.runc.v2:", "", "want an absolute path"},
	} {
		got, err := ParseHandlers(map[string]string{c.name: c.value})
		switch {
		case c.err == "" && (err != nil || len(got) != 1 || fmt.Sprint(got[0]) != c.want):
			t.Errorf("%s=%s: %v, %v", c.name, c.value, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s=%s: %v, want %s", c.name, c.value, err, c.err)
		}
	}
	many := map[string]string{}
	for i := range maxHandlers + 1 {
		many[fmt.Sprint("h", i)] = runcRuntime
	}
	if _, err := ParseHandlers(many); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Errorf("too many: %v", err)
	}
}

// TestWhatHandlersSupport: nothing is ignored that a handler cannot do.
func TestWhatHandlersSupport(t *testing.T) {
	host := runtime.Features{RecursiveReadOnly: true}
	r := &Runtime{handlers: handlersOf(t.Context(), []Handler{{"runsc", "io.containerd.runsc.v1", ""}, {"old", runcRuntime, "/nonexistent"}}, host)}
	users := &runtime.IDRange{First: 1 << 16, Length: 1 << 16}
	for _, c := range []struct {
		config runtime.SandboxConfig
		err    string
	}{
		{runtime.SandboxConfig{Users: users, SharePID: true}, ""},
		{runtime.SandboxConfig{Handler: "runc", Users: users, SharePID: true}, ""},
		{runtime.SandboxConfig{Handler: "old", Users: users, SharePID: true}, ""},
		{runtime.SandboxConfig{Handler: "runsc"}, ""},
		{runtime.SandboxConfig{Handler: "runsc", Users: users}, `runtime handler "runsc" does not support user namespaces`},
		{runtime.SandboxConfig{Handler: "runsc", SharePID: true}, `runtime handler "runsc" does not support shareProcessNamespace`},
		{runtime.SandboxConfig{Handler: "kata"}, `no runtime for "kata" is configured`},
	} {
		if _, err := r.handlerOf(c.config); c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
			t.Errorf("%+v: %v, want %q", c.config, err, c.err)
		}
	}
	mounts := []runtime.Mount{{ContainerPath: "/data", ReadOnly: true, RecursiveReadOnly: true}}
	for name, want := range map[string]bool{"": true, "runc": true, "old": false, "runsc": false} {
		if err := r.handlers[name].checkMounts(mounts); (err == nil) != want {
			t.Errorf("a recursive read-only mount with the handler %q: %v", name, err)
		}
	}
	var names []string
	for _, f := range featuresOf(r.handlers) {
		names = append(names, f.Name)
	}
	if got := strings.Join(names, ","); got != ",old,runc,runsc" {
		t.Errorf("the handlers %s", got)
	}
}

// TestAnotherProgramInRuncsPlace runs a container with a handler whose program is found where the handler says.
func TestAnotherProgramInRuncsPlace(t *testing.T) {
	d := runtimetest.StartDaemon(t)
	r, _ := open(t, d, runtimetest.BusyboxArchive(t))
	program, log := filepath.Join(t.TempDir(), "other"), filepath.Join(t.TempDir(), "calls")
	if err := os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\necho \"$@\" >> %s\nexec runc \"$@\"\n", log), 0o755); err != nil {
		t.Fatal(err)
	}
	r.handlers = handlersOf(t.Context(), []Handler{{"other", runcRuntime, program}}, r.features)
	ctx := t.Context()
	c := runtime.ContainerConfig{
		Sandbox: runtime.SandboxConfig{UID: "u", Namespace: "ns", Name: "p", Net: runtime.NamespacePod, Handler: "missing"},
		Name:    "c", Image: runtimetest.BusyboxName, Command: []string{"/bin/true"}, LogPath: filepath.Join(t.TempDir(), "0.log"),
	}
	if _, err := r.EnsureSandbox(ctx, c.Sandbox); err == nil || err.Error() != `failed to get sandbox runtime: no runtime for "missing" is configured` {
		t.Errorf("a handler that is not there: %v", err)
	}
	c.Sandbox.Handler = "other"
	if _, err := r.EnsureSandbox(ctx, c.Sandbox); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.RemoveSandbox(t.Context(), "u") })
	id, err := r.CreateContainer(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	events := r.Events(ctx)
	if err := r.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	for {
		if now, err := r.Container(ctx, id); err != nil || now.State == runtime.StateExited {
			if err != nil || now.ExitCode != 0 {
				t.Errorf("the container: %+v, %v", now, err)
			}
			break
		}
		<-events
	}
	if err := r.RemoveContainer(ctx, id); err != nil {
		t.Error(err)
	}
	calls, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(calls), "create") || !strings.Contains(string(calls), "start") {
		t.Errorf("the program was called with %q, %v", calls, err)
	}
}
