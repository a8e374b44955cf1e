package dev

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/linger"
)

// Options describe the cluster to run.
type Options struct {
	Dir              string
	Masters, Workers int
	// Hollow is how many hollow workers there are, beside the others.
	Hollow                int
	APIPort               int
	Publish               []string
	ServerArgs, AgentArgs []string
	HollowArgs            []string
	// WriteKubeconfig writes the administrator's kubeconfig for an API address.
	WriteKubeconfig func(path, server string, ca *pki.Authority, roots []byte) error
	// Progress is called with one line per step.
	Progress func(string)
	Log      *slog.Logger
}

// restartPause is how long a process that exited by itself stays down, as with a service manager.
const restartPause = time.Second

// Supervisor owns a running development cluster.
type Supervisor struct {
	options Options
	self    string
	log     *slog.Logger

	mu    sync.Mutex
	state *State
	// down are the hosts that `kontiki dev kill` or `stop` took down: they are not restarted automatically.
	down    map[string]bool
	stopped bool
	waiters sync.WaitGroup
	stopAll context.CancelFunc
}

// Run runs a cluster until the context ends or `kontiki dev stop` stops it, and cleans up after it.
func Run(ctx context.Context, o Options) (err error) {
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return err
	}
	if before, err := load(o.Dir); err == nil && before.Processes["supervisor"].alive() {
		return fmt.Errorf("a development cluster runs in %s already; `kontiki dev stop` stops it", o.Dir)
	}
	state, err := newState(o.Dir, o.Masters, o.Workers, o.Hollow)
	if err != nil {
		return err
	}
	state.APIPort, state.Publish, state.ServerArgs, state.AgentArgs, state.HollowArgs = o.APIPort, o.Publish, o.ServerArgs, o.AgentArgs, o.HollowArgs
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Supervisor{options: o, self: self, log: o.Log, state: state, down: map[string]bool{}, stopAll: cancel}
	// First clean up a cluster with other hosts, or one that was not cleaned up.
	if before, err := load(o.Dir); err == nil {
		if err := before.tearDown(); err != nil {
			return fmt.Errorf("clean up after the last run: %w", err)
		}
	}
	started, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	state.Processes["supervisor"] = Process{os.Getpid(), started}
	if err := state.save(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveControl(ctx) })
	group.Go(func() error { return s.forward(ctx) })
	group.Go(func() error { return s.followIdentity(ctx) })
	group.Go(func() error { return s.bringUp(ctx) })
	err = group.Wait()
	return errors.Join(ignoreCancel(err), s.shutDown())
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *Supervisor) shutDown() error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	err := s.state.tearDown()
	s.waiters.Wait()
	return err
}

