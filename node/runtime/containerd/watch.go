package containerd

import (
	"context"
	"path/filepath"
	"syscall"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/kontiki/kontiki/node/runtime"
)

// unknownExit is the exit code if it cannot be known: the daemon was down, or the host was.
const unknownExit = 255

// recover finds the containers of a previous agent and watches those that are running.
func (r *Runtime) recover(ctx context.Context) error {
	list, err := r.client.Containers(ctx)
	if err != nil {
		return classify(err)
	}
	for _, ctr := range list {
		rec, err := ctr.Info(ctx, client.WithoutRefreshedMetadata)
		if err != nil {
			return classify(err)
		}
		info, ok := decode(rec)
		if !ok {
			continue
		}
		c := &container{ctr: ctr, info: info, exited: make(chan struct{})}
		if info.State == runtime.StateExited {
			close(c.exited)
		}
		r.mu.Lock()
		_, known := r.containers[info.ID]
		if !known {
			r.containers[info.ID] = c
		}
		r.mu.Unlock()
		if known || info.State == runtime.StateExited {
			continue
		}
		if err := r.adopt(ctx, c); err != nil {
			r.mu.Lock()
			delete(r.containers, info.ID)
			r.mu.Unlock()
			return err
		}
	}
	return r.sweepMapped(ctx)
}

// adopt determines the state of a container whose exit was not observed.
func (r *Runtime) adopt(ctx context.Context, c *container) error {
	task, err := c.ctr.Task(ctx, nil)
	switch {
	case errdefs.IsNotFound(err):
		c.mu.Lock()
		created := c.info.State == runtime.StateCreated
		c.mu.Unlock()
		if created {
			return nil // never started; the agent will remove it
		}
		r.exited(c, unknownExit, time.Now(), "ContainerStatusUnknown", "The container's exit was not seen")
		return nil
	case err != nil:
		return classify(err)
	}
	st, err := task.Status(ctx)
	if err != nil && !errdefs.IsNotFound(err) {
		return classify(err)
	}
	c.mu.Lock()
	c.task = task
	if c.info.State == runtime.StateCreated && st.Status != client.Created {
		c.info.State, c.info.StartedAt = runtime.StateRunning, time.Now()
	}
	if c.info.State == runtime.StateRunning {
		c.info.Pid = int(task.Pid())
	}
	running := c.info.State == runtime.StateRunning
	c.mu.Unlock()
	switch {
	case err != nil: // it ended between the two calls
		r.exited(c, unknownExit, time.Now(), "ContainerStatusUnknown", "The container's exit was not seen")
	case st.Status == client.Stopped:
		r.exited(c, int(st.ExitStatus), st.ExitTime, "", "")
	case running:
		r.watch(c)
	}
	return nil
}

// watch waits for a container's exit. The daemon may restart meanwhile.
func (r *Runtime) watch(c *container) {
	c.mu.Lock()
	if c.watching {
		c.mu.Unlock()
		return
	}
	c.watching = true
	task := c.task
	c.mu.Unlock()
	r.wg.Go(func() {
		for {
			ch, err := task.Wait(r.lifeCtx)
			if err == nil {
				st, ok := <-ch
				if r.lifeCtx.Err() != nil {
					return
				}
				if ok && st.Error() == nil {
					r.exited(c, int(st.ExitCode()), st.ExitTime(), "", "")
					return
				}
				err = st.Error()
			}
			if r.lifeCtx.Err() != nil {
				return
			}
			if errdefs.IsNotFound(err) {
				if gone, code, at := r.lookAgain(c); gone {
					r.exited(c, code, at, "ContainerStatusUnknown", "The container's exit was not seen")
					return
				}
			}
			select {
			case <-r.lifeCtx.Done():
				return
			case <-time.After(250 * time.Millisecond):
			}
			if gone, code, at := r.lookAgain(c); gone {
				reason, message := "", ""
				if code == unknownExit {
					reason, message = "ContainerStatusUnknown", "The container's exit was not seen"
				}
				r.exited(c, code, at, reason, message)
				return
			}
		}
	})
}

// lookAgain loads the task again after an error.
func (r *Runtime) lookAgain(c *container) (gone bool, code int, at time.Time) {
	ctx, cancel := context.WithTimeout(r.lifeCtx, 10*time.Second)
	defer cancel()
	task, err := c.ctr.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return true, unknownExit, time.Now()
	}
	if err != nil {
		return false, 0, time.Time{}
	}
	st, err := task.Status(ctx)
	if err == nil && st.Status == client.Stopped {
		return true, int(st.ExitStatus), st.ExitTime
	}
	return false, 0, time.Time{}
}

// exited records the exit: the reason is read from the cgroup before the task is deleted, and the deletion waits for the logger, so
// that the log is complete when the exit becomes visible.
func (r *Runtime) exited(c *container, code int, at time.Time, reason, message string) {
	c.mu.Lock()
	info, task := c.info, c.task
	c.mu.Unlock()
	oom := code == 128+int(syscall.SIGKILL) && r.cg.oomKilled(filepath.Join(r.podCgroup(info.PodUID), info.ID))
	if oom {
		reason = "OOMKilled"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.lifeCtx), 30*time.Second)
	defer cancel()
	if task != nil {
		if info.TTY {
			r.endLogger(info.ID)
		}
		err := r.deleteTask(ctx, task, info.PodUID)
		for i := 0; i < 20 && err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil; i++ {
			time.Sleep(50 * time.Millisecond)
			err = r.deleteTask(ctx, task, info.PodUID, client.WithProcessKill)
		}
	}
	if info.Stdin {
		r.endLogger(info.ID)
	}
	r.removeIO(info.ID)
	c.mu.Lock()
	c.task = nil
	c.info.State, c.info.FinishedAt, c.info.ExitCode, c.info.OOMKilled = runtime.StateExited, at, code, oom
	c.info.Reason, c.info.Message, c.info.Pid = reason, message, 0
	st := stateOf(c.info)
	c.mu.Unlock()
	r.saveState(ctx, c, st)
	select {
	case <-c.exited:
	default:
		close(c.exited)
	}
	r.tell(runtime.Event{ContainerID: info.ID, PodUID: info.PodUID, State: runtime.StateExited})
}
