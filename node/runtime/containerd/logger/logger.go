// Package logger is the process that writes a container's log. containerd's shim starts one for each container (cio.BinaryIO) and
// passes it the container's output as file descriptors 3 and 4, so that neither the agent nor containerd is between a container and
// its log: both may restart, and a container never blocks on them.
//
// It writes the CRI log format (time, stream, P or F for a partial or full line, text), rotates by size, and sends the raw output
// to attached clients on a unix socket.
package logger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/eintr"
)

// Config is the logger's configuration, a JSON file.
type Config struct {
	// Log is the absolute path of the log file; rotated files are beside it.
	Log string `json:"log"`
	// Socket is the path of the unix socket for attached clients; "" means none.
	Socket string `json:"socket,omitempty"`
	// Stdout and Stderr are FIFOs to read instead of file descriptors 3 and 4.
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
	// TTY means that there is one stream, and that it may not end by itself.
	TTY bool `json:"tty,omitempty"`
	// PidFile is the file to which the logger writes its process id; it removes it when it ends.
	PidFile string `json:"pidFile,omitempty"`
	// MaxBytes is the size at which the log is rotated, MaxFiles the number of files including the current one.
	MaxBytes int64 `json:"maxBytes"`
	MaxFiles int   `json:"maxFiles"`
	// Patience is how long an attached client may read nothing; 0 means 30 s.
	Patience time.Duration `json:"patience,omitempty"`
}

// The kubelet's defaults.
const (
	DefaultMaxBytes = 10 << 20
	DefaultMaxFiles = 5
)

// drain is how long output may still arrive after the logger was told to stop.
const drain = 2 * time.Second

// Main runs the logger: args[0] is the path of its Config. It returns the exit code. File descriptors 3 and 4 are the container's
// stdout and stderr; closing 5 signals that the logger is ready.
func Main(args []string) int {
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(8 << 20)
	if len(args) < 1 {
		fmt.Fprintln(os.Stderr, "container-logger: want the path of a configuration")
		return 2
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, "container-logger:", err)
		return 1
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		fmt.Fprintln(os.Stderr, "container-logger:", err)
		return 1
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if c.Stdout != "" {
		err = runFIFOs(c, stop)
	} else {
		ready := os.NewFile(5, "ready")
		err = Run(c, nonblocking(3, "stdout"), nonblocking(4, "stderr"), stop, func() { ready.Close() })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "container-logger:", err)
		return 1
	}
	return 0
}

// runFIFOs waits for the writer of both FIFOs. If it is told to stop before, it returns: the container was not started.
func runFIFOs(c Config, stop chan os.Signal) error {
	if c.PidFile != "" {
		if err := os.WriteFile(c.PidFile, fmt.Appendf(nil, "%d", os.Getpid()), 0o600); err != nil {
			return err
		}
		defer os.Remove(c.PidFile)
	}
	opened := make(chan error, 1)
	var files [2]*os.File
	go func() {
		for i, path := range []string{c.Stdout, c.Stderr} {
			var fd int
			err := eintr.Retry(func() (err error) {
				fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) // blocks until there is a writer
				return err
			})
			if err != nil {
				opened <- err
				return
			}
			files[i] = nonblocking(uintptr(fd), path)
		}
		opened <- nil
	}()
	select {
	case err := <-opened:
		if err != nil {
			return err
		}
		return Run(c, files[0], files[1], stop, func() {})
	case <-stop:
		return nil
	}
}

// nonblocking lets Go's poller wait for the descriptor, so that a deadline can interrupt a read.
func nonblocking(fd uintptr, name string) *os.File {
	_ = unix.SetNonblock(int(fd), true)
	return os.NewFile(fd, name)
}

// Run copies both streams until they end or, after stop, until no more output arrives. ready is called when it has begun.
func Run(c Config, stdout, stderr *os.File, stop <-chan os.Signal, ready func()) error {
	if c.MaxBytes <= 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.MaxFiles <= 0 {
		c.MaxFiles = DefaultMaxFiles
	}
	w, err := openFile(c.Log, c.MaxBytes, c.MaxFiles)
	if err != nil {
		return err
	}
	defer w.Close()
	if c.PidFile != "" {
		if err := os.WriteFile(c.PidFile, fmt.Appendf(nil, "%d", os.Getpid()), 0o600); err != nil {
			return err
		}
		defer os.Remove(c.PidFile)
	}
	var fan *fanout
	if c.Socket != "" {
		if fan, err = listen(c.Socket, c.Patience); err != nil {
			return err
		}
		defer fan.Close()
	}
	ready()

	var wg sync.WaitGroup
	done := make(chan struct{})
	streams := []*os.File{stdout}
	if !c.TTY {
		streams = append(streams, stderr)
	}
	for i, f := range streams {
		stream := Stream(i + 1)
		wg.Go(func() { copyStream(w, fan, stream, f) })
	}
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-stop:
		wait := drain
		if c.TTY {
			wait = 100 * time.Millisecond
		}
		for _, f := range streams {
			_ = f.SetReadDeadline(time.Now().Add(wait))
		}
		<-done
	}
	return nil
}

func copyStream(w *file, fan *fanout, s Stream, r io.Reader) {
	buf := make([]byte, MaxLine)
	lines := lineWriter{file: w, stream: s}
	defer lines.flush()
	for {
		n, err := r.Read(buf)
		if n > 0 {
			lines.write(time.Now(), buf[:n])
			fan.send(s, buf[:n])
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				fmt.Fprintln(os.Stderr, "container-logger:", err)
			}
			return
		}
	}
}
