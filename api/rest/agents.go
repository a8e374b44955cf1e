package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	gopath "path"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
)

func (c *call) pod(ctx context.Context) (*corev1.Pod, error) {
	return c.Agents.Pod(ctx, c.request("", nil))
}

func (c *call) podLog() error {
	if c.r.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(c.kind.GroupResource(), c.verb)
	}
	o, err := c.logOptions()
	if err != nil {
		return err
	}
	pod, err := c.pod(c.r.Context())
	if err != nil {
		return err
	}
	log, err := c.Agents.Logs(c.r.Context(), pod, o)
	if err != nil {
		return err
	}
	defer log.Close()
	return c.stream(log)
}

func (c *call) logOptions() (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{}
	query := c.r.URL.Query()
	o.Container = query.Get("container")
	o.Follow, o.Previous, o.Timestamps = isTrue(query.Get("follow")), isTrue(query.Get("previous")), isTrue(query.Get("timestamps"))
	for name, into := range map[string]**int64{"tailLines": &o.TailLines, "limitBytes": &o.LimitBytes, "sinceSeconds": &o.SinceSeconds} {
		if query.Get(name) == "" {
			continue
		}
		n, err := queryInt(c.r, name)
		if err != nil {
			return nil, err
		}
		*into = &n
	}
	if since := query.Get("sinceTime"); since != "" {
		at, err := time.Parse(time.RFC3339, since)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("sinceTime: %q is not in RFC 3339 form", since))
		}
		o.SinceTime = &metav1.Time{Time: at}
	}
	return o, agents.CheckLogOptions(o)
}

// stream copies a log to the client as it arrives.
func (c *call) stream(log io.Reader) error {
	if wsstream.IsWebSocketRequest(c.r) {
		// Browsers follow a log as frames of a WebSocket. Errors after the upgrade cannot be reported to the client.
		wsstream.NewReader(log, true, wsstream.NewDefaultReaderProtocols()).Copy(c.w, c.r)
		return nil
	}
	c.w.Header().Set("Content-Type", "text/plain")
	c.w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(c.w)
	control.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if _, err := c.w.Write(buf[:n]); err != nil {
				return nil // the client has disconnected
			}
			control.Flush()
		}
		if err != nil {
			return nil
		}
	}
}

// connect passes a request that opens a connection through admission, which sees its options.
func (c *call) connect(options runtime.Object, kind string) error {
	return c.Objects.Admit(c.r.Context(), &objects.Attributes{
		Request: c.request("", nil), Operation: objects.OpConnect, Object: options, ObjectKind: metaV1.WithKind(kind),
	})
}

func (c *call) podExec() error {
	query := c.r.URL.Query()
	o := &corev1.PodExecOptions{Container: query.Get("container"), Command: query["command"]}
	o.Stdin, o.Stdout, o.Stderr, o.TTY = isTrue(query.Get("stdin")), isTrue(query.Get("stdout")), isTrue(query.Get("stderr")), isTrue(query.Get("tty"))
	return c.podStreams(o, "PodExecOptions", func(pod *corev1.Pod, s agents.Streams) (*url.URL, error) {
		return c.Agents.Exec(c.r.Context(), pod, o.Container, o.Command, s)
	})
}

func (c *call) podAttach() error {
	query := c.r.URL.Query()
	o := &corev1.PodAttachOptions{Container: query.Get("container")}
	o.Stdin, o.Stdout, o.Stderr, o.TTY = isTrue(query.Get("stdin")), isTrue(query.Get("stdout")), isTrue(query.Get("stderr")), isTrue(query.Get("tty"))
	return c.podStreams(o, "PodAttachOptions", func(pod *corev1.Pod, s agents.Streams) (*url.URL, error) {
		return c.Agents.Attach(c.r.Context(), pod, o.Container, s)
	})
}

// mayCreate refuses callers who may not create the subresource. A WebSocket begins with a GET, which requires only "get": a
// read-only role could otherwise run commands (kubernetes#78741, #136550).
func (c *call) mayCreate() error {
	if c.verb == "create" {
		return nil
	}
	a := c.asked
	a.Verb = "create"
	return audit.Authorize(c.r.Context(), c.Authorizer, &a)
}

