// Package sanity_test runs the sanity suite of CSI drivers (csi-test) against the driver of this project's tests, so that what is tested with that
// driver is tested with one that keeps to the specification.
package sanity_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
)

func TestSanity(t *testing.T) {
	socket := os.Getenv("CSI_SOCKET")
	if socket == "" {
		t.Fatal("CSI_SOCKET is not set: `make sanity` starts the driver")
	}
	c := sanity.NewTestConfig()
	c.Address = socket
	c.TargetPath, c.StagingPath = filepath.Join(t.TempDir(), "target"), filepath.Join(t.TempDir(), "staging")
	sanity.Test(t, c)
}
