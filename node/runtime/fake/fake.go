// Package fake is a container runtime in memory. Its containers run a handful of commands (see programs.go), its time is that of
// package time, so it works in a testing/synctest bubble, and its operations can be made to fail or to block.
package fake

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

// Runtime implements runtime.Runtime.
type Runtime struct {
	mu         sync.Mutex
	sandboxes  map[string]runtime.Sandbox
	podLimits  map[string]runtime.Resources // by UID
	containers map[string]*container
	images     map[string]runtime.Image // by reference
	pullable   map[string]runtime.Image
	passwords  map[string]string // of images that need one
	listeners  map[chan runtime.Event]struct{}
	seq        int
	faults     map[string][]error
	blocks     map[string]chan struct{}
	calls      []string
	programs   map[string]Program
	features   runtime.Features
	stats      map[string]runtime.Stats // by container name
	boots      int
	hollow     bool
	startDelay time.Duration
}

type container struct {
	info    runtime.Container
	config  runtime.ContainerConfig
	proc    *Process
	exited  chan struct{}
	cancel  context.CancelFunc
	stdin   *pipe
	outputs *fanout
}

var _ runtime.Runtime = (*Runtime)(nil)

// New creates a runtime with the given images, by complete reference.
func New(images ...string) *Runtime {
	r := &Runtime{sandboxes: map[string]runtime.Sandbox{}, podLimits: map[string]runtime.Resources{}, containers: map[string]*container{}, images: map[string]runtime.Image{}, pullable: map[string]runtime.Image{}, passwords: map[string]string{},
		listeners: map[chan runtime.Event]struct{}{}, faults: map[string][]error{}, blocks: map[string]chan struct{}{}, programs: map[string]Program{}, stats: map[string]runtime.Stats{},
		features: runtime.Features{Handlers: []runtime.HandlerFeatures{{}}}}
	for _, i := range images {
		r.images[i] = imageOf(i)
	}
	return r
}

func imageOf(ref string) runtime.Image {
	return runtime.Image{ID: fmt.Sprintf("sha256:%064x", []byte(ref)[:min(len(ref), 32)]), RepoTags: []string{ref}, Size: 1 << 20}
}

// Fail makes the next calls of an operation (a method's name, such as "StartContainer") return these errors, one each.
func (r *Runtime) Fail(op string, errs ...error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[op] = append(r.faults[op], errs...)
}

// Block makes calls of an operation wait until release is called, or their context ends.
func (r *Runtime) Block(op string) (release func()) {
	ch := make(chan struct{})
	r.mu.Lock()
	r.blocks[op] = ch
	r.mu.Unlock()
	return sync.OnceFunc(func() {
		r.mu.Lock()
		delete(r.blocks, op)
		r.mu.Unlock()
		close(ch)
	})
}

// SetStats sets the results of Stats and Usage for containers with a name.
func (r *Runtime) SetStats(name string, s runtime.Stats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats[name] = s
}

// SetFeatures sets the result of Features.
func (r *Runtime) SetFeatures(f runtime.Features) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.features = f
}

// Features implements runtime.Runtime.
func (r *Runtime) Features() runtime.Features {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.features
}

// Reboot ends every container and loses the sandboxes, as a reboot of the host does.
func (r *Runtime) Reboot() {
	r.mu.Lock()
	var running []*container
	for _, c := range r.containers {
		if c.info.State == runtime.StateRunning {
			running = append(running, c)
		}
	}
	r.boots++
	clear(r.sandboxes)
	r.mu.Unlock()
	for _, c := range running {
		c.proc.exit(255, false)
		<-c.exited
	}
}

// Provide makes an image available to pulls.
func (r *Runtime) Provide(ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pullable[ref] = imageOf(ref)
}

// ProvidePrivately makes an image available to pulls with a password.
func (r *Runtime) ProvidePrivately(ref, password string) {
	r.Provide(ref)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passwords[ref] = password
}

