package client_test

import (
	"os"
	"testing"

	"github.com/kontiki/kontiki/client"
	"github.com/kontiki/kontiki/test/harness"
)

// exampleTB allows examples to use the harness, which ends with the process.
type exampleTB struct{ testing.TB }

func (exampleTB) Helper()                   {}
func (exampleTB) Cleanup(func())            {}
func (exampleTB) Fatal(values ...any)       { panic(values) }
func (exampleTB) Error(values ...any)       { panic(values) }
func (exampleTB) TempDir() string           { return os.TempDir() }
func (exampleTB) Fatalf(f string, v ...any) { panic(f) }

// exampleCluster returns a client of a new API, as an administrator.
func exampleCluster() *client.Client {
	t := exampleTB{}
	return connect(t, harness.New(t), "admin", "system:masters")
}
