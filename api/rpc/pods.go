package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	//lint:ignore SA1019 client-go's interface uses it
	apistream "k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/contain"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// chunk is the maximum number of bytes of a log or of output in one message.
const chunk = 32 << 10

// maxCommandBytes limits a command, which is sent in the URL of the request to the agent, with up to three bytes for each byte.
const maxCommandBytes = 256 << 10

// podsServer implements the service Pods.
type podsServer struct {
	kontikiv1.UnimplementedPodsServer
	*Server
}

// pod authorizes a subresource of a pod, with the verb of the equivalent REST request, and reads the pod. at is the field of the
// message that names it, "" for the message itself. options of a kind are what admission sees of a connection, nil for none.
func (s *podsServer) pod(ctx context.Context, at, namespace, name, subresource, verb string, options runtime.Object, kind string) (*corev1.Pod, error) {
	server := &objectsServer{Server: s.Server}
	o, err := server.begin(ctx, at, &kontikiv1.Kind{Version: "v1", Kind: "Pod"}, subresource)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, Wrong(join(at, "name"), "must be given")
	}
	o.request.Namespace, o.request.Name = namespace, name
	if err := o.authorize(verb); err != nil {
		return nil, err
	}
	if err := o.scoped(true); err != nil {
		return nil, err
	}
	if options != nil {
		if err := s.Objects.Admit(ctx, &objects.Attributes{Request: o.request, Operation: objects.OpConnect, Object: options, ObjectKind: corev1.SchemeGroupVersion.WithKind(kind)}); err != nil {
			return nil, err
		}
	}
	return s.Agents.Pod(ctx, o.request)
}

// Logs implements kontikiv1.PodsServer.
func (s *podsServer) Logs(in *kontikiv1.LogsRequest, stream kontikiv1.Pods_LogsServer) error {
	pod, err := s.pod(stream.Context(), "", in.Namespace, in.Name, "log", "get", nil, "")
	if err != nil {
		return err
	}
	log, err := s.Agents.Logs(stream.Context(), pod, &corev1.PodLogOptions{
		Container: in.Container, Follow: in.Follow, Previous: in.Previous, Timestamps: in.Timestamps,
		TailLines: in.TailLines, SinceSeconds: in.SinceSeconds, LimitBytes: in.LimitBytes,
	})
	if err != nil {
		return err
	}
	defer log.Close()
	buf := make([]byte, chunk)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if err := stream.Send(&kontikiv1.LogsResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return apierrors.NewServiceUnavailable(fmt.Sprintf("the log broke off: %v", err))
		}
	}
}

// aboutStart adds the message's field start to the path of an error.
func aboutStart(err error) error {
	if wrong := (*objects.FieldError)(nil); errors.As(err, &wrong) {
		return about(join("start", wrong.Field), wrong.Err)
	}
	return err
}

// upgrader opens SPDY connections to the agent of a pod's node, whose port supports SPDY like every kubelet's.
func (s *podsServer) upgrader(node string) (*spdy.SpdyRoundTripper, error) {
	config, err := s.Agents.TLS(node)
	if err != nil {
		return nil, err
	}
	tripper, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{TLS: config})
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return tripper, nil
}

func unreachable(err error) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach the node's agent: %v", err))
}

// Exec implements kontikiv1.PodsServer.
func (s *podsServer) Exec(stream kontikiv1.Pods_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return Wrong("start", "must be the first request's")
	}
	ctx := stream.Context()
	if size := len(strings.Join(start.Command, "")); size > maxCommandBytes {
		return Wrong("start.command", "has %d bytes, the limit is %d; send what is longer by stdin", size, maxCommandBytes)
	}
	seen := &corev1.PodExecOptions{Stdin: start.Stdin, Stdout: true, Stderr: !start.Tty, TTY: start.Tty, Container: start.Container, Command: start.Command}
	pod, err := s.pod(ctx, "start", start.Namespace, start.Name, "exec", "create", seen, "PodExecOptions")
	if err != nil {
		return err
	}
	location, err := s.Agents.Exec(ctx, pod, start.Container, start.Command, agents.Streams{Stdin: start.Stdin, Stdout: true, Stderr: !start.Tty, TTY: start.Tty})
	if err != nil {
		return aboutStart(err)
	}
	tripper, err := s.upgrader(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	agent := &connecting{Upgrader: clientspdy.NewUpgraderForStreaming(tripper)}
	executor, err := remotecommand.NewSPDYExecutorRejectRedirects(tripper, agent, http.MethodPost, location)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &execOutput{stream: stream}
	input, sizes := newExecInput(ctx, stream, start, cancel)
	options := remotecommand.StreamOptions{Stdout: out.writer(false), Tty: start.Tty}
	if start.Stdin {
		options.Stdin = input
	}
	if start.Tty {
		options.TerminalSizeQueue = sizes
	} else {
		options.Stderr = out.writer(true)
	}
	err = executor.StreamWithContext(ctx, options)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var exit exec.CodeExitError
	switch {
	case err == nil:
		return out.exited(0)
	case errors.As(err, &exit):
		return out.exited(int32(exit.Code))
	case agent.connected: // do not retry with another master: the command cannot be started, or has started
		return apierrors.NewInternalError(errors.New(strings.TrimPrefix(err.Error(), "Internal error occurred: ")))
	}
	return unreachable(err)
}

// connecting records that the agent was reached.
type connecting struct {
	clientspdy.Upgrader
	connected bool
}

// NewConnection implements clientspdy.Upgrader.
func (c *connecting) NewConnection(r *http.Response) (apistream.Connection, error) {
	conn, err := c.Upgrader.NewConnection(r)
	c.connected = err == nil
	return conn, err
}

