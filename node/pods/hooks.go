package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/probe"
	"github.com/kontiki/kontiki/node/runtime"
)

// maxHookOutput is how many bytes of a hook's output are kept for its error.
const maxHookOutput = 10 << 10

// hook runs a lifecycle handler. It returns when ctx ends at the latest.
func (w *worker) hook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out := probe.NewLimited(maxHookOutput)
		code, err := w.m.c.Runtime.Exec(ctx, id, runtime.ExecOptions{Command: h.Exec.Command, Stdout: out, Stderr: out})
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%v' exited with %d", h.Exec.Command, code)
		}
		if err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %w, message: %q", h.Exec.Command, c.Name, PodFullName(pod), err, out.String())
		}
		return nil
	case h.HTTPGet != nil:
		err := func() error {
			req, err := probe.Request(h.HTTPGet, probe.Target{Container: c, PodIP: w.podIP()}, "kube-lifecycle/1.37")
			if err != nil {
				return err
			}
			r, msg, err := probe.HTTP(ctx, req, 30*time.Second)
			if err == nil && r == probe.Failure {
				err = errors.New(msg)
			}
			return err
		}()
		if err != nil {
			return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %w", h.HTTPGet.Path, c.Name, PodFullName(pod), err)
		}
		return nil
	case h.TCPSocket != nil:
		return nil // deprecated and without effect upstream
	case h.Sleep != nil:
		t := time.NewTimer(seconds(h.Sleep.Seconds))
		defer t.Stop()
		ectx, cancel := context.WithCancel(ctx)
		defer cancel()
		events := w.m.c.Runtime.Events(ectx)
		for {
			if now, err := w.m.c.Runtime.Container(ctx, id); err != nil || now.State != runtime.StateRunning {
				return fmt.Errorf("container terminated before sleep hook finished")
			}
			select {
			case <-t.C:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("container terminated before sleep hook finished")
			case <-events:
			}
		}
	}
	return fmt.Errorf("invalid handler: %v", h)
}

func (w *worker) podIP() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.PodIP
}

// execIn runs a probe's command.
func (w *worker) execIn(id string) probe.ExecFunc {
	return func(ctx context.Context, command []string, out io.Writer) (int, error) {
		return w.m.c.Runtime.Exec(ctx, id, runtime.ExecOptions{Command: command, Stdout: out, Stderr: out})
	}
}
