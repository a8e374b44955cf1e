package fake

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

// TestAHollowRuntimeRunsEverything: any image and command, from the end of the start delay until the container is to stop.
func TestAHollowRuntimeRunsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := NewHollow(3 * time.Second)
		if _, err := r.PullImage(ctx, "example/any:1", runtime.Auth{}); err != nil {
			t.Fatal(err)
		}
		sandbox := runtime.SandboxConfig{UID: "u"}
		if _, err := r.EnsureSandbox(ctx, sandbox); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{nil, {"/server", "--flag"}} {
			id, err := r.CreateContainer(ctx, runtime.ContainerConfig{Sandbox: sandbox, Name: "c", Image: "example/any:1", Command: command})
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if err := r.StartContainer(ctx, id); err != nil || time.Since(begin) != 3*time.Second {
				t.Errorf("%v: started after %s: %v", command, time.Since(begin), err)
			}
			if err := r.SignalContainer(ctx, id, "TERM"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if c, err := r.Container(ctx, id); err != nil || c.State != runtime.StateExited || c.ExitCode != 0 {
				t.Errorf("%v: asked to end: %+v, %v", command, c, err)
			}
		}
		id, err := r.CreateContainer(ctx, runtime.ContainerConfig{Sandbox: sandbox, Name: "j", Image: "example/any:1", Command: []string{"true"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if c, err := r.Container(ctx, id); err != nil || c.State != runtime.StateExited {
			t.Errorf("a job's container: %+v, %v", c, err)
		}
		if len(r.Calls()) != 0 {
			t.Error("the calls are recorded")
		}
	})
}
