package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// handlerCalls is the file to which the workers' runtime handler "logging" writes how it was called.
var handlerCalls string

// loggingHandler writes a program, beside its file of calls, that takes runc's place and calls it.
func loggingHandler() (calls string, err error) {
	dir, err := os.MkdirTemp("", "kontiki-handler-")
	if err != nil {
		return "", err
	}
	calls = filepath.Join(dir, "calls")
	return calls, os.WriteFile(calls+".sh", fmt.Appendf(nil, "#!/bin/sh\necho \"$@\" >> %s\nexec runc \"$@\"\n", calls), 0o755)
}

func TestPodsRunWithTheirRuntimeClass(t *testing.T) {
	ns := namespace(t)
	if got := kubectl(t, "get", "node", "worker-1", "-o", "jsonpath={.status.runtimeHandlers[*].name}"); got != " logging runc" {
		t.Errorf("the node's handlers: %q", got)
	}
	for _, handler := range []string{"logging", "missing"} {
		class := ns + "-" + handler
		apply(t, fmt.Sprintf("{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: %s}, handler: %s, overhead: {podFixed: {memory: 1Mi}}}", class, handler))
		t.Cleanup(func() { kubectl(t, "delete", "runtimeclass", class) })
		apply(t, shellPod(ns, handler, "true", "", "  runtimeClassName: "+class))
	}
	waitReady(t, ns, "logging")
	calls, err := os.ReadFile(handlerCalls)
	if err != nil || !strings.Contains(string(calls), " create ") {
		t.Errorf("the handler was called with %q, %v", calls, err)
	}
	if got := kubectl(t, "-n", ns, "get", "pod", "logging", "-o", "jsonpath={.spec.overhead.memory}"); got != "1Mi" {
		t.Errorf("the overhead is %q", got)
	}
	if got := kubectl(t, "-n", ns, "exec", "logging", "--", "echo", "here"); got != "here\n" {
		t.Errorf("exec says %q", got)
	}
	eventually(t, 30*time.Second, "an event about the missing handler", func() error {
		out := kubectl(t, "-n", ns, "get", "events", "--field-selector", "involvedObject.name=missing,reason=FailedCreatePodSandBox", "-o", "jsonpath={.items[*].message}")
		if want := `Failed to create pod sandbox: failed to get sandbox runtime: no runtime for "missing" is configured`; !strings.Contains(out, want) {
			return fmt.Errorf("events %q", out)
		}
		return nil
	})
}
