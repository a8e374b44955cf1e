package browser

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/devcluster"
)

// auditPolicy records who reads Secrets, in the masters' logs.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, namespaces: [browser-secret], resources: [{group: "", resources: [secrets]}]}
- {level: None}
`

// TestDashboard runs the tests of the page. SPEC selects files by a part of their names, such as "signin".
func TestDashboard(t *testing.T) {
	if os.Getenv("KONTIKI") == "" {
		t.Fatal("KONTIKI must name the binary under test; `make browser` does it")
	}
	if _, err := os.Stat("node_modules/@playwright/test"); err != nil {
		t.Fatal("the packages of package-lock.json are not installed; `make browser` does it")
	}
	issuer, ca := newIssuer(t)
	policy := filepath.Join(t.TempDir(), "audit.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster, err := devcluster.Start(os.Stderr, 3, 2, "--server-arg=--audit-policy-file="+policy, "--server-arg=--audit-log-path=-",
		"--server-arg=--oidc-issuer-url="+issuer.Issuer, "--server-arg=--oidc-client-id=kontiki", "--server-arg=--oidc-username-prefix=oidc:", "--server-arg=--oidc-ca-file="+ca,
		"--server-arg=--dashboard-oidc-client-id=kontiki")
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Errorf("stop the cluster: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, master := range []string{"master-1", "master-2", "master-3"} {
		issuer.serveOn(t, cluster, master)
	}
	runTests(t, cluster, "*.spec.ts", strings.Fields(os.Getenv("SPEC"))...)
}

// TestPictures photographs every page into the folder that PICTURES names, for people to look at: `make browser` leaves it out. With 100 simulated workers, the pages that grow with them.
func TestPictures(t *testing.T) {
	if os.Getenv("PICTURES") == "" {
		t.Skip("PICTURES names no folder; `make pictures` does")
	}
	for _, of := range []struct {
		name    string
		workers int
		flags   []string
	}{{"every page", 2, nil}, {"many nodes", 0, []string{"--hollow=100"}}} {
		t.Run(of.name, func(t *testing.T) {
			cluster, err := devcluster.Start(os.Stderr, 3, of.workers, of.flags...)
			t.Cleanup(func() {
				if err := cluster.Stop(); err != nil {
					t.Errorf("stop the cluster: %v", err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			runTests(t, cluster, "pictures.ts", "--grep", of.name)
		})
	}
}

// runTests runs the tests of files with Playwright against a cluster.
func runTests(t *testing.T, cluster *devcluster.Cluster, files string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node_modules/.bin/playwright", append([]string{"test"}, args...)...)
	cmd.Env = append(os.Environ(), "TESTS="+files, "KUBECONFIG="+cluster.Kubeconfig(), "CLUSTER_DIR="+cluster.Dir, fmt.Sprintf("DASHBOARD=https://127.0.0.1:%d", cluster.APIPort), "FORCE_COLOR=0")
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
