package pods

import (
	"context"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/tree"
	"github.com/kontiki/kontiki/node/runtime"
)

// prune removes old attempts: the newest and the one before it are kept.
func (w *worker) prune(ctx context.Context, pod *corev1.Pod, o observed) {
	for _, attempts := range o.byName {
		for i := 2; i < len(attempts); i++ {
			if attempts[i].State == runtime.StateRunning {
				continue
			}
			if err := w.m.c.Runtime.RemoveContainer(ctx, attempts[i].ID); err == nil {
				delete(w.messages, attempts[i].ID)
				w.unlinkLog(pod, attempts[i].Name, attempts[i].ID)
			}
		}
	}
}

// forget removes the containers, the logs and the pod's directory.
func (w *worker) forget(ctx context.Context) error {
	list, err := w.m.c.Runtime.ListContainers(ctx, string(w.uid))
	if err != nil {
		return err
	}
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	for _, c := range list {
		if err := w.m.c.Runtime.RemoveContainer(ctx, c.ID); err != nil {
			return err
		}
		w.unlinkLog(pod, c.Name, c.ID)
	}
	if err := w.m.c.Runtime.RemoveSandbox(ctx, string(w.uid)); err != nil {
		return err
	}
	logs, _ := filepath.Glob(filepath.Join(w.m.c.LogDir, "*_"+string(w.uid)))
	for _, d := range append(logs, w.m.podLogDir(pod)) {
		_ = tree.RemoveAll(ctx, d)
	}
	if err := tree.RemoveAll(ctx, w.m.podDir(w.uid)); err != nil {
		return err
	}
	if w.m.c.Users != nil {
		w.m.c.Users.Release(string(w.uid))
	}
	return nil
}
