// Package early runs the container logger, and the guard of a worker's volumes, before the rest of the binary is initialized.
//
// There is a logger process beside every container, so it must start in milliseconds and stay small; the packages of the Kubernetes
// API alone take tens of milliseconds and megabytes to initialize. Go initializes packages in the order of their import paths, each
// once its own imports are initialized (language specification, "Program initialization"): this package has few imports, so its
// init runs before those of the k8s.io packages. That is why this project uses init here, and nowhere else.
package early

import (
	"os"
	"runtime"

	"github.com/kontiki/kontiki/node/guard"
	"github.com/kontiki/kontiki/node/runtime/containerd/logger"
)

// LoggerCommand is the subcommand that runs a container's logger.
const LoggerCommand = "container-logger"

// GuardCommand is the subcommand that runs the guard of a worker's volumes.
const GuardCommand = "volume-guard"

func init() {
	// The main goroutine keeps the main thread: /proc/PID (its namespaces, for example) shows that thread's state, so no goroutine
	// that enters another namespace may ever run on it.
	runtime.LockOSThread()
	if len(os.Args) > 1 && os.Args[1] == LoggerCommand {
		os.Exit(logger.Main(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == GuardCommand {
		os.Exit(guard.Main(os.Args[2:]))
	}
}