// SetUser sets the user in an image's configuration.
func (r *Runtime) SetUser(ref, user string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.images[ref]
	i.User = user
	r.images[ref] = i
}

// Exit ends a running container with a code, as its own process would.
func (r *Runtime) Exit(id string, code int, oom bool) {
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c != nil && c.proc != nil {
		c.proc.exit(code, oom)
		<-c.exited
	}
}

// Calls returns the operations so far, such as "CreateContainer web".
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.calls...)
}

// enter records a call and applies Fail and Block.
func (r *Runtime) enter(ctx context.Context, op, detail string) error {
	r.mu.Lock()
	if !r.hollow {
		r.calls = append(r.calls, strings.TrimSpace(op+" "+detail))
	}
	block := r.blocks[op]
	r.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.faults[op]; len(f) > 0 {
		r.faults[op] = f[1:]
		return f[0]
	}
	return ctx.Err()
}

func (r *Runtime) Version(ctx context.Context) (string, error) {
	return "containerd://0.0.0-fake", r.enter(ctx, "Version", "")
}

func (r *Runtime) Events(ctx context.Context) <-chan runtime.Event {
	ch := make(chan runtime.Event, 256)
	r.mu.Lock()
	r.listeners[ch] = struct{}{}
	r.mu.Unlock()
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.listeners, ch)
		close(ch)
	})
	return ch
}

// tell sends an event. The caller holds mu.
func (r *Runtime) tell(c *container) {
	for ch := range r.listeners {
		select {
		case ch <- runtime.Event{ContainerID: c.info.ID, PodUID: c.info.PodUID, State: c.info.State}:
		default:
		}
	}
}

func (r *Runtime) EnsureSandbox(ctx context.Context, c runtime.SandboxConfig) (runtime.Sandbox, error) {
	if err := r.enter(ctx, "EnsureSandbox", c.Name); err != nil {
		return runtime.Sandbox{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := runtime.Sandbox{UID: c.UID, Namespace: c.Namespace, Name: c.Name, Generation: fmt.Sprint("boot-", r.boots)}
	if c.Net == runtime.NamespacePod {
		s.NetNS = "/fake/netns/" + c.UID
	}
	r.sandboxes[c.UID] = s
	r.podLimits[c.UID] = merged(r.podLimits[c.UID], c.Resources)
	return s, nil
}

func (r *Runtime) RemoveSandbox(ctx context.Context, uid string) error {
	if err := r.enter(ctx, "RemoveSandbox", uid); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.info.PodUID == uid && c.info.State == runtime.StateRunning {
			return fmt.Errorf("sandbox %s: container %s is running", uid, c.info.Name)
		}
	}
	delete(r.sandboxes, uid)
	delete(r.podLimits, uid)
	return nil
}

func (r *Runtime) ListSandboxes(ctx context.Context) ([]runtime.Sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []runtime.Sandbox
	for _, s := range r.sandboxes {
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].UID < out[j].UID })
	return out, nil
}

func (r *Runtime) CreateContainer(ctx context.Context, c runtime.ContainerConfig) (string, error) {
	if err := r.enter(ctx, "CreateContainer", c.Name); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	img, err := r.image(c.Image)
	if err != nil {
		return "", err
	}
	if c.Security.RunAsNonRoot && c.Security.RunAsUser == nil {
		if n, err := strconv.Atoi(img.User); img.User == "" || err == nil && n == 0 {
			return "", runtime.ErrRunAsRoot
		} else if err != nil {
			return "", runtime.NonRootUnknown{User: img.User}
		}
	}
	if _, ok := r.sandboxes[c.Sandbox.UID]; !ok {
		return "", fmt.Errorf("sandbox %s: %w", c.Sandbox.UID, runtime.ErrNotFound)
	}
	if c.ProcessesOf != "" {
		target, err := r.get(c.ProcessesOf)
		if err != nil {
			return "", err
		}
		if target.info.State != runtime.StateRunning {
			return "", fmt.Errorf("container %s: %w", c.ProcessesOf, runtime.ErrNotRunning)
		}
	}
	r.seq++
	id := fmt.Sprintf("%s-%d-%d", c.Name, c.Attempt, r.seq)
	r.containers[id] = &container{config: c, exited: make(chan struct{}), stdin: newPipe(), outputs: &fanout{},
		info: runtime.Container{ID: id, PodUID: c.Sandbox.UID, PodNamespace: c.Sandbox.Namespace, PodName: c.Sandbox.Name, Name: c.Name, Attempt: c.Attempt,
			Image: c.Image, ImageID: img.ID, ImageRef: img.ID, State: runtime.StateCreated, CreatedAt: time.Now(), LogPath: c.LogPath, Labels: c.Labels,
			StopSignal: c.StopSignal, Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY}}
	r.tell(r.containers[id])
	return id, nil
}

