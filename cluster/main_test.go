package cluster

import (
	"os"
	"testing"

	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

func TestMain(m *testing.M) {
	faultfs.ServeIfAsked()
	serveIfChild()
	os.Exit(m.Run())
}
