package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/containerd/logger"
)

// execPrefix begins the ids of processes that are started in containers, and the names of their directories.
const execPrefix = "exec-"

// Exec implements runtime.Streams.
func (r *Runtime) Exec(ctx context.Context, id string, o runtime.ExecOptions) (int, error) {
	ctx = r.ns(ctx)
	c, task, err := r.running(id)
	if err != nil {
		return -1, err
	}
	spec, err := c.ctr.Spec(ctx)
	if err != nil {
		return -1, classify(err)
	}
	p := *spec.Process
	p.Args, p.Terminal = o.Command, o.TTY
	p.ConsoleSize = nil
	if o.TTY && !slices.ContainsFunc(p.Env, func(e string) bool { return len(e) > 5 && e[:5] == "TERM=" }) {
		p.Env = append(slices.Clone(p.Env), "TERM=xterm")
	}
	if o.TTY {
		p.ConsoleSize = &specs.Box{Width: 80, Height: 24}
	}
	execID := execPrefix + newID()[:16]
	dir := filepath.Join(r.c.StateDir, "io", execID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return -1, err
	}
	defer os.RemoveAll(dir)
	stderr := o.Stderr
	if o.TTY {
		stderr = nil
	}
	stdin := newClosableReader(o.Stdin)
	ended := make(chan struct{})
	defer close(ended)
	if o.TTY {
		stdin.endsWith(ended)
	}
	out := newOutput()
	opts := []cio.Opt{cio.WithStreams(stdin.reader(), out.to(o.Stdout), out.to(stderr)), cio.WithFIFODir(dir)}
	if o.TTY {
		opts = append(opts, cio.WithTerminal)
	}
	proc, err := task.Exec(ctx, execID, &p, cio.NewCreator(opts...))
	if err != nil {
		if errdefs.IsNotFound(err) {
			return -1, fmt.Errorf("container %s: %w", id, runtime.ErrNotRunning)
		}
		return -1, fmt.Errorf("failed to exec in container: %w", classify(err))
	}
	cleanup := context.WithoutCancel(ctx)
	defer func() {
		cctx, cancel := context.WithTimeout(cleanup, 10*time.Second)
		defer cancel()
		_, _ = proc.Delete(cctx, client.WithProcessKill)
	}()
	wait, err := proc.Wait(cleanup)
	if err != nil {
		return -1, classify(err)
	}
	stdin.onEOF(func() {
		cctx, cancel := context.WithTimeout(cleanup, 10*time.Second)
		defer cancel()
		_ = proc.CloseIO(cctx, client.WithStdinCloser)
	})
	if err := proc.Start(ctx); err != nil {
		return -1, fmt.Errorf("failed to exec in container: failed to start exec %q: %w", execID, err)
	}
	stdin.started()
	stopResize := resizer(o.Resize, func(s runtime.Size) { _ = proc.Resize(cleanup, uint32(s.Width), uint32(s.Height)) })
	defer stopResize()
	select {
	case st := <-wait:
		if st.Error() != nil {
			return -1, classify(st.Error())
		}
		if err := out.drain(ctx, proc.IO(), r.idleOutput); err != nil {
			return -1, err
		}
		return int(st.ExitCode()), nil
	case <-ctx.Done():
		kctx, cancel := context.WithTimeout(cleanup, 10*time.Second)
		defer cancel()
		_ = proc.Kill(kctx, syscall.SIGKILL)
		select {
		case <-wait:
		case <-kctx.Done():
		}
		proc.IO().Cancel() // the caller gave up and reads nothing any more
		return -1, ctx.Err()
	}
}

// idleOutput is how long the output of a command that has ended may be silent. A background child may keep the streams open
// forever.
const idleOutput = 10 * time.Second

// output serializes writes to both streams of a command, as they may be one writer.
type output struct {
	mu      sync.Mutex
	writing atomic.Bool
	last    atomic.Int64 // when a write last began or ended
}

func newOutput() *output {
	o := &output{}
	o.last.Store(time.Now().UnixNano())
	return o
}

func (o *output) to(w io.Writer) io.Writer { return &outputWriter{o, orDiscard(w)} }

type outputWriter struct {
	o *output
	w io.Writer
}

func (w *outputWriter) Write(b []byte) (int, error) {
	w.o.mu.Lock()
	defer w.o.mu.Unlock()
	w.o.writing.Store(true)
	defer func() {
		w.o.last.Store(time.Now().UnixNano())
		w.o.writing.Store(false)
	}()
	return w.w.Write(b)
}