func (r *Runtime) get(id string) (*container, error) {
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
}

func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	err := r.enter(ctx, "StartContainer", id)
	if err == nil {
		err = r.starting(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, gerr := r.get(id)
	if gerr != nil {
		return gerr
	}
	if c.info.State != runtime.StateCreated {
		return fmt.Errorf("container %s is %s", id, c.info.State)
	}
	program, args := r.program(append(append([]string(nil), c.config.Command...), c.config.Args...))
	if err == nil && program == nil {
		err = fmt.Errorf("failed to create containerd task: exec: %q: no such file or directory", args)
	}
	if err != nil {
		c.info.State, c.info.FinishedAt, c.info.ExitCode, c.info.Reason, c.info.Message = runtime.StateExited, time.Now(), 128, "StartError", err.Error()
		close(c.exited)
		r.tell(c)
		return err
	}
	pctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.proc = newProcess(args, c.stdin, c.outputs, c.outputs)
	if !c.config.Stdin {
		c.stdin.close()
	}
	r.seq++
	c.info.State, c.info.StartedAt, c.info.Pid = runtime.StateRunning, time.Now(), r.seq
	r.tell(c)
	go func() {
		code, oom := c.proc.run(pctx, program)
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		c.info.State, c.info.FinishedAt, c.info.ExitCode, c.info.OOMKilled, c.info.Pid = runtime.StateExited, time.Now(), code, oom, 0
		if oom {
			c.info.Reason = "OOMKilled"
		}
		c.outputs.close()
		close(c.exited)
		r.tell(c)
	}()
	return nil
}

func (r *Runtime) running(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.get(id)
	if err != nil {
		return nil, err
	}
	if c.info.State != runtime.StateRunning {
		return nil, fmt.Errorf("container %s: %w", id, runtime.ErrNotRunning)
	}
	return c, nil
}

func (r *Runtime) SignalContainer(ctx context.Context, id string, signal string) error {
	if err := r.enter(ctx, "SignalContainer", id+" "+signal); err != nil {
		return err
	}
	c, err := r.running(id)
	if err != nil {
		return err
	}
	c.proc.signal(strings.TrimPrefix(signal, "SIG"))
	return nil
}

func (r *Runtime) KillContainer(ctx context.Context, id string) error {
	if err := r.enter(ctx, "KillContainer", id); err != nil {
		return err
	}
	c, err := r.running(id)
	if err != nil {
		return nil
	}
	c.proc.exit(137, false)
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := r.enter(ctx, "RemoveContainer", id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil
	}
	if c.info.State == runtime.StateRunning {
		return fmt.Errorf("container %s is running", id)
	}
	delete(r.containers, id)
	return nil
}

func (r *Runtime) Container(ctx context.Context, id string) (runtime.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.get(id)
	if err != nil {
		return runtime.Container{}, err
	}
	return c.info, nil
}

func (r *Runtime) ListContainers(ctx context.Context, podUID string) ([]runtime.Container, error) {
	if err := r.enter(ctx, "ListContainers", ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []runtime.Container
	for _, c := range r.containers {
		if podUID == "" || c.info.PodUID == podUID {
			out = append(out, c.info)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

func (r *Runtime) UpdateResources(ctx context.Context, id string, res runtime.Resources) error {
	c, err := r.running(id)
	if err != nil {
		return err
	}
	if err := r.enter(ctx, "UpdateResources", c.info.Name+" "+describe(res)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.config.Resources = merged(c.config.Resources, res)
	return nil
}

// describe names the limits that an update sets.
func describe(r runtime.Resources) string {
	var out []string
	if r.CPUShares > 0 {
		out = append(out, fmt.Sprint("shares=", r.CPUShares))
	}
	if r.CPUQuota > 0 {
		out = append(out, fmt.Sprint("quota=", r.CPUQuota))
	}
	if r.MemoryLimit > 0 {
		out = append(out, fmt.Sprint("memory=", r.MemoryLimit))
	}
	return strings.Join(out, " ")
}

func merged(old, change runtime.Resources) runtime.Resources {
	if change.CPUShares > 0 {
		old.CPUShares = change.CPUShares
	}
	if change.CPUQuota > 0 {
		old.CPUQuota, old.CPUPeriod = change.CPUQuota, change.CPUPeriod
	}
	if change.MemoryLimit > 0 {
		old.MemoryLimit = change.MemoryLimit
	}
	return old
}

func (r *Runtime) UpdateSandbox(ctx context.Context, uid string, res runtime.Resources) error {
	if err := r.enter(ctx, "UpdateSandbox", describe(res)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.sandboxes[uid]; !ok {
		return fmt.Errorf("sandbox %s: %w", uid, runtime.ErrNotFound)
	}
	r.podLimits[uid] = merged(r.podLimits[uid], res)
	return nil
}

// PodLimits returns the limits of a sandbox.
func (r *Runtime) PodLimits(uid string) runtime.Resources {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.podLimits[uid]
}

func (r *Runtime) Usage(ctx context.Context, id string) (runtime.Usage, error) {
	s, err := r.Stats(ctx, id)
	return s.Usage, err
}

func (r *Runtime) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	c, err := r.running(id)
	if err != nil {
		return runtime.Stats{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats[c.info.Name]
	s.Time = time.Now()
	if limit := c.config.Resources.MemoryLimit; limit > 0 {
		s.MemoryLimit, s.MemoryLimitPresent = uint64(limit), true
	}
	return s, nil
}

// Config returns the configuration with which a container was created.
func (r *Runtime) Config(id string) runtime.ContainerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c.config
	}
	return runtime.ContainerConfig{}
}

func (r *Runtime) Exec(ctx context.Context, id string, o runtime.ExecOptions) (int, error) {
	if err := r.enter(ctx, "Exec", strings.Join(o.Command, " ")); err != nil {
		return -1, err
	}
	if _, err := r.running(id); err != nil {
		return -1, err
	}
	r.mu.Lock()
	program, args := r.program(o.Command)
	r.mu.Unlock()
	if program == nil {
		return -1, fmt.Errorf("failed to exec in container: exec: %q: no such file or directory", o.Command)
	}
	in := o.Stdin
	if in == nil {
		in = strings.NewReader("")
	}
	p := newProcess(args, in, orDiscard(o.Stdout), orDiscard(o.Stderr))
	code, _ := p.run(ctx, program)
	if ctx.Err() != nil {
		return -1, ctx.Err()
	}
	return code, nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func (r *Runtime) Attach(ctx context.Context, id string, o runtime.AttachOptions) error {
	c, err := r.running(id)
	if err != nil {
		return err
	}
	done := c.outputs.attach(orDiscard(o.Stdout))
	if o.Stdin != nil && c.config.Stdin {
		go func() {
			_, _ = io.Copy(c.stdin, o.Stdin)
			if c.config.StdinOnce {
				c.stdin.close()
			}
		}()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
