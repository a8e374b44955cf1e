package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
)

const runcRuntime = "io.containerd.runc.v2"

// The labels of a container. labelSpec has what does not change, labelState what does; both are JSON, so that updating one label is
// atomic.
const (
	labelPod   = "kontiki.io/pod-uid"
	labelSpec  = "kontiki.io/container"
	labelState = "kontiki.io/state"
	labelInit  = "kontiki.io/sandbox-init"
	userPrefix = "kontiki.io/label."
)

// maxLabel limits a label: containerd refuses a key and value of more than 4,096 bytes together.
const maxLabel = 4000

// container is the in-memory state of a container. mu guards info; exited is closed when info.State is Exited.
type container struct {
	ctr      client.Container
	mu       sync.Mutex
	info     runtime.Container
	task     client.Task
	exited   chan struct{}
	watching bool
}

func (c *container) snapshot() runtime.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}

// savedState is the content of labelState.
type savedState struct {
	State      runtime.State
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int
	OOMKilled  bool
	Reason     string
	Message    string
}

func (r *Runtime) ioPath(id, suffix string) string {
	return filepath.Join(r.c.StateDir, "io", id[:16]+suffix)
}

func (r *Runtime) CreateContainer(ctx context.Context, c runtime.ContainerConfig) (_ string, err error) {
	ctx = r.ns(ctx)
	img, err := r.findImage(ctx, c.Image)
	if err != nil {
		return "", err
	}
	ispec, err := img.Spec(ctx)
	if err != nil {
		return "", fmt.Errorf("read image %s: %w", c.Image, classify(err))
	}
	if err := r.unpack(ctx, img); err != nil {
		return "", err
	}
	user, err := r.resolveUser(ctx, img, ispec.Config.User, c.Security)
	if err != nil {
		return "", err
	}
	handler, err := r.handlerOf(c.Sandbox)
	if err != nil {
		return "", err
	}
	if err := handler.checkMounts(c.Mounts); err != nil {
		return "", err
	}
	labels, err := r.labelsOfContainer(c, handler)
	if err != nil {
		return "", err
	}
	if err := relabel(ctx, c.Mounts, labels); err != nil {
		return "", err
	}
	id := newID()
	mapped := c.Sandbox.Users != nil
	if mapped {
		defer func() {
			if err != nil {
				cleanup, cancel := detached(ctx)
				defer cancel()
				_ = r.removeMapped(cleanup, id) // or when the agent starts
			}
		}()
		if c.Mounts, err = r.mapMounts(id, c); err != nil {
			return "", err
		}
	}
	spec, err := r.spec(ctx, id, c, ispec.Config, user)
	if err != nil {
		return "", err
	}
	setLabels(spec, labels)
	if c.Sandbox.SharePID {
		if err := r.ensureInit(ctx, c.Sandbox); err != nil {
			return "", fmt.Errorf("shared process namespace: %w", err)
		}
	}
	info := runtime.Container{
		ID: id, PodUID: c.Sandbox.UID, PodNamespace: c.Sandbox.Namespace, PodName: c.Sandbox.Name, Name: c.Name, Attempt: c.Attempt,
		Image: c.Image, State: runtime.StateCreated, CreatedAt: time.Now(), LogPath: c.LogPath, Labels: c.Labels,
		Users:      c.Sandbox.Users,
		StopSignal: firstOf(c.StopSignal, ispec.Config.StopSignal, "SIGTERM"), Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		User: &runtime.User{UID: int64(user.uid), GID: int64(user.gid)},
	}
	for _, g := range user.groups {
		info.User.Groups = append(info.User.Groups, int64(g))
	}
	if info.ImageID, info.ImageRef, err = r.imageIdentity(ctx, img); err != nil {
		return "", err
	}
	record, err := labelsOf(info)
	if err != nil {
		return "", err
	}
	// If the caller gave up from here on, a record would be left that the agent does not know of.
	ctx, cancel := detached(ctx)
	defer cancel()
	ctx, release, err := r.hold(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	options := []client.NewContainerOpts{client.WithImage(img), handler.option(), client.WithContainerLabels(record), client.WithSpec((*oci.Spec)(spec))}
	if mapped {
		if err = r.mappedSnapshot(ctx, id, img); err != nil {
			return "", err
		}
	} else {
		options = append(options, client.WithSnapshotter(r.c.Snapshotter), client.WithNewSnapshot(id, img))
	}
	ctr, err := r.client.NewContainer(ctx, id, options...)
	if err != nil {
		_ = r.client.SnapshotService(r.c.Snapshotter).Remove(ctx, id)
		return "", fmt.Errorf("create container: %w", classify(err))
	}
	r.mu.Lock()
	r.containers[id] = &container{ctr: ctr, info: info, exited: make(chan struct{})}
	r.mu.Unlock()
	r.tell(runtime.Event{ContainerID: id, PodUID: info.PodUID, State: runtime.StateCreated})
	return id, nil
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// labelsOf returns the labels from which the agent can restore a container's state.
func labelsOf(info runtime.Container) (map[string]string, error) {
	user := info.Labels
	info.Labels = nil
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{labelPod: info.PodUID, labelSpec: string(b)}
	for k, v := range user {
		labels[userPrefix+k] = v
	}
	return labels, nil
}

func (r *Runtime) get(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
}

func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	ctx = r.ns(ctx)
	c, err := r.get(id)
	if err != nil {
		return err
	}
	info := c.snapshot()
	if info.State != runtime.StateCreated {
		return fmt.Errorf("container %s is %s", id, info.State)
	}
	// A start that was abandoned halfway would leave a process that is not watched.
	ctx, cancel := detached(ctx)
	defer cancel()
	task, err := r.startTask(ctx, c, info)
	if err != nil {
		c.mu.Lock()
		now := time.Now()
		c.info.State, c.info.StartedAt, c.info.FinishedAt, c.info.ExitCode = runtime.StateExited, time.Time{}, now, 128
		c.info.Reason, c.info.Message = "StartError", err.Error()
		st := stateOf(c.info)
		close(c.exited)
		c.mu.Unlock()
		r.saveState(ctx, c, st)
		r.tell(runtime.Event{ContainerID: id, PodUID: info.PodUID, State: runtime.StateExited})
		return err
	}
	c.mu.Lock()
	c.task = task
	c.info.State, c.info.StartedAt, c.info.Pid = runtime.StateRunning, time.Now(), int(task.Pid())
	st := stateOf(c.info)
	c.mu.Unlock()
	r.watch(c)
	r.saveState(ctx, c, st)
	r.tell(runtime.Event{ContainerID: id, PodUID: info.PodUID, State: runtime.StateRunning})
	return nil
}

// shimTries is how often a start is tried if its shim exits meanwhile.
const shimTries = 6

// startTask creates and starts the container's task. The containers of a pod share a shim, which exits with the last one: a task
// that is created at that moment fails although nothing is wrong with it, and is created again, in a new shim.
func (r *Runtime) startTask(ctx context.Context, c *container, info runtime.Container) (client.Task, error) {
	for try := 1; ; try++ {
		task, err := r.tryTask(ctx, c, info)
		if err == nil || try == shimTries || !shimGone(err) {
			return task, err
		}
		select {
		case <-time.After(time.Duration(try) * 20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// shimGone says whether the shim closed the connection during a call.
func shimGone(err error) bool {
	text := err.Error()
	return strings.Contains(text, "ttrpc: closed") || strings.Contains(text, "ttrpc: server closed")
}

func (r *Runtime) tryTask(ctx context.Context, c *container, info runtime.Container) (_ client.Task, err error) {
	creator, err := r.logIO(info)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.endTask(ctx, c.ctr, info.PodUID)
			r.endLogger(info.ID)
			r.removeIO(info.ID)
		}
	}()
	var options []client.NewTaskOpts
	if info.Users != nil {
		spec, err := c.ctr.Spec(ctx)
		if err != nil {
			return nil, fmt.Errorf("specification of container %s: %w", info.ID, classify(err))
		}
		root, err := r.mappedRoot(ctx, info.ID, info.Users, spec.Linux.MountLabel)
		if err != nil {
			return nil, err
		}
		options = append(options, client.WithRootFS(root))
	}
	task, err := r.newTask(ctx, c.ctr, info.PodUID, creator, options...)
	if err != nil {
		return nil, fmt.Errorf("failed to create containerd task: %w", err)
	}
	if err := task.Start(ctx); err != nil {
		return nil, fmt.Errorf("failed to start containerd task %q: %w", info.Name, err)
	}
	return task, nil
}

// newTask and deleteTask are the only functions that create and delete a task: one at a time per pod, so that no task is created
// while the deletion of the last one ends the shim that both would share.
func (r *Runtime) newTask(ctx context.Context, ctr client.Container, uid string, creator cio.Creator, options ...client.NewTaskOpts) (client.Task, error) {
	defer r.lock("shim/" + uid)()
	return ctr.NewTask(ctx, creator, append(options, client.WithNoNewKeyring)...)
}

func (r *Runtime) deleteTask(ctx context.Context, task client.Task, uid string, opts ...client.ProcessDeleteOpts) error {
	defer r.lock("shim/" + uid)()
	_, err := task.Delete(ctx, opts...)
	return err
}

// operationTimeout limits one operation on a container in containerd.
const operationTimeout = 2 * time.Minute

// detached returns a context that does not end when its caller gives up.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), operationTimeout)
}

// endTask kills and deletes what a failed start left.
func (r *Runtime) endTask(ctx context.Context, ctr client.Container, uid string) {
	task, err := ctr.Task(ctx, nil)
	if err != nil {
		return
	}
	_ = r.deleteTask(ctx, task, uid, client.WithProcessKill)
}

func stateOf(i runtime.Container) savedState {
	return savedState{State: i.State, StartedAt: i.StartedAt, FinishedAt: i.FinishedAt, ExitCode: i.ExitCode, OOMKilled: i.OOMKilled, Reason: i.Reason, Message: i.Message}
}

// saveState writes the state to the container's record. A failure only makes the state less precise after a restart.
func (r *Runtime) saveState(ctx context.Context, c *container, s savedState) {
	ctx, cancel := context.WithTimeout(r.ns(ctx), 10*time.Second)
	defer cancel()
	s.Message = s.Message[:min(len(s.Message), maxLabel/2)]
	b, err := json.Marshal(s)
	if err != nil {
		return
	}
	_, _ = c.ctr.SetLabels(ctx, map[string]string{labelState: string(b)})
}

// parseSignal parses "SIGTERM", "TERM" or "15".
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	s = strings.ToUpper(s)
	if !strings.HasPrefix(s, "SIG") {
		s = "SIG" + s
	}
	if rest, ok := strings.CutPrefix(s, "SIGRTMIN"); ok {
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				return 0, fmt.Errorf("unknown signal %q", s)
			}
		}
		return syscall.Signal(34 + n), nil
	}
	if n := unix.SignalNum(s); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func (r *Runtime) running(id string) (*container, client.Task, error) {
	c, err := r.get(id)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.info.State != runtime.StateRunning || c.task == nil {
		return c, nil, fmt.Errorf("container %s: %w", id, runtime.ErrNotRunning)
	}
	return c, c.task, nil
}

