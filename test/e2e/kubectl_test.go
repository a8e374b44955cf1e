package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// demo deploys the demo application and waits for it; it is removed after the test.
func demo(t *testing.T) {
	t.Helper()
	kubectl(t, "apply", "-f", "../../examples/demo/demo.yaml")
	t.Cleanup(func() {
		if t.Failed() {
			out, err := kontiki("kubectl", "-n", "demo", "get", "pods", "-o", "wide")
			t.Logf("%s %v", out, err)
		}
		if _, err := kontiki("kubectl", "delete", "-f", "../../examples/demo/demo.yaml", "--timeout=90s"); err != nil {
			t.Error(err)
		}
	})
	rollout(t, "demo", "back")
	rollout(t, "demo", "front")
}

// ask asks the demo through its Service, from this machine.
func ask() (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", env.DemoPort))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

func TestKubectlOnTheDemo(t *testing.T) {
	demo(t)
	eventually(t, 20*time.Second, "the demo to answer through its Service", func() error {
		answer, err := ask()
		if err == nil && !strings.Contains(answer, "Hello from Kontiki!") {
			err = fmt.Errorf("it answers %q", answer)
		}
		return err
	})
	contains(t, kubectl(t, "get", "nodes", "-o", "wide"), "worker-1", "worker-2", "Ready", "containerd://")
	contains(t, kubectl(t, "-n", "demo", "get", "deployments"), "NAME    READY   UP-TO-DATE   AVAILABLE", "3/3")
	contains(t, kubectl(t, "-n", "demo", "get", "pods", "-o", "wide"), "1/1     Running", "worker-1", "worker-2")
	pod := pods(t, "demo", "app=back")[0].Name
	contains(t, kubectl(t, "-n", "demo", "describe", "pod", pod), "Successfully assigned demo/"+pod, "Started", "greeting  ConfigMap", "ContainersReady             True")
	contains(t, kubectl(t, "-n", "demo", "logs", pod), "listening on :8080")
	contains(t, kubectl(t, "explain", "deployment.spec.strategy"), "rollingUpdate", "Rolling update config params")

	kubectl(t, "-n", "demo", "scale", "deployment/front", "--replicas=5")
	rollout(t, "demo", "front")
	if n := len(pods(t, "demo", "app=front")); n != 5 {
		t.Errorf("scaled to 5: %d pods", n)
	}
	before := kubectl(t, "-n", "demo", "get", "rs", "-l", "app=back", "-o", "name")
	kubectl(t, "-n", "demo", "rollout", "restart", "deployment/back")
	rollout(t, "demo", "back")
	if after := kubectl(t, "-n", "demo", "get", "rs", "-l", "app=back", "-o", "name"); after == before {
		t.Errorf("rollout restart made no new replica set: %s", after)
	}
	kubectl(t, "-n", "demo", "rollout", "undo", "deployment/back")
	rollout(t, "demo", "back")
	contains(t, kubectl(t, "-n", "demo", "rollout", "history", "deployment/back"), "2", "3")

	// kubectl diff leaves with 1 when there is a difference.
	manifest, err := os.ReadFile("../../examples/demo/demo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(manifest), "Hello from Kontiki!", "Good day!", 1)
	out, err := kontikiWith(strings.NewReader(changed), "kubectl", "diff", "-f", "-")
	if err == nil || !strings.Contains(out, "+  GREETING: Good day!") {
		t.Errorf("diff: %v\n%s", err, out)
	}
	kubectl(t, "-n", "demo", "delete", "pod", pods(t, "demo", "app=front")[0].Name, "--wait=true", "--timeout=60s")
	rollout(t, "demo", "front")
	rollout(t, "demo", "back")
}

func TestExecAttachesStreamsAndExitCodes(t *testing.T) {
	ns := namespace(t)
	kubectl(t, "-n", ns, "run", "shell", "--image=kontiki/tools:1", "--command", "--", "tools", "sleep")
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/shell", "--timeout=60s")
	if out := kubectl(t, "-n", ns, "exec", "shell", "--", "sh", "-c", "echo out; echo err >&2"); !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
		t.Errorf("exec: %q", out)
	}
	out, err := kontikiWith(strings.NewReader("typed"), "kubectl", "-n", ns, "exec", "-i", "shell", "--", "cat")
	if err != nil || out != "typed" {
		t.Errorf("exec -i: %q, %v", out, err)
	}
	if _, err := kontiki("kubectl", "-n", ns, "exec", "shell", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("exit code: %v", err)
	}
	kubectl(t, "-n", ns, "cp", "../../examples/demo/demo.yaml", "shell:/tmp/demo.yaml")
	contains(t, kubectl(t, "-n", ns, "exec", "shell", "--", "cat", "/tmp/demo.yaml"), "Hello from Kontiki!")
}

func TestAPodThatCrashesBacksOff(t *testing.T) {
	ns := namespace(t)
	apply(t, strings.Replace(toolPod("crash", "worker-1", "sh", "-c", "echo boom; exit 3"), "name: crash,", "name: crash, namespace: "+ns+",", 1))
	eventually(t, time.Minute, "the pod to back off", func() error {
		for _, pod := range pods(t, ns, "app=crash") {
			for _, c := range pod.Status.ContainerStatuses {
				if c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" && c.LastTerminationState.Terminated != nil && c.LastTerminationState.Terminated.ExitCode == 3 {
					return nil
				}
			}
		}
		return errNotYet
	})
	contains(t, kubectl(t, "-n", ns, "logs", "crash", "--previous"), "boom")
	contains(t, kubectl(t, "-n", ns, "get", "pods"), "CrashLoopBackOff")
}