// drain waits until all output of an ended command has been written, however slowly it is read, or ctx ends. If the streams do not
// end, it returns when nothing has come for idle.
func (o *output) drain(ctx context.Context, io cio.IO, idle time.Duration) error {
	done := make(chan struct{})
	go func() { defer close(done); io.Wait() }()
	tick := time.NewTicker(idle / 10)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			io.Cancel()
			return ctx.Err()
		case <-tick.C:
			if !o.writing.Load() && time.Since(time.Unix(0, o.last.Load())) > idle {
				io.Cancel()
				return nil
			}
		}
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func resizer(ch <-chan runtime.Size, resize func(runtime.Size)) (stop func()) {
	if ch == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case s, ok := <-ch:
				if !ok {
					return
				}
				resize(s)
			case <-done:
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// closableReader reports the end of its reader, but not before the process has started: closing the input of a process that has not
// started yet has no effect.
type closableReader struct {
	r     io.Reader
	start chan struct{}
	eof   func()
	once  sync.Once
	ended <-chan struct{}
}

// endsWith delays the end of a terminal's input until its process has ended: an earlier end would hang up the terminal. The shim
// opens another writing end against that, but possibly only after all input was written.
func (c *closableReader) endsWith(ended <-chan struct{}) { c.ended = ended }

func newClosableReader(r io.Reader) *closableReader {
	return &closableReader{r: r, start: make(chan struct{})}
}

// reader returns nil if there is no input, so that none is connected.
func (c *closableReader) reader() io.Reader {
	if c.r == nil {
		return nil
	}
	return c
}

func (c *closableReader) onEOF(f func()) { c.eof = f }
func (c *closableReader) started()       { close(c.start) }

func (c *closableReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if err != nil && c.ended != nil {
		if n == 0 {
			<-c.ended
			return 0, err
		}
		return n, nil
	}
	if err != nil {
		c.once.Do(func() {
			go func() {
				<-c.start
				c.eof()
			}()
		})
	}
	return n, err
}

// Attach implements runtime.Streams.
func (r *Runtime) Attach(ctx context.Context, id string, o runtime.AttachOptions) error {
	ctx = r.ns(ctx)
	c, task, err := r.running(id)
	if err != nil {
		return err
	}
	info := c.snapshot()
	conn, err := dialLogger(ctx, r.ioPath(id, ".sock"))
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	attached := make(chan struct{})
	attach := sync.OnceFunc(func() { close(attached) })
	defer attach()
	stopResize := resizer(o.Resize, func(s runtime.Size) { _ = task.Resize(ctx, uint32(s.Width), uint32(s.Height)) })
	defer stopResize()

	if o.Stdin != nil && info.Stdin {
		in, err := openInput(ctx, r.ioPath(id, ".in"))
		if err != nil {
			return fmt.Errorf("attach to container %s: %w", id, err)
		}
		// The shim has its own write end until CloseIO, so the input ends only then, after everything that was written. The shim
		// may open it late, so ours stays open until the end of the stream.
		defer in.Close()
		go func() {
			select { // output caused by the input must not be missed
			case <-attached:
			case <-time.After(attachWait):
			}
			_, err := io.Copy(in, o.Stdin)
			if info.StdinOnce && !info.TTY && err == nil {
				in.Close()
				cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				defer cancel()
				_ = task.CloseIO(cctx, client.WithStdinCloser)
			}
		}()
	}
	err = logger.ReadFrames(conn, func(s logger.Stream, b []byte) error {
		w := o.Stdout
		switch s {
		case logger.Attached:
			attach()
			return nil
		case logger.Stderr:
			w = o.Stderr
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(b)
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// attachWait is how long to wait for the Attached frame, which loggers of earlier versions do not send.
const attachWait = 2 * time.Second

// openInput opens the FIFO for writing; it waits a moment for the shim to open the other end.
func openInput(ctx context.Context, path string) (*os.File, error) {
	for i := 0; ; i++ {
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) || i == 200 {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// dialLogger connects to a logger; it waits a moment for one that has just been started.
func dialLogger(ctx context.Context, path string) (net.Conn, error) {
	for i := 0; ; i++ {
		conn, err := net.Dial("unix", path)
		if err == nil || i == 200 {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
