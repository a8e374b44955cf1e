package fake_test

import (
	"testing"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

func TestSuite(t *testing.T) {
	runtimetest.Suite(t, func(t *testing.T) runtimetest.Harness {
		r := fake.New(runtimetest.BusyboxName)
		return runtimetest.Harness{Runtime: r, Image: runtimetest.BusyboxName, Reopen: func() runtime.Runtime { return r }}
	})
}