func (s *Supervisor) progress(begin time.Time, format string, args ...any) {
	line := fmt.Sprintf("%6.1fs  %s", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	s.log.Info(line)
	s.options.Progress(line)
}

// bringUp starts everything, in the order in which a person would.
func (s *Supervisor) bringUp(ctx context.Context) error {
	begin := time.Now()
	if err := s.state.makeNetwork(); err != nil {
		return err
	}
	s.progress(begin, "network: %d hosts, each in a namespace of its own", len(s.state.Hosts))
	if len(s.state.of(worker)) > 0 {
		if err := s.startContainerd(ctx); err != nil {
			return err
		}
		s.progress(begin, "containerd answers")
	}
	masters := s.state.of(master)
	if err := s.start(masters[0]); err != nil {
		return err
	}
	if err := s.awaitIdentity(ctx, masters[0]); err != nil {
		return err
	}
	for _, h := range masters[1:] {
		if err := s.start(h); err != nil {
			return err
		}
	}
	if err := s.writeKubeconfig(); err != nil {
		return err
	}
	probe, err := newProbe(s.state.Kubeconfig())
	if err != nil {
		return err
	}
	if err := poll(ctx, time.Minute, "the API to be ready", func() error { return probe.ready(ctx) }); err != nil {
		return s.explain(err)
	}
	s.progress(begin, "API ready at %s", s.apiURL())
	for _, h := range append(s.state.of(worker), s.state.of(hollow)...) {
		if err := s.start(h); err != nil {
			return err
		}
	}
	if err := poll(ctx, time.Minute, "all masters to join", func() error { return probe.masters(ctx, len(masters)) }); err != nil {
		return s.explain(err)
	}
	s.progress(begin, "masters: %d, leader elected", len(masters))
	workers := len(s.state.of(worker))
	if err := poll(ctx, time.Minute, "all workers to be ready", func() error { return probe.nodes(ctx, workers) }); err != nil {
		return s.explain(err)
	}
	s.progress(begin, "workers: %d, all ready", workers)
	if hollows := s.options.Hollow; hollows > 0 {
		if err := poll(ctx, hollowBound, "all hollow workers to be ready", func() error { return probe.nodes(ctx, workers+hollows) }); err != nil {
			return s.explain(err)
		}
		s.progress(begin, "hollow workers: %d, all ready", hollows)
	}
	s.options.Progress(Up)
	return nil
}

// hollowBound is how long thousands of workers may take to join.
const hollowBound = 20 * time.Minute

// Up is the progress line after which the cluster is up.
const Up = "up"

func (s *Supervisor) explain(err error) error {
	return fmt.Errorf("%w; the hosts' logs are in %s", err, filepath.Join(s.state.Dir, "logs"))
}

// awaitIdentity waits until the first master has created the cluster's identity and its join tokens.
func (s *Supervisor) awaitIdentity(ctx context.Context, first Host) error {
	return poll(ctx, 30*time.Second, first.Name+" to start the cluster", func() error {
		if _, err := identity.Load(s.state.hostDir(first)); err != nil {
			return err
		}
		for _, r := range []role{master, worker} {
			if _, err := s.token(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// token returns a join token: the one in the first master's data or, if that is missing or of a previous CA, a new one from a
// running master.
func (s *Supervisor) token(r role) (string, error) {
	first := s.state.hostDir(s.state.of(master)[0])
	data, err := os.ReadFile(filepath.Join(first, "token-"+string(r)))
	if err == nil {
		var id *identity.Identity
		if id, err = identity.Load(first); err == nil && strings.HasPrefix(string(data), "K10"+id.CA.Pin()+"::") {
			return string(data), nil
		}
	}
	failures := []error{err}
	for _, m := range s.state.of(master) {
		if !s.belongs(m) {
			continue
		}
		var out, errs bytes.Buffer
		cmd := exec.Command(s.self, "token", "create", "--role", string(r), "--ttl", "1h", "--data-dir", s.state.hostDir(m))
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := within(s.state.namespace(m), cmd.Start); err != nil {
			return "", err
		}
		if err := cmd.Wait(); err == nil {
			return strings.TrimSpace(out.String()), nil
		}
		failures = append(failures, fmt.Errorf("%s: %s", m.Name, strings.TrimSpace(errs.String())))
	}
	return "", fmt.Errorf("no join token is available: %w", errors.Join(failures...))
}

// belongs says whether a host's data make it a member of the cluster: one without data joins as a new machine, with a token.
func (s *Supervisor) belongs(h Host) bool {
	file := "member.json"
	if h.Role == worker {
		file = filepath.Join("identity", "worker.json")
	}
	_, err := os.Stat(filepath.Join(s.state.hostDir(h), file))
	return err == nil
}

// founds says whether a host creates a new cluster: the first one does, if no other has one.
func (s *Supervisor) founds(h Host) bool {
	masters := s.state.of(master)
	return h.Name == masters[0].Name && (s.belongs(h) || !slices.ContainsFunc(masters[1:], s.belongs))
}

// program returns the kontiki binary that a host runs.
func (s *Supervisor) program(h Host) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.state.Programs[h.Name], s.self)
}

// setProgram sets another binary for a host that is down; "" keeps the present one.
func (s *Supervisor) setProgram(h Host, program string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if program == "" {
		return nil
	}
	if s.state.Processes[h.Name].alive() {
		return fmt.Errorf("%s is already running: stop it before starting another program", h.Name)
	}
	if s.state.Programs == nil {
		s.state.Programs = map[string]string{}
	}
	s.state.Programs[h.Name] = program
	return s.state.save()
}

// command returns the command line of a host.
func (s *Supervisor) command(h Host) ([]string, error) {
	masters := s.state.of(master)
	var join []string
	for _, m := range masters {
		if m.Name != h.Name {
			join = append(join, "--join", net.JoinHostPort(m.Address.String(), strconv.Itoa(mtls.DefaultPort)))
		}
	}
	var token []string
	if !s.founds(h) && !s.belongs(h) {
		r := h.Role
		if r == hollow {
			r = worker
		}
		text, err := s.token(r)
		if err != nil {
			return nil, err
		}
		token = []string{"--token", text}
	}
	if h.Role == master {
		argv := []string{s.program(h), "server", "--no-agent", "--name", h.Name, "--node-ip", h.Address.String(), "--data-dir", s.state.hostDir(h)}
		if !s.founds(h) {
			argv = append(append(argv, join...), token...)
		}
		if len(s.state.of(hollow)) > 0 { // which do not gossip, and need a range of pod addresses each
			argv = append(argv, "--gossip", "masters", "--pod-cidr", hollowPods)
		}
		return append(argv, s.state.ServerArgs...), nil
	}
	if h.Role == hollow {
		argv := []string{s.program(h), "hollow", "--count", strconv.Itoa(h.Hollow.Count), "--first", strconv.Itoa(h.Hollow.First),
			"--addresses", h.Hollow.Addresses.String(), "--data-dir", s.state.hostDir(h)}
		return append(append(append(argv, token...), join...), s.state.HollowArgs...), nil
	}
	argv := []string{s.program(h), "agent", "--name", h.Name, "--node-ip", h.Address.String(), "--data-dir", s.state.hostDir(h),
		"--containerd", s.state.containerdSocket(), "--containerd-namespace", s.state.containerdNS(h),
		"--cgroup-parent", s.state.cgroupParent(h), "--pod-logs-dir", filepath.Join(s.state.hostDir(h), "log", "pods"),
		"--kubelet-root", filepath.Join(s.state.hostDir(h), "kubelet"),
		// The hosts share this machine's disk, which a development cluster neither owns nor frees.
		"--eviction-hard", "memory.available<100Mi", "--image-gc-high-threshold", "100"}
	return append(append(append(argv, token...), join...), s.state.AgentArgs...), nil
}

// start starts a host's process, and restarts it whenever it exits by itself.
func (s *Supervisor) start(h Host) error {
	argv, err := s.command(h)
	if err != nil {
		return err
	}
	if h.Role == hollow {
		if err := inMemory(s.state.hostDir(h)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	delete(s.down, h.Name)
	s.mu.Unlock()
	return s.launch(h.Name, s.state.namespace(h), argv...)
}

// inMemory makes a directory that is in memory, until tearDown unmounts it: hollow workers would share one disk otherwise.
func inMemory(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

func (s *Supervisor) launch(name, namespace string, argv ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("the cluster is being stopped")
	}
	if s.state.Processes[name].alive() {
		return fmt.Errorf("%s runs already", name)
	}
	cmd, err := startIn(namespace, s.state.logFile(name), argv...)
	if err != nil {
		return err
	}
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		return errors.Join(fmt.Errorf("%s exited at once; see %s", name, s.state.logFile(name)), cmd.Wait())
	}
	s.state.Processes[name] = Process{cmd.Process.Pid, started}
	s.waiters.Go(func() { s.wait(name, namespace, cmd, argv) })
	return s.state.save()
}

func (s *Supervisor) wait(name, namespace string, cmd *exec.Cmd, argv []string) {
	err := cmd.Wait()
	wanted := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.stopped && !s.down[name] && s.state.Processes[name].Pid == cmd.Process.Pid
	}
	if !wanted() {
		return
	}
	s.log.Warn("process exited, restarting it", "name", name, "reason", err)
	time.Sleep(restartPause)
	if !wanted() { // it was taken down or started meanwhile
		return
	}
	if err := s.launch(name, namespace, argv...); err != nil {
		s.log.Error("process could not be restarted", "name", name, "error", err)
	}
}

// endBound is how long a process may take to end: a killed one may first wait for its disk, a stopped one has to end its duties.
const endBound = 30 * time.Second

// end ends a host's process, with SIGKILL like a power failure or with SIGTERM like a service manager, and waits until it has
// ended; containers keep running.
func (s *Supervisor) end(h Host, signal syscall.Signal) error {
	s.mu.Lock()
	p := s.state.Processes[h.Name]
	if !p.alive() {
		defer s.mu.Unlock()
		if s.down[h.Name] {
			return fmt.Errorf("%s is down already", h.Name)
		}
		s.down[h.Name] = true // it exited by itself, and must not be restarted
		return nil
	}
	s.down[h.Name] = true
	err := syscall.Kill(p.Pid, signal)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), endBound)
	defer cancel()
	return poll(ctx, endBound, h.Name+" to be gone", func() error {
		if p.alive() {
			return errors.New("it still runs")
		}
		return nil
	})
}

// forward forwards this machine's ports to the cluster.
func (s *Supervisor) forward(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	open := func(local int, hosts []Host, remote int) error {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(local)))
		if err != nil {
			return fmt.Errorf("serve the cluster to this machine: %w; choose another port with --api-port or --publish", err)
		}
		f := &forwarder{namespace: s.state.switchNamespace(), log: s.log}
		for _, h := range hosts {
			f.targets = append(f.targets, netip.AddrPortFrom(h.Address, uint16(remote)))
		}
		group.Go(func() error { return f.run(ctx, linger.Listener(listener, linger.Patience)) })
		return nil
	}
	if err := open(s.state.APIPort, s.state.of(master), 6443); err != nil {
		return err
	}
	for _, text := range s.state.Publish {
		p, err := parsePublication(text)
		if err != nil {
			return err
		}
		if err := open(p.local, s.state.of(worker), p.remote); err != nil {
			return err
		}
	}
	return group.Wait()
}
