// Package e2e_test drives the real binary as a user would: one development cluster of three masters and two workers, with
// kubectl and client-go as its clients. The tests share the cluster and run one after the other; each leaves it whole.
package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	masters = 3
	workers = 2
)

// env is the cluster that the tests share.
var env struct {
	kontiki, dir string
	apiPort      int
	demoPort     int
	config       *rest.Config
	set          *kubernetes.Clientset
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	env.kontiki = os.Getenv("KONTIKI")
	if env.kontiki == "" {
		fmt.Fprintln(os.Stderr, "KONTIKI must name the binary under test; `make e2e` does it")
		return 1
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the end-to-end tests make network namespaces and run containers: run them as root")
		return 1
	}
	var err error
	// Unix sockets below it must fit 108 bytes: keep it short.
	if env.dir, err = os.MkdirTemp("", "kte"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if code != 0 {
			showLogs()
		}
		if _, err := kontiki("dev", "stop", "--purge"); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
	}()
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func start() (err error) {
	if env.apiPort, err = freePort(); err != nil {
		return err
	}
	if env.demoPort, err = freePort(); err != nil {
		return err
	}
	out, err := kontiki("dev", "--detach", "--masters", fmt.Sprint(masters), "--workers", fmt.Sprint(workers),
		"--api-port", fmt.Sprint(env.apiPort), "--publish", fmt.Sprintf("%d:30080", env.demoPort))
	fmt.Print(out)
	if err != nil {
		return err
	}
	if env.config, err = clientcmd.BuildConfigFromFlags("", kubeconfig()); err != nil {
		return err
	}
	env.config.QPS = -1
	if env.set, err = kubernetes.NewForConfig(env.config); err != nil {
		return err
	}
	_, err = kontiki("image", "import", os.Getenv("IMAGES"))
	return err
}

func kubeconfig() string { return filepath.Join(env.dir, "kubeconfig") }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// showLogs prints the end of every host's log.
func showLogs() {
	files, _ := filepath.Glob(filepath.Join(env.dir, "logs", "*.log"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", filepath.Base(file), data[max(0, len(data)-4000):])
	}
}

// kontiki runs the binary against the cluster and answers what it prints.
func kontiki(args ...string) (string, error) { return kontikiWith(nil, args...) }

func kontikiWith(stdin io.Reader, args ...string) (string, error) {
	if args[0] == "dev" {
		args = append(args, "--data-dir", env.dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, env.kontiki, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig())
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kontiki %s: %w\n%s%s", strings.Join(args, " "), err, errs.String(), out.String())
	}
	return out.String() + errs.String(), nil
}

// must runs kontiki and fails the test if it fails.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kontiki(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubectl runs kubectl and fails the test if it fails.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, append([]string{"kubectl"}, args...)...)
}

// apply applies a manifest.
func apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := kontikiWith(strings.NewReader(manifest), "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// contains fails the test unless text holds all of the words.
func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in:\n%s", word, text)
		}
	}
}

// namespace makes a namespace of the test's own and removes it after it.
func namespace(t *testing.T) string {
	t.Helper()
	name := "t-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			out, err := kontiki("kubectl", "-n", name, "describe", "pods")
			t.Logf("%s %v", out, err)
		}
		if _, err := kontiki("kubectl", "delete", "namespace", name, "--timeout=90s"); err != nil {
			t.Error(err)
		}
	})
	return name
}

// eventually asks until there is no error. It is for what happens in other processes, which cannot signal a test.
func eventually(t *testing.T, limit time.Duration, what string, ask func() error) {
	t.Helper()
	deadline := time.After(limit)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited %s for %s: %v", limit, what, err)
		case <-ticker.C:
		}
	}
}

// pods answers the pods of a namespace with a label.
func pods(t *testing.T, namespace, selector string) []corev1.Pod {
	t.Helper()
	list, err := env.set.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// rollout waits until a deployment is rolled out.
func rollout(t *testing.T, namespace, name string) {
	t.Helper()
	kubectl(t, "-n", namespace, "rollout", "status", "deployment/"+name, "--timeout=120s")
}

// toolPod is a pod of the tests' tools, on a worker.
func toolPod(name, node string, command ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: kontiki/tools:1
    command: [%s]
`, name, name, node, `"`+strings.Join(command, `", "`)+`"`)
}

var errNotYet = errors.New("not yet")

// leader names the leading master.
func leader() (string, error) {
	out, err := kontiki("cluster", "status", "-o", "json")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	for _, field := range strings.Split(out, `"leader":"`)[1:] {
		if name, _, ok := strings.Cut(field, `"`); ok && name != "" {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: no leader in %s", errNotYet, out)
}

// healthy waits until all masters vote and are well.
func healthy(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "all masters to be well", func() error {
		_, err := kontiki("cluster", "status")
		return err
	})
}
