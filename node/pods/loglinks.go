package pods

import (
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxFileName is the file systems' limit.
const maxFileName = 255

// logLink returns the path at which log collectors find a container's log: POD_NAMESPACE_CONTAINER-ID.log.
func logLink(dir string, pod *corev1.Pod, container, id string) string {
	suffix := "-" + id + ".log"
	name := pod.Name + "_" + pod.Namespace + "_" + container
	return filepath.Join(dir, name[:min(len(name), maxFileName-len(suffix))]+suffix)
}

// linkLog creates the link. Nothing depends on it, so a failure is only logged.
func (w *worker) linkLog(pod *corev1.Pod, container, id, log string) {
	dir := w.m.c.LogLinkDir
	if dir == "" {
		return
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.Symlink(log, logLink(dir, pod, container, id))
	}
	if err != nil {
		w.log.Warn("a link to a container's log could not be created", "container", container, "err", err)
	}
}

// unlinkLog removes the link of a container that is removed.
func (w *worker) unlinkLog(pod *corev1.Pod, container, id string) {
	if dir := w.m.c.LogLinkDir; dir != "" {
		_ = os.Remove(logLink(dir, pod, container, id))
	}
}

// sweepLogLinks removes links to logs that no longer exist, which a crash may have left.
func (m *Manager) sweepLogLinks() {
	if m.c.LogLinkDir == "" {
		return
	}
	entries, err := os.ReadDir(m.c.LogLinkDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(m.c.LogLinkDir, e.Name())
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(target, m.c.LogDir+"/") {
			continue
		}
		// The log's directory is created before the link, and removed after it; the log itself is created when the container
		// starts.
		if _, err := os.Lstat(filepath.Dir(filepath.Dir(target))); os.IsNotExist(err) {
			_ = os.Remove(path)
		}
	}
}