// podStreams forwards exec and attach to the agent. WebSocket clients are translated to SPDY, which every kubelet-compatible port
// supports (KEP-4006).
func (c *call) podStreams(options runtime.Object, kind string, where func(*corev1.Pod, agents.Streams) (*url.URL, error)) error {
	if err := c.mayCreate(); err != nil {
		return err
	}
	if err := c.connect(options, kind); err != nil {
		return err
	}
	pod, err := c.pod(c.r.Context())
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	o := translator.Options{Stdin: isTrue(query.Get("stdin")), Stdout: isTrue(query.Get("stdout")), Stderr: isTrue(query.Get("stderr")), Tty: isTrue(query.Get("tty"))}
	location, err := where(pod, agents.Streams{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, TTY: o.Tty})
	if err != nil {
		return err
	}
	transport, err := c.Agents.Transport(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	var handler http.Handler = proxy.NewUpgradeAwareHandler(location, transport, false, true, responder{c})
	translated := translator.NewStreamTranslatorHandler(location, transport, 0, o)
	translator.NewTranslatingHandler(handler, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol).ServeHTTP(c.w, c.r)
	return nil
}

func (c *call) podPortForward() error {
	if err := c.mayCreate(); err != nil {
		return err
	}
	o := &corev1.PodPortForwardOptions{}
	for _, list := range c.r.URL.Query()["ports"] {
		for _, text := range strings.Split(list, ",") {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return apierrors.NewBadRequest(fmt.Sprintf("ports: %q is not a port", text))
			}
			o.Ports = append(o.Ports, int32(port))
		}
	}
	if err := c.connect(o, "PodPortForwardOptions"); err != nil {
		return err
	}
	pod, err := c.pod(c.r.Context())
	if err != nil {
		return err
	}
	ports := url.Values{}
	if asked := c.r.URL.Query()["ports"]; len(asked) > 0 {
		ports.Set("port", strings.Join(asked, ","))
	}
	location, err := c.Agents.PortForward(c.r.Context(), pod, ports)
	if err != nil {
		return err
	}
	transport, err := c.Agents.Transport(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	var handler http.Handler = proxy.NewUpgradeAwareHandler(location, transport, false, true, responder{c})
	translator.NewTranslatingHandler(handler, translator.NewTunnelingHandler(handler), wsstream.IsWebSocketRequestWithTunnelingProtocol).ServeHTTP(c.w, c.r)
	return nil
}

// nodeProxy forwards a request unchanged to a node's agent: /api/v1/nodes/[SCHEME:]NAME[:PORT]/proxy/... Upstream also leads to the
// other ports of a node, with whatever reach an API server has; this does not.
func (c *call) nodeProxy() error {
	if runsSomething(c.r, c.target.rest) {
		if err := c.mayCreate(); err != nil {
			return err
		}
	}
	_, name, port, ok := utilnet.SplitSchemeNamePort(c.target.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", c.target.name))
	}
	if err := c.connect(&corev1.NodeProxyOptions{Path: c.target.rest}, "NodeProxyOptions"); err != nil {
		return err
	}
	location, err := c.Agents.URL(c.r.Context(), name)
	if err != nil {
		return err
	}
	if port != "" && port != location.Port() {
		return apierrors.NewBadRequest(fmt.Sprintf("port %q of node %s cannot be proxied to, only its agent's port %s", port, name, location.Port()))
	}
	transport, err := c.Agents.Transport(name)
	if err != nil {
		return err
	}
	location.Path = c.target.rest
	if location.Path == "" {
		location.Path = "/"
	}
	location.RawQuery = c.r.URL.RawQuery
	proxy.NewUpgradeAwareHandler(location, transport, false, false, responder{c}).ServeHTTP(c.w, c.r)
	return nil
}

// runsSomething says whether a request to an agent does more than read, whatever its method.
func runsSomething(r *http.Request, path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(gopath.Clean("/"+path), "/"), "/")
	switch strings.ToLower(first) {
	case "exec", "attach", "portforward", "run", "cri":
		return true
	}
	return httpstream.IsUpgradeRequest(r)
}

// responder responds with errors that occur before the agent has responded.
type responder struct{ *call }

func (r responder) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	if r.answer.begun.Load() {
		r.Log.Debug("a connection to a node's agent broke", "path", r.r.URL.Path, "error", err)
		return
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) { // the request is refused without asking the agent
		writeError(r.w, r.r, err)
		return
	}
	writeError(r.w, r.r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach the node's agent: %v", err)))
}
