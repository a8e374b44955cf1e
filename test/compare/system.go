package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

// A system is one control plane. It is started once.
type system interface {
	// start returns once the API is ready.
	start(ctx context.Context) error
	// stop ends all its processes and removes what they created outside the directory. It can be called after a failed start.
	stop() error
	// admin returns the administrator's configuration.
	admin() *rest.Config
	// endpoints returns functions that connect to the API servers.
	endpoints() []dial
	// processes returns the pids of all servers.
	processes() ([]int, error)
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

const (
	kontikiName = "kontiki"
	single      = "kontiki-1"
	etcd1Name   = "etcd-1"
	etcd3Name   = "etcd-3"
)

var systemNames = []string{kontikiName, etcd1Name, etcd3Name}

func newSystem(o *options, name, dir string) (system, error) {
	objects := o.kind == schedulingWorkload
	switch name {
	case kontikiName:
		return &kontiki{program: o.kontiki, dir: dir, masters: 3, nodesAreObjects: objects}, nil
	case single:
		return &kontiki{program: o.kontiki, dir: dir, masters: 1, nodesAreObjects: objects}, nil
	case etcd1Name:
		return &upstream{programs: o.upstream, dir: dir, members: 1, nodesAreObjects: objects}, nil
	case etcd3Name:
		return &upstream{programs: o.upstream, dir: dir, members: 3, nodesAreObjects: objects}, nil
	}
	return nil, fmt.Errorf("there is no system %q: choose from %s", name, strings.Join(append(slices.Clone(systemNames), single), ", "))
}

// auditPolicy writes the policy of both systems.
func auditPolicy(dir string) (string, error) {
	path := filepath.Join(dir, "audit.yaml")
	return path, os.WriteFile(path, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"), 0o644)
}

// process is a program that runs in the background and writes to a log file. It ends with this process at the latest.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func startProcess(log, program string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := &process{cmd: exec.Command(program, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = file, file
	// A group of its own, so that an interrupt at the terminal reaches this process alone, which ends the others in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		// The signal is sent when the thread that started the child ends, so it must live as long as the child.
		lockThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() // its exit status says nothing about what was measured
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process, after the given time by force.
func (p *process) stop(patience time.Duration) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
	}
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-p.done
	return err
}

// end returns the last lines of the log.
func (p *process) end() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-3000):])
}

// await calls ready until it returns nil, the process has ended, or a time limit has passed.
func (p *process) await(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond) // other programs: there is no event to wait for
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before %s; its log ends with:\n%s", p.cmd.Path, what, p.end())
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; %s's log ends with:\n%s", what, err, p.cmd.Path, p.end())
		case <-tick.C:
		}
	}
}

// healthy asks an API server whether it is ready.
func healthy(ctx context.Context, config *rest.Config) error {
	set, err := clientset(config)
	if err != nil {
		return err
	}
	_, err = set.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}
