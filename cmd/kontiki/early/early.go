// Package early runs the container logger before the rest of the binary is initialized.
//
// A logger process lives beside every container, so it must start in milliseconds and stay small; the packages of the
// Kubernetes API alone take tens of milliseconds and of megabytes to initialize. Go initializes packages in the order of
// their import paths, each once its own imports are (language specification, "Program initialization"): this package
// imports little, so its init comes before every k8s.io one. It is the one use of init in this project, for that reason.
package early

import (
	"os"
	"runtime"

	"github.com/kontiki/kontiki/node/runtime/containerd/logger"
)

// LoggerCommand is the subcommand that becomes a container's logger.
const LoggerCommand = "container-logger"

func init() {
	// The main goroutine keeps the main thread: what the process shows of itself under /proc/PID (its namespaces) is that
	// thread's, and no goroutine that enters another namespace may ever run on it.
	runtime.LockOSThread()
	if len(os.Args) > 1 && os.Args[1] == LoggerCommand {
		os.Exit(logger.Main(os.Args[2:]))
	}
}
