package main

import (
	"runtime"

	"k8s.io/apimachinery/pkg/version"
)

// gitVersion is the version of the Kubernetes API that is served, with Kontiki's own version as build metadata, which clients can
// parse. The linker sets buildCommit and buildDate, and gitVersion if a test of upgrades builds another version.
var (
	gitVersion  = "v1.37.2+kontiki.0.1"
	buildCommit = "unknown"
	buildDate   = "1970-01-01T00:00:00Z"
)

func versionInfo() version.Info {
	return version.Info{
		Major: "1", Minor: "37", GitVersion: gitVersion, GitCommit: buildCommit, GitTreeState: "clean", BuildDate: buildDate,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}