// execOutput sends what a command writes; both of its streams share one gRPC stream, which only one goroutine may write at a time.
type execOutput struct {
	mu     sync.Mutex
	stream kontikiv1.Pods_ExecServer
}

func (o *execOutput) send(m *kontikiv1.ExecResponse) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stream.Send(m)
}

func (o *execOutput) exited(code int32) error {
	return o.send(&kontikiv1.ExecResponse{Response: &kontikiv1.ExecResponse_ExitCode{ExitCode: code}})
}

func (o *execOutput) writer(stderr bool) io.Writer {
	return writerFunc(func(b []byte) error {
		if stderr {
			return o.send(&kontikiv1.ExecResponse{Response: &kontikiv1.ExecResponse_Stderr{Stderr: b}})
		}
		return o.send(&kontikiv1.ExecResponse{Response: &kontikiv1.ExecResponse_Stdout{Stdout: b}})
	})
}

// writerFunc sends what is written in chunks.
type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n := min(chunk, len(b)-done)
		if err := f(b[done : done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(b), nil
}

// sizeQueue passes on the terminal's size as the client sends it.
type sizeQueue struct {
	ctx   context.Context
	sizes chan remotecommand.TerminalSize
}

// Next implements remotecommand.TerminalSizeQueue.
func (q *sizeQueue) Next() *remotecommand.TerminalSize {
	select {
	case size := <-q.sizes:
		return &size
	case <-q.ctx.Done():
		return nil
	}
}

// newExecInput demultiplexes a client's messages. Its goroutine ends with the stream, which ends when its handler returns: then
// grpc makes a pending Recv return.
func newExecInput(ctx context.Context, stream kontikiv1.Pods_ExecServer, start *kontikiv1.ExecStart, fail context.CancelCauseFunc) (io.Reader, *sizeQueue) {
	reader, writer := io.Pipe()
	context.AfterFunc(ctx, func() { reader.CloseWithError(context.Cause(ctx)) })
	queue := &sizeQueue{ctx, make(chan remotecommand.TerminalSize)}
	pass := func() error {
		for {
			in, err := stream.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				return err
			}
			switch m := in.Request.(type) {
			case *kontikiv1.ExecRequest_Stdin:
				if !start.Stdin {
					return Wrong("stdin", "start did not ask for stdin")
				}
				if _, err := writer.Write(m.Stdin); err != nil && ctx.Err() != nil {
					return nil
				}
			case *kontikiv1.ExecRequest_StdinEnd:
				writer.Close()
			case *kontikiv1.ExecRequest_Resize:
				if m.Resize.GetWidth() > 1<<16-1 || m.Resize.GetHeight() > 1<<16-1 {
					return Wrong("resize", "a terminal has at most 65535 columns and rows")
				}
				if !start.Tty {
					continue // there is no terminal to resize
				}
				select {
				case queue.sizes <- remotecommand.TerminalSize{Width: uint16(m.Resize.Width), Height: uint16(m.Resize.Height)}:
				case <-ctx.Done():
					return nil
				}
			default:
				return Wrong("start", "must be the first request's alone, and each request must have one of the fields")
			}
		}
	}
	go func() {
		defer writer.Close()
		if err := contain.Run(pass); err != nil {
			fail(err)
		}
	}()
	return reader, queue
}

// PortForward implements kontikiv1.PodsServer.
func (s *podsServer) PortForward(stream kontikiv1.Pods_PortForwardServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return Wrong("start", "must be the first request's")
	}
	if start.Port < 1 || start.Port > 65535 {
		return Wrong("start.port", "%d is not between 1 and 65535", start.Port)
	}
	ctx := stream.Context()
	pod, err := s.pod(ctx, "start", start.Namespace, start.Name, "portforward", "create", &corev1.PodPortForwardOptions{Ports: []int32{int32(start.Port)}}, "PodPortForwardOptions")
	if err != nil {
		return err
	}
	location, err := s.Agents.PortForward(ctx, pod, nil)
	if err != nil {
		return aboutStart(err)
	}
	tripper, err := s.upgrader(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, location.String(), nil)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	request.Header.Set(httpstream.HeaderProtocolVersion, "portforward.k8s.io")
	response, err := tripper.RoundTrip(request)
	if err != nil {
		return unreachable(err)
	}
	defer response.Body.Close()
	conn, err := tripper.NewConnection(response)
	if err != nil {
		return unreachable(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return forward(conn, stream, start.Port)
}

// forward forwards one connection over a SPDY connection, as client-go's portforward does: with an error stream and a data stream.
func forward(conn httpstream.Connection, stream kontikiv1.Pods_PortForwardServer, port uint32) error {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	failures, err := conn.CreateStream(headers)
	if err != nil {
		return unreachable(err)
	}
	failures.Close() // the error stream is only read
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		return unreachable(err)
	}
	failed := make(chan error, 1)
	go func() {
		text, err := io.ReadAll(io.LimitReader(failures, chunk))
		switch {
		case err != nil:
			failed <- err
		case len(text) > 0:
			failed <- errors.New(strings.TrimSpace(string(text)))
		default:
			failed <- nil
		}
	}()
	// The goroutine ends with the stream, as in newExecInput.
	go func() {
		for {
			in, err := stream.Recv()
			if err != nil {
				data.Close() // the client has sent everything, or has disconnected
				return
			}
			if _, err := data.Write(in.GetData()); err != nil {
				return
			}
		}
	}()
	_, err = io.CopyBuffer(writerFunc(func(b []byte) error { return stream.Send(&kontikiv1.PortForwardResponse{Data: b}) }), data, make([]byte, chunk))
	if err != nil {
		return unreachable(err)
	}
	conn.RemoveStreams(data)
	if err := <-failed; err != nil && stream.Context().Err() == nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("port %d: %v", port, err))
	}
	return nil
}
