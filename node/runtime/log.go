package runtime

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kontiki/kontiki/internal/beneath"
)

// OpenLog opens a container's log for reading. The directories of pods and containers below the log directory must not be links,
// and the log must be a regular file: a pod that may write there must not make the agent read another file of the host.
func OpenLog(path string) (*os.File, error) {
	dir := filepath.Dir(filepath.Dir(filepath.Dir(path)))
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return nil, err
	}
	return beneath.Regular(dir, rel, beneath.Refuse)
}

// RemoveLogs removes a container's log and its rotated files.
func RemoveLogs(path string) {
	dir := filepath.Dir(filepath.Dir(filepath.Dir(path)))
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close()
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return
	}
	logs, _ := fs.Glob(root.FS(), rel+".*")
	for _, l := range append(logs, rel) {
		_ = root.Remove(l)
	}
}
