package browser

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/devcluster"
)

// TestDashboard runs the tests of the page. SPEC selects files by a part of their names, such as "signin".
func TestDashboard(t *testing.T) {
	if os.Getenv("KONTIKI") == "" {
		t.Fatal("KONTIKI must name the binary under test; `make browser` does it")
	}
	if _, err := os.Stat("node_modules/@playwright/test"); err != nil {
		t.Fatal("the packages of package-lock.json are not installed; `make browser` does it")
	}
	cluster, err := devcluster.Start(os.Stderr, 3, 2)
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Errorf("stop the cluster: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node_modules/.bin/playwright", append([]string{"test"}, strings.Fields(os.Getenv("SPEC"))...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig(), "CLUSTER_DIR="+cluster.Dir, fmt.Sprintf("DASHBOARD=https://127.0.0.1:%d", cluster.APIPort), "FORCE_COLOR=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	passed := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		t.Log(lines.Text())
		if strings.Contains(lines.Text(), "✓") {
			passed++
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("tests of the page failed: %v", err)
	}
	if passed == 0 {
		t.Error("no test of the page passed")
	}
}
