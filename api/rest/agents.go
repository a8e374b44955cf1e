package rest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/kontiki/kontiki/api/objects"
)

// Agents reaches the kubelet-compatible ports of the nodes' agents.
type Agents interface {
	// TLS is the configuration for the next connection to an agent: the master's client certificate and the CAs to
	// trust. It is the same one for as long as it holds.
	TLS() *tls.Config
}

// agentTransport is the transport to a node's agent, made on first use and again when the CAs change. The agent must show
// its own node's certificate: any node's would be good for the address that it claims.
func (s *Server) agentTransport(node string) (*http.Transport, error) {
	if s.Agents == nil {
		return nil, apierrors.NewServiceUnavailable("this server cannot reach the nodes' agents")
	}
	config := s.Agents.TLS()
	s.agentsMu.Lock()
	defer s.agentsMu.Unlock()
	if s.agentsTLS != config {
		for _, transport := range s.agentsVia {
			transport.CloseIdleConnections() // those in use go on
		}
		s.agentsTLS, s.agentsVia = config, map[string]*http.Transport{}
	}
	if s.agentsVia[node] == nil {
		s.agentsVia[node] = &http.Transport{
			TLSClientConfig:     agentTLS(config, node),
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		}
	}
	return s.agentsVia[node], nil
}

// agentTLS is a configuration that accepts one node's agent alone.
func agentTLS(config *tls.Config, node string) *tls.Config {
	config = config.Clone()
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if name := state.PeerCertificates[0].Subject.CommonName; name != "system:node:"+node {
			return fmt.Errorf("the agent of node %q is expected, %q answers at its address", node, name)
		}
		return nil
	}
	return config
}

// agentURL is the base of a node's agent.
func (c *call) agentURL(ctx context.Context, nodeName string) (*url.URL, error) {
	kind, _ := c.Objects.Kinds().ByGroupResource("", "nodes")
	r := &objects.Request{User: c.user, Kind: kind, Name: nodeName}
	v, err := c.Objects.Get(ctx, r, "0")
	if err != nil {
		return nil, err
	}
	obj, err := c.Objects.Decode(kind, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	node := obj.(*corev1.Node)
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = 10250
	}
	for _, wanted := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName} {
		for _, address := range node.Status.Addresses {
			if address.Type == wanted {
				return &url.URL{Scheme: "https", Host: net.JoinHostPort(address.Address, strconv.Itoa(port))}, nil
			}
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has no address yet", nodeName))
}

func (c *call) pod(ctx context.Context) (*corev1.Pod, error) {
	v, err := c.Objects.Get(ctx, c.request("", nil), "")
	if err != nil {
		return nil, err
	}
	obj, err := c.Objects.Decode(c.kind, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj.(*corev1.Pod), nil
}

// containerOf finds the container that a request means, with upstream's messages.
func containerOf(pod *corev1.Pod, asked string) (string, error) {
	var names []string
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range list {
			names = append(names, container.Name)
		}
	}
	for _, container := range pod.Spec.EphemeralContainers {
		names = append(names, container.Name)
	}
	if asked == "" {
		if len(pod.Spec.Containers) == 1 {
			return pod.Spec.Containers[0].Name, nil
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
	}
	for _, name := range names {
		if name == asked {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", asked, pod.Name))
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
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return c.write(accepted{}, http.StatusOK, nil)
	}
	location, err := c.agentURL(c.r.Context(), pod.Spec.NodeName)
	if err != nil {
		return err
	}
	location.Path = fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container)
	location.RawQuery = logQuery(o).Encode()
	return c.streamFrom(location, pod.Spec.NodeName)
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
		if n < 0 || (n == 0 && name != "tailLines") {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%s: Invalid value: %d: must be greater than 0", name, n))
		}
		*into = &n
	}
	if since := query.Get("sinceTime"); since != "" {
		at, err := time.Parse(time.RFC3339, since)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("sinceTime: %q is not in RFC 3339 form", since))
		}
		if o.SinceSeconds != nil {
			return nil, apierrors.NewBadRequest("at most one of `sinceTime` or `sinceSeconds` may be specified")
		}
		o.SinceTime = &v1.Time{Time: at}
	}
	return o, nil
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	for name, set := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if set {
			q.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"tailLines": o.TailLines, "limitBytes": o.LimitBytes, "sinceSeconds": o.SinceSeconds} {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	return q
}