func (r *Runtime) SignalContainer(ctx context.Context, id string, signal string) error {
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	_, task, err := r.running(id)
	if err != nil {
		return err
	}
	if err := task.Kill(r.ns(ctx), sig); err != nil {
		if errdefs.IsNotFound(err) {
			return fmt.Errorf("container %s: %w", id, runtime.ErrNotRunning)
		}
		return classify(err)
	}
	return nil
}

func (r *Runtime) KillContainer(ctx context.Context, id string) error {
	ctx = r.ns(ctx)
	c, err := r.get(id)
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	if _, task, err := r.running(id); err == nil {
		if err := task.Kill(ctx, syscall.SIGKILL, client.WithKillAll); err != nil && !errdefs.IsNotFound(err) {
			return classify(err)
		}
	} else if c.snapshot().State == runtime.StateCreated {
		return nil
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	ctx = r.ns(ctx)
	c, err := r.get(id)
	if err != nil {
		return nil
	}
	info := c.snapshot()
	if info.State == runtime.StateRunning {
		return fmt.Errorf("container %s is running", id)
	}
	if err := r.deleteRecord(ctx, c.ctr, info.PodUID); err != nil {
		return err
	}
	if err := r.removeMapped(ctx, id); err != nil {
		return err
	}
	r.removeIO(id)
	if info.LogPath != "" {
		runtime.RemoveLogs(info.LogPath)
	}
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	return nil
}

// deleteRecord deletes everything in containerd about a container, including a remaining task.
func (r *Runtime) deleteRecord(ctx context.Context, ctr client.Container, uid string) error {
	if task, err := ctr.Task(ctx, nil); err == nil {
		if err := r.deleteTask(ctx, task, uid, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete task: %w", classify(err))
		}
	} else if !errdefs.IsNotFound(err) {
		return classify(err)
	}
	if err := ctr.Delete(ctx, client.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container: %w", classify(err))
	}
	return nil
}

func (r *Runtime) Container(ctx context.Context, id string) (runtime.Container, error) {
	c, err := r.get(id)
	if err != nil {
		return runtime.Container{}, err
	}
	return c.snapshot(), nil
}

func (r *Runtime) ListContainers(ctx context.Context, podUID string) ([]runtime.Container, error) {
	r.mu.Lock()
	all := make([]*container, 0, len(r.containers))
	for _, c := range r.containers {
		all = append(all, c)
	}
	r.mu.Unlock()
	var out []runtime.Container
	for _, c := range all {
		if i := c.snapshot(); podUID == "" || i.PodUID == podUID {
			out = append(out, i)
		}
	}
	return out, nil
}

func (r *Runtime) UpdateResources(ctx context.Context, id string, res runtime.Resources) error {
	_, task, err := r.running(id)
	if err != nil {
		return err
	}
	err = task.Update(r.ns(ctx), client.WithResources(ociResources(res)))
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("container %s: %w", id, runtime.ErrNotRunning)
	}
	return classify(err)
}

// decode decodes a record's labels.
func decode(rec containers.Container) (runtime.Container, bool) {
	var info runtime.Container
	raw, ok := rec.Labels[labelSpec]
	if !ok || json.Unmarshal([]byte(raw), &info) != nil {
		return info, false
	}
	if raw, ok := rec.Labels[labelState]; ok {
		var s savedState
		if json.Unmarshal([]byte(raw), &s) == nil {
			info.State, info.StartedAt, info.FinishedAt, info.ExitCode = s.State, s.StartedAt, s.FinishedAt, s.ExitCode
			info.OOMKilled, info.Reason, info.Message = s.OOMKilled, s.Reason, s.Message
		}
	}
	for k, v := range rec.Labels {
		if k, ok := strings.CutPrefix(k, userPrefix); ok {
			if info.Labels == nil {
				info.Labels = map[string]string{}
			}
			info.Labels[k] = v
		}
	}
	return info, true
}
