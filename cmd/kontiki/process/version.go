package process

import (
	"runtime"

	"k8s.io/apimachinery/pkg/version"
)

// GitVersion is the version of the Kubernetes API that is served, with Kontiki's own version as build metadata, which clients can
// parse. The linker sets buildCommit and BuildDate, and GitVersion if a test of upgrades builds another version.
var (
	GitVersion  = "v1.37.2+kontiki.0.1"
	buildCommit = "unknown"
	BuildDate   = "1970-01-01T00:00:00Z"
)

// VersionInfo returns the version that the API reports.
func VersionInfo() version.Info {
	return version.Info{
		Major: "1", Minor: "37", GitVersion: GitVersion, GitCommit: buildCommit, GitTreeState: "clean", BuildDate: BuildDate,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}
