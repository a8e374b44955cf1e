package fake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Program implements a command and returns the exit code. ctx ends when the process is killed.
type Program func(ctx context.Context, p *Process) int

// Process is one run of a program.
type Process struct {
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	signals        chan string
	killed         chan struct{}
	mu             sync.Mutex
	code           int
	oom            bool
	done           bool
}

func newProcess(args []string, in io.Reader, out, errOut io.Writer) *Process {
	return &Process{Args: args, Stdin: in, Stdout: out, Stderr: errOut, signals: make(chan string, 16), killed: make(chan struct{})}
}

// Signals yields the names of signals, "TERM".
func (p *Process) Signals() <-chan string { return p.signals }

func (p *Process) signal(name string) {
	select {
	case p.signals <- name:
	default:
	}
}

// exit ends the process from outside.
func (p *Process) exit(code int, oom bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.done {
		p.code, p.oom, p.done = code, oom, true
		close(p.killed)
	}
}

// run runs the program until it returns or is ended from outside.
func (p *Process) run(ctx context.Context, program Program) (code int, oom bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan int, 1)
	go func() { ended <- program(ctx, p) }()
	select {
	case code := <-ended:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.done {
			return p.code, p.oom
		}
		p.done = true
		return code, false
	case <-p.killed:
		return p.code, p.oom
	case <-ctx.Done():
		return 137, false
	}
}

// Program sets the implementation of a command (its first word).
func (r *Runtime) Program(name string, p Program) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.programs[name] = p
}

// program returns the implementation of a command, nil if there is none. The caller holds mu.
func (r *Runtime) program(args []string) (Program, []string) {
	if r.hollow && (len(args) == 0 || r.programs[args[0]] == nil && builtin[args[0]] == nil) {
		return untilAsked, args
	}
	if len(args) == 0 {
		args = []string{"sleep", "1000000"} // an image's own command
	}
	if p := r.programs[args[0]]; p != nil {
		return p, args
	}
	return builtin[args[0]], args
}

var builtin = map[string]Program{
	"true":  func(context.Context, *Process) int { return 0 },
	"false": func(context.Context, *Process) int { return 1 },
	"echo": func(_ context.Context, p *Process) int {
		fmt.Fprintln(p.Stdout, strings.Join(p.Args[1:], " "))
		return 0
	},
	"cat": func(_ context.Context, p *Process) int {
		_, _ = io.Copy(p.Stdout, p.Stdin)
		return 0
	},
	// As a container's first process, sleep has no signal handler and therefore ignores TERM.
	"sleep": func(ctx context.Context, p *Process) int {
		t := time.NewTimer(time.Duration(atoi(p.Args[1])) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return 0
		case <-ctx.Done():
			return 137
		}
	},
	"sh": shell,
}

var (
	trapCode = regexp.MustCompile(`trap "exit (\d+)" TERM`)
	exitCode = regexp.MustCompile(`exit (\d+)`)
	sleeping = regexp.MustCompile(`^sleep (\d+);`)
)

// shell supports sh -c with `trap "exit N" TERM` around a loop, `sleep N; exit M`, and "exit N".
func shell(ctx context.Context, p *Process) int {
	script := p.Args[len(p.Args)-1]
	if m := sleeping.FindStringSubmatch(script); m != nil {
		select {
		case <-time.After(time.Duration(atoi(m[1])) * time.Second):
		case <-ctx.Done():
			return 137
		}
	} else if strings.Contains(script, "while") || strings.Contains(script, "trap") {
		m := trapCode.FindStringSubmatch(script)
		for {
			select {
			case s := <-p.signals:
				if m != nil && s == "TERM" {
					return atoi(m[1])
				}
			case <-ctx.Done():
				return 137
			}
		}
	}
	if m := exitCode.FindStringSubmatch(script); m != nil {
		return atoi(m[1])
	}
	return 0
}

// pipe is a container's input: it can be written before it is read, and closed once.
type pipe struct {
	mu     sync.Mutex
	b      bytes.Buffer
	closed bool
	wake   chan struct{}
}

func newPipe() *pipe { return &pipe{wake: make(chan struct{}, 1)} }

func (p *pipe) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.poke()
	return p.b.Write(b)
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.poke()
}

func (p *pipe) Read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		if p.b.Len() > 0 {
			n, err := p.b.Read(b)
			p.poke()
			p.mu.Unlock()
			return n, err
		}
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return 0, io.EOF
		}
		<-p.wake
	}
}

// fanout copies a container's output to attached clients.
type fanout struct {
	mu      sync.Mutex
	clients []io.Writer
	done    []chan struct{}
	closed  bool
}

func (f *fanout) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		_, _ = c.Write(b)
	}
	return len(b), nil
}

func (f *fanout) attach(w io.Writer) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan struct{})
	if f.closed {
		close(ch)
		return ch
	}
	f.clients, f.done = append(f.clients, w), append(f.done, ch)
	return ch
}

func (f *fanout) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, d := range f.done {
		close(d)
	}
	f.done = nil
}
