package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGrpcurl runs the commands of docs/grpc.md as they stand there, in a shell with grpcurl.
func TestGrpcurl(t *testing.T) {
	grpcurl := os.Getenv("GRPCURL")
	if grpcurl == "" {
		t.Fatal("GRPCURL is not set: `make e2e` builds grpcurl")
	}
	healthy(t)
	text, err := os.ReadFile("../../docs/grpc.md")
	if err != nil {
		t.Fatal(err)
	}
	apply(t, in("default", toolPod("web", "worker-1", "tools", "serve")))
	t.Cleanup(func() { kubectl(t, "-n", "default", "delete", "pod", "web", "--now") })
	kubectl(t, "-n", "default", "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
	dir := t.TempDir()
	settings := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"colour":"green"}}`
	if err := os.WriteFile(filepath.Join(dir, "settings.json"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(env.Kontiki, filepath.Join(dir, "kontiki")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(grpcurl, filepath.Join(dir, "grpcurl")); err != nil {
		t.Fatal(err)
	}
	run := func(script string) (string, error) {
		cmd := exec.Command("bash", "-euo", "pipefail", "-O", "expand_aliases", "-c", script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "KUBECONFIG="+env.Kubeconfig(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	var setup []string
	ran := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.ReplaceAll(strings.TrimSpace(line), "MASTER:6443", fmt.Sprintf("127.0.0.1:%d", env.APIPort))
		switch {
		case strings.HasPrefix(line, "kontiki kubectl config view"), strings.HasPrefix(line, "alias g="), strings.HasPrefix(line, "echo "):
			setup = append(setup, line)
			continue
		case !strings.HasPrefix(line, "g ") && !strings.HasPrefix(line, "grpcurl "):
			continue
		}
		line, _, _ = strings.Cut(line, " | jq") // which a machine may lack
		fields := strings.Fields(line)
		method := fields[len(fields)-1]
		ends := true
		if strings.HasSuffix(method, "/Watch") {
			line, ends = strings.Replace(line, "g ", "g -max-time 10 ", 1), false
		}
		out, err := run(strings.Join(append(setup, line), "\n"))
		if ends != (err == nil) {
			t.Errorf("%s\n%v\n%s", line, err, out)
		}
		ran[method] = out
	}
	for method, want := range map[string]string{
		"list":                           "kontiki.v1.Objects",
		"kontiki.v1.Objects":             "rpc Transact",
		"kontiki.v1.Objects/Create":      `"resourceVersion"`,
		"kontiki.v1.Objects/Get":         `"name": "settings"`,
		"kontiki.v1.Objects/List":        `"name": "settings"`,
		"kontiki.v1.Objects/Apply":       `"name": "settings"`,
		"kontiki.v1.Objects/Patch":       `"name": "settings"`,
		"kontiki.v1.Objects/Transact":    `"gone": true`,
		"kontiki.v1.Objects/Watch":       `"name": "web"`,
		"kontiki.v1.Cluster/Status":      `"name": "master-1"`,
		"kontiki.v1.Cluster/CreateToken": `::worker:`,
		"kontiki.v1.Pods/Logs":           ``,
		"grpc.health.v1.Health/Check":    `"SERVING"`,
	} {
		out, ok := ran[method]
		if !ok || !strings.Contains(out, want) {
			t.Errorf("%s: ran %v; %q is not in:\n%s", method, ok, want, out)
		}
	}
}
