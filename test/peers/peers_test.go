// Package peers runs programs that speak to Kubernetes clusters against a cluster of the binary: what they rely on and do not state is
// tested by them. It is a module of its own, because of their dependencies; `make peers` runs it.
package peers

import (
	"fmt"
	"os"
	"testing"

	"github.com/kontiki/kontiki/test/devcluster"
)

var cluster *devcluster.Cluster

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	cluster, err = devcluster.Start(os.Stderr, 3, 1)
	defer func() {
		if err := cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the cluster:", err)
		}
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start a cluster:", err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		cluster.ShowLogs(os.Stderr)
	}
	return code
}
