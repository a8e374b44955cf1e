package containerd

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	client "github.com/containerd/containerd/v2/client"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kontiki/kontiki/node/runtime"
)

// DefaultHandler is the name of the handler that runs pods without a RuntimeClass. RuntimeClasses may name it too.
const DefaultHandler = "runc"

// Handler is what a RuntimeClass's handler stands for on this host. Its Type is that of a containerd shim, such as io.containerd.runc.v2, which
// containerd finds as the program containerd-shim-runc-v2. Path is "" or, for io.containerd.runc.v2, the absolute path of a program that takes
// runc's place, for other types that of the shim's configuration.
type Handler struct{ Name, Type, Path string }

// shimType is what containerd translates to the name of a shim.
var shimType = regexp.MustCompile(`^io\.containerd\.[a-z0-9-]+\.v[0-9]+$`)

// maxHandlers limits the handlers of a node: they are part of its status.
const maxHandlers = 64

// ParseHandlers returns the handlers of a flag's value, sorted by name: TYPE or TYPE:PATH for each name. Errors name the handler and what is
// expected.
func ParseHandlers(flag map[string]string) ([]Handler, error) {
	if len(flag) > maxHandlers {
		return nil, fmt.Errorf("%d handlers: at most %d are possible", len(flag), maxHandlers)
	}
	var out []Handler
	for _, name := range slices.Sorted(maps.Keys(flag)) {
		h := Handler{Name: name}
		h.Type, h.Path, _ = strings.Cut(flag[name], ":")
		switch {
		case len(validation.IsDNS1123Label(name)) > 0:
			return nil, fmt.Errorf("handler %q: %s", name, validation.IsDNS1123Label(name)[0])
		case !shimType.MatchString(h.Type):
			return nil, fmt.Errorf("handler %s: want the type of a containerd shim, such as %s, not %q", name, runcRuntime, h.Type)
		case strings.HasSuffix(flag[name], ":") || h.Path != "" && !filepath.IsAbs(h.Path):
			return nil, fmt.Errorf("handler %s: want an absolute path after the type, not %q", name, h.Path)
		}
		out = append(out, h)
	}
	return out, nil
}

// handler is a Handler and what it can do.
type handler struct {
	Handler
	features runtime.HandlerFeatures
}

// handlersOf returns the handlers by name; those of RuntimeClasses that name none, and of pods without a RuntimeClass, are that of "".
func handlersOf(ctx context.Context, configured []Handler, host runtime.Features) map[string]handler {
	own := runtime.HandlerFeatures{RecursiveReadOnly: host.RecursiveReadOnly, UserNamespaces: host.NoUserNamespaces == ""}
	out := map[string]handler{}
	for _, name := range []string{"", DefaultHandler} {
		h := handler{Handler{name, runcRuntime, ""}, own}
		h.features.Name = name
		out[name] = h
	}
	for _, c := range configured {
		h := handler{c, runtime.HandlerFeatures{Name: c.Name}}
		if c.Type == runcRuntime {
			h.features.UserNamespaces = own.UserNamespaces
			h.features.RecursiveReadOnly = own.RecursiveReadOnly
			if c.Path != "" {
				h.features.RecursiveReadOnly = hasMountSetattr() && knowsMountOption(ctx, c.Path, "rro")
			}
		}
		out[c.Name] = h
	}
	return out
}

// featuresOf returns what the handlers can do, sorted by name.
func featuresOf(handlers map[string]handler) []runtime.HandlerFeatures {
	var out []runtime.HandlerFeatures
	for _, name := range slices.Sorted(maps.Keys(handlers)) {
		out = append(out, handlers[name].features)
	}
	return out
}

// handlerOf returns the handler of a pod. An error says what of the pod it does not support.
func (r *Runtime) handlerOf(c runtime.SandboxConfig) (handler, error) {
	h, ok := r.handlers[c.Handler]
	switch {
	case !ok:
		return h, fmt.Errorf("no runtime for %q is configured", c.Handler)
	case c.Users != nil && !h.features.UserNamespaces:
		return h, fmt.Errorf("runtime handler %q does not support user namespaces", c.Handler)
	case c.SharePID && h.Type != runcRuntime:
		return h, fmt.Errorf("runtime handler %q does not support shareProcessNamespace", c.Handler)
	}
	return h, nil
}

// checkMounts refuses mounts that the handler would not make as they are asked for.
func (h handler) checkMounts(mounts []runtime.Mount) error {
	for _, m := range mounts {
		if m.RecursiveReadOnly && !h.features.RecursiveReadOnly {
			return fmt.Errorf("runtime handler %q does not support recursive read-only mounts, which %s is to be", h.Name, m.ContainerPath)
		}
	}
	return nil
}

// option makes a container run with the handler.
func (h handler) option() client.NewContainerOpts {
	switch {
	case h.Path == "":
		return client.WithRuntime(h.Type, nil)
	case h.Type == runcRuntime:
		return client.WithRuntime(h.Type, &runcoptions.Options{BinaryName: h.Path})
	}
	return client.WithRuntime(h.Type, &runtimeoptions.Options{ConfigPath: h.Path})
}

// virtual says whether the handler runs containers in virtual machines.
func (h handler) virtual() bool { return strings.HasPrefix(h.Type, "io.containerd.kata") }
