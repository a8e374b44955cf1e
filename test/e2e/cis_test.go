package e2e_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/cmd/kontiki/cis"
)

// TestTheBenchmarkIsAnswered: kontiki cis reads flags, workers, files, objects and ciphers of a real cluster.
func TestTheBenchmarkIsAnswered(t *testing.T) {
	healthy(t)
	ns := namespace(t) // without a label of Pod Security
	ask := func(args ...string) string {
		t.Helper()
		out, err := kontiki(append([]string{"cis"}, args...)...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Fatalf("%v, want the exit code 2: %s", err, out)
		}
		return out
	}
	var report, same cis.Report
	if err := json.Unmarshal([]byte(ask("-o", "json")), &report); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(ask("-o", "yaml")), &same); err != nil || len(same.Findings) != len(report.Findings) {
		t.Errorf("yaml: %v, %d findings, want %d", err, len(same.Findings), len(report.Findings))
	}
	if !strings.HasPrefix(report.Master, "master-") {
		t.Errorf("master %q", report.Master)
	}
	of := map[string]cis.Finding{}
	for _, f := range report.Findings {
		of[f.ID] = f
	}
	for id, want := range map[string]cis.Result{
		"1.1.11": cis.Pass, "1.1.21": cis.Pass, // files of this machine, on which the cluster runs
		"1.2.1":  cis.Fail,                    // the default
		"1.2.16": cis.Pass, "3.2.1": cis.Pass, // flags of the cluster under test
		"1.2.29": cis.Pass,                                        // a handshake
		"1.3.5":  cis.Pass,                                        // objects
		"4.2.1":  cis.Pass, "4.2.2": cis.Pass, "4.2.13": cis.Fail, // each worker's configuration
		"4.3.1": cis.NotApplicable, "3.1.1": cis.Manual, "5.2.2": cis.Fail,
	} {
		if of[id].Result != want {
			t.Errorf("%+v, want %s", of[id], want)
		}
	}
	if got := strings.Join(of["4.2.13"].Found, " "); !strings.Contains(got, "worker-1") || !strings.Contains(got, "worker-2") {
		t.Errorf("workers without a limit of processes: %s", got)
	}
	if !strings.Contains(strings.Join(of["5.2.2"].Found, " "), "namespace "+ns) {
		t.Errorf("namespaces without a level: %v", of["5.2.2"].Found)
	}
	contains(t, ask(), "1.2.1   FAIL", "pass,", "not applicable")
	if out := kubectl(t, "get", "--raw", "/kontiki/v1/cluster/flags"); strings.Contains(out, `"token"`) || !strings.Contains(out, `"audit-log-path":"-"`) {
		t.Errorf("flags: %s", out)
	}
}
