package e2e_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKubectlEndsOnSignals: Ctrl-C ends `kontiki kubectl exec`, as it ends kubectl's.
func TestKubectlEndsOnSignals(t *testing.T) {
	ns := namespace(t)
	apply(t, in(ns, toolPod("shell", "worker-1", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/shell", "--timeout=60s")
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := exec.Command(env.Kontiki, "kubectl", "-n", ns, "exec", "shell", "--", "sh", "-c", "echo started; sleep 600")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+env.Kubeconfig())
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
			t.Errorf("the command printed %q, %v", line, err)
		}
		_ = cmd.Process.Signal(signal)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%v: the command succeeded", signal)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%v does not end kontiki kubectl exec", signal)
			_ = cmd.Process.Kill()
			<-ended
		}
	}
}

// TestImageImportSaysWhatIsWrong: of each node, in the words of its agent.
func TestImageImportSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(file, []byte("# no archive\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := kontiki("image", "import", file)
	if err == nil || strings.Contains(err.Error(), "unknown reason") {
		t.Fatalf("the import of a text: %v", err)
	}
	contains(t, err.Error(), "import into worker-1: ", "import into worker-2: ")
	t.Log(err)
}
