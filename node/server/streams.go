package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/kontiki/kontiki/node/runtime"
)

const streamIdle = 4 * time.Hour

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	pod, id, opts := s.findStream(w, r)
	if pod == nil {
		return
	}
	remotecommand.ServeExec(w, r, streamer{s}, pod.Name, string(pod.UID), id, r.URL.Query()[corev1.ExecCommandParam], opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	pod, id, opts := s.findStream(w, r)
	if pod == nil {
		return
	}
	remotecommand.ServeAttach(w, r, streamer{s}, pod.Name, string(pod.UID), id, opts, streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

// findStream returns the pod and the ID of the running container that a request for streams names, and which streams it asks for.
// The pod is nil if an error was written.
func (s *Server) findStream(w http.ResponseWriter, r *http.Request) (pod *corev1.Pod, id string, opts *remotecommand.Options) {
	pod, c := s.find(w, r)
	if pod == nil {
		return nil, "", nil
	}
	opts, err := streamOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, "", nil
	}
	if id, err = s.runningID(pod, c.Name); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil, "", nil
	}
	return pod, id, opts
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod, _ := s.find(w, r)
	if pod == nil {
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, streamer{s}, pod.Name, string(pod.UID), opts, streamIdle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

// streamOptions reads the kubelet's own parameters (input, output, error), and also those of the API (stdin, stdout, stderr), so
// that an API server may forward a client's query unchanged.
func streamOptions(r *http.Request) (*remotecommand.Options, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	for api, own := range map[string]string{"stdin": remotecommand.ExecStdinParam, "stdout": remotecommand.ExecStdoutParam, "stderr": remotecommand.ExecStderrParam, "tty": remotecommand.ExecTTYParam} {
		if on, err := strconv.ParseBool(r.Form.Get(api)); err == nil && on {
			r.Form.Set(own, "1")
		}
	}
	return remotecommand.NewOptions(r)
}

// runningID returns the id of the pod's running container of that name.
func (s *Server) runningID(pod *corev1.Pod, name string) (string, error) {
	list, err := s.c.Runtime.ListContainers(context.Background(), string(pod.UID))
	if err != nil {
		return "", err
	}
	for _, c := range list {
		if c.Name == name && c.State == runtime.StateRunning {
			return c.ID, nil
		}
	}
	return "", fmt.Errorf("container not found (%q)", name)
}

// streamer implements the streaming library's runtime interface. The container argument is the runtime's id.
type streamer struct{ s *Server }

func (t streamer) ExecInContainer(ctx context.Context, name, uid, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := t.s.c.Runtime.Exec(ctx, container, runtime.ExecOptions{Command: cmd, TTY: tty, Stdin: reader(in), Stdout: writer(out), Stderr: writer(errOut), Resize: sizes(ctx, resize)})
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

func (t streamer) AttachContainer(ctx context.Context, name, uid, container string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return t.s.c.Runtime.Attach(ctx, container, runtime.AttachOptions{Stdin: reader(in), Stdout: writer(out), Stderr: writer(errOut), Resize: sizes(ctx, resize)})
}

// reader and writer prevent a nil pointer of a concrete type from becoming a non-nil interface.
func reader(r io.Reader) io.Reader {
	if r == nil {
		return nil
	}
	return r
}

func writer(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}

func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan runtime.Size {
	if in == nil {
		return nil
	}
	out := make(chan runtime.Size)
	go func() {
		defer close(out)
		for {
			select {
			case s, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- runtime.Size{Width: s.Width, Height: s.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// PortForward connects a stream to a port on the pod's loopback.
func (t streamer) PortForward(ctx context.Context, name, uid string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	netns := ""
	list, err := t.s.c.Runtime.ListSandboxes(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, b := range list {
		if b.UID == uid {
			netns, found = b.NetNS, true
		}
	}
	if !found {
		return fmt.Errorf("unable to do port forwarding: pod %q is not running", name)
	}
	conn, err := dialIn(ctx, netns, port)
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside pod %q: %w", port, name, err)
	}
	defer conn.Close()
	toPod, toClient := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		if c, ok := conn.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
		toPod <- err
	}()
	go func() {
		_, err := io.Copy(stream, conn)
		toClient <- err
	}()
	select {
	case err = <-toClient: // the pod has sent everything
	case <-ctx.Done():
		return nil
	case err = <-toPod:
		if err == nil {
			select {
			case err = <-toClient:
			case <-ctx.Done():
			}
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// dialIn connects to loopback inside a network namespace, "" for our own. The thread that enters it ends with its goroutine, which
// stays locked to it.
func dialIn(ctx context.Context, netns string, port int32) (net.Conn, error) {
	dial := func() (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			if c6, err6 := d.DialContext(ctx, "tcp", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 == nil {
				return c6, nil
			}
		}
		return conn, err
	}
	if netns == "" {
		return dial()
	}
	type result struct {
		conn net.Conn
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		goruntime.LockOSThread()
		f, err := os.Open(netns)
		if err != nil {
			ch <- result{nil, err}
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			ch <- result{nil, fmt.Errorf("enter network namespace: %w", err)}
			return
		}
		conn, err := dial()
		ch <- result{conn, err}
	}()
	r := <-ch
	return r.conn, r.err
}
