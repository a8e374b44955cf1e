// Package operators runs operators and extension API servers that others publish as Go modules as containers in a cluster of the binary, and sees that they
// do their work. `make operators` runs it. The programs are built in modules of their own, because of their dependencies.
package operators

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/devcluster"
)

const masters = 3

var cluster *devcluster.Cluster

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	cluster, err = devcluster.Start(os.Stderr, masters, 2)
	defer func() {
		if err := cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the cluster:", err)
		}
	}()
	if err == nil {
		err = importImages()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start a cluster:", err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		cluster.ShowLogs(os.Stderr)
	}
	return code
}

// importImages imports the images of the operators on all nodes.
func importImages() error {
	archive := os.Getenv("OPERATORS")
	if archive == "" {
		return errors.New("OPERATORS must name the archive with the images of the operators; `make operators` builds it")
	}
	_, err := cluster.Run("image", "import", archive)
	return err
}

// kubectl runs kubectl and returns its output.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cluster.Run(append([]string{"kubectl"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply applies a manifest.
func apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := cluster.RunWith(strings.NewReader(manifest), "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// through returns a command that runs kubectl on a master's host, against that master.
func through(ctx context.Context, t *testing.T, master string, args ...string) *exec.Cmd {
	t.Helper()
	namespace, err := cluster.Namespace(master)
	if err != nil {
		t.Fatal(err)
	}
	command := append([]string{"netns", "exec", namespace, cluster.Kontiki, "kubectl", "--server=https://127.0.0.1:6443"}, args...)
	cmd := exec.CommandContext(ctx, "ip", command...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig())
	return cmd
}

// feed creates what a manifest has, through a master.
func feed(ctx context.Context, t *testing.T, master, manifest string) (string, error) {
	t.Helper()
	create := through(ctx, t, master, "create", "-f", "-")
	create.Stdin = strings.NewReader(manifest)
	out, err := create.CombinedOutput()
	return string(out), err
}

// moduleFile returns the path of a file of a module, of the version that the module in a directory requires.
func moduleFile(t *testing.T, in, module, path string) string {
	t.Helper()
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	list.Dir = in
	dir, err := list.Output()
	if err != nil {
		t.Fatalf("find the module %s: %v", module, err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), path)
}

// limited returns a context for the commands of one test.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// logsOnFailure writes, if the test has failed when it ends, what the pods of a namespace are and have written. Call it after what removes them is
// registered with Cleanup.
func logsOnFailure(t *testing.T, namespace string) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		out, err := cluster.Run("kubectl", "-n", namespace, "get", "pods,events", "-o", "wide")
		t.Log(out, err)
		names, err := cluster.Run("kubectl", "-n", namespace, "get", "pods", "-o", "name")
		if err != nil {
			t.Log(err)
		}
		for _, name := range strings.Fields(names) {
			out, err := cluster.Run("kubectl", "-n", namespace, "logs", name, "--all-containers", "--prefix", "--tail=60")
			t.Log(out, err)
		}
	})
}