// streamFrom copies an agent's answer as it comes.
func (c *call) streamFrom(location *url.URL, node string) error {
	transport, err := c.agentTransport(node)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(c.r.Context(), http.MethodGet, location.String(), nil)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the agent of the pod's node does not answer: %v", err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096)) // whatever came is what there is to say
		return apierrors.NewGenericServerResponse(response.StatusCode, "get", c.kind.GroupResource(), c.target.name, strings.TrimSpace(string(text)), 0, true)
	}
	if wsstream.IsWebSocketRequest(c.r) {
		// A browser's way to follow a log: frames of a WebSocket. What fails after the upgrade only the client can tell.
		wsstream.NewReader(response.Body, true, wsstream.NewDefaultReaderProtocols()).Copy(c.w, c.r)
		return nil
	}
	c.w.Header().Set("Content-Type", "text/plain")
	c.w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(c.w)
	control.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := response.Body.Read(buf)
		if n > 0 {
			if _, err := c.w.Write(buf[:n]); err != nil {
				return nil // the client is gone
			}
			control.Flush()
		}
		if err != nil {
			return nil
		}
	}
}

func (c *call) podExec() error { return c.podStream("exec") }

func (c *call) podAttach() error { return c.podStream("attach") }

// podStream hands exec and attach over to the agent. Clients that speak WebSockets are translated to SPDY, which every
// kubelet-compatible port speaks (KEP-4006).
func (c *call) podStream(path string) error {
	pod, err := c.pod(c.r.Context())
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	container, err := containerOf(pod, query.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	if path == "exec" && len(query["command"]) == 0 {
		return apierrors.NewBadRequest("you must specify at least 1 command")
	}
	o := translator.Options{Stdin: isTrue(query.Get("stdin")), Stdout: isTrue(query.Get("stdout")), Stderr: isTrue(query.Get("stderr")), Tty: isTrue(query.Get("tty"))}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	params := url.Values{}
	for name, set := range map[string]bool{"input": o.Stdin, "output": o.Stdout, "error": o.Stderr && !o.Tty, "tty": o.Tty} {
		if set {
			params.Set(name, "1")
		}
	}
	params["command"] = query["command"]
	location, err := c.agentURL(c.r.Context(), pod.Spec.NodeName)
	if err != nil {
		return err
	}
	location.Path = fmt.Sprintf("/%s/%s/%s/%s", path, pod.Namespace, pod.Name, container)
	location.RawQuery = params.Encode()
	transport, err := c.agentTransport(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	var handler http.Handler = proxy.NewUpgradeAwareHandler(location, transport, false, true, responder{c})
	translated := translator.NewStreamTranslatorHandler(location, transport, 0, o)
	translator.NewTranslatingHandler(handler, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol).ServeHTTP(c.w, c.r)
	return nil
}

func (c *call) podPortForward() error {
	pod, err := c.pod(c.r.Context())
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	location, err := c.agentURL(c.r.Context(), pod.Spec.NodeName)
	if err != nil {
		return err
	}
	location.Path = fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name)
	if ports := c.r.URL.Query()["ports"]; len(ports) > 0 {
		location.RawQuery = url.Values{"port": {strings.Join(ports, ",")}}.Encode()
	}
	transport, err := c.agentTransport(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	var handler http.Handler = proxy.NewUpgradeAwareHandler(location, transport, false, true, responder{c})
	translator.NewTranslatingHandler(handler, translator.NewTunnelingHandler(handler), wsstream.IsWebSocketRequestWithTunnelingProtocol).ServeHTTP(c.w, c.r)
	return nil
}

// nodeProxy passes a request on to a node's agent as it is.
func (c *call) nodeProxy() error {
	location, err := c.agentURL(c.r.Context(), c.target.name)
	if err != nil {
		return err
	}
	transport, err := c.agentTransport(c.target.name)
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

// responder answers what goes wrong before an agent has answered.
type responder struct{ *call }

func (r responder) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	writeError(r.w, r.r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach the node's agent: %v", err)))
}
