package operators

import (
	"bufio"
	"fmt"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/await"
)

const flunder = `
apiVersion: wardle.example.com/v1alpha1
kind: Flunder
metadata: {name: %[1]s, namespace: %[2]s, labels: {through: %[1]s}}
spec: {reference: other}
`

const banning = `
apiVersion: wardle.example.com/v1alpha1
kind: Fischer
metadata: {name: %s}
disallowedFlunders: [banned]
`

// mutatingPolicies lets the server read what its own role leaves out although the server waits for it, since these are served as v1.
const mutatingPolicies = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: wardle-mutating-policies}
rules:
- {apiGroups: [admissionregistration.k8s.io], resources: [mutatingadmissionpolicies, mutatingadmissionpolicybindings], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: wardle-mutating-policies}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: wardle-mutating-policies}
subjects: [{kind: ServiceAccount, name: apiserver, namespace: wardle}]
`

// TestSampleAPIServer installs upstream's sample extension API server, with etcd beside it, from its own manifests. Its resources are found, created,
// read, watched and deleted through each master, and go with their namespace.
func TestSampleAPIServer(t *testing.T) {
	var manifests []string
	for _, name := range []string{"ns", "sa", "rbac", "rbac-bind", "auth-delegator", "auth-reader", "deployment", "service", "apiservice"} {
		manifests = append(manifests, "-f", moduleFile(t, "sampleapiserver", "k8s.io/sample-apiserver", "artifacts/example/"+name+".yaml"))
	}
	t.Cleanup(func() {
		if _, err := cluster.Run(append([]string{"kubectl", "delete", "--ignore-not-found"}, manifests...)...); err != nil {
			t.Error(err)
		}
		if _, err := cluster.Run("kubectl", "delete", "--ignore-not-found", "clusterrole/wardle-mutating-policies", "clusterrolebinding/wardle-mutating-policies"); err != nil {
			t.Error(err)
		}
	})
	logsOnFailure(t, "wardle")
	apply(t, mutatingPolicies)
	kubectl(t, append([]string{"apply"}, manifests...)...)
	kubectl(t, "wait", "--for=condition=Available", "apiservice/v1alpha1.wardle.example.com", "--timeout=90s")

	const ns = "flunders"
	kubectl(t, "create", "namespace", ns)
	ctx := limited(t)
	for i := range masters {
		master := fmt.Sprint("master-", i+1)
		t.Run(master, func(t *testing.T) {
			run := func(args ...string) string {
				t.Helper()
				out, err := through(ctx, t, master, args...).CombinedOutput()
				if err != nil {
					t.Fatalf("kubectl %q: %v\n%s", args, err, out)
				}
				return string(out)
			}
			found := run("api-resources", "--api-group=wardle.example.com", "--cached=false")
			for _, want := range []string{"flunders", "Flunder", "fischers", "Fischer"} {
				if !strings.Contains(found, want) {
					t.Errorf("discovery has no %s:\n%s", want, found)
				}
			}
			if out := run("explain", "flunder.spec"); !strings.Contains(out, "reference") {
				t.Error("explain says nothing of a field:", out)
			}

			watch := through(ctx, t, master, "get", "flunders", "-n", ns, "--watch", "--output-watch-events", "-o", "custom-columns=TYPE:type,NAME:object.metadata.name", "--no-headers")
			stream, err := watch.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := watch.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				watch.Process.Kill() // a watch ends in no other way
				watch.Wait()
			}()
			events := bufio.NewScanner(stream)
			next := func(kind string) {
				t.Helper()
				if !events.Scan() || strings.Join(strings.Fields(events.Text()), " ") != kind+" "+master {
					t.Fatalf("the watch sends %q, %v, want %s", events.Text(), events.Err(), kind)
				}
			}
			if out, err := feed(ctx, t, master, fmt.Sprintf(flunder, master, ns)); err != nil {
				t.Fatalf("create: %v\n%s", err, out)
			}
			next("ADDED")
			if out := run("get", "flunders", "-n", ns, "-l", "through="+master, "-o", "jsonpath={.items[*].spec}"); !strings.Contains(out, "other") {
				t.Errorf("get: %s", out)
			}
			run("label", "flunder", master, "-n", ns, "seen=yes")
			next("MODIFIED")
			run("delete", "flunder", master, "-n", ns)
			next("DELETED")

			// The server's own admission plugin refuses the flunders that a fischer names; its error reaches the client unchanged.
			fischer := "fischer-of-" + master
			if out, err := feed(ctx, t, master, fmt.Sprintf(banning, fischer)); err != nil {
				t.Fatalf("create: %v\n%s", err, out)
			}
			await.That(t, "a flunder to be refused", func() error {
				out, err := feed(ctx, t, master, fmt.Sprintf(flunder, "banned", ns))
				if err == nil || !strings.Contains(out, "this name may not be used, please change the resource name") {
					run("delete", "flunder", "banned", "-n", ns, "--ignore-not-found")
					return fmt.Errorf("%v: %s", err, out)
				}
				return nil
			})
			run("delete", "fischer", fischer)
		})
	}

	if out, err := feed(ctx, t, "master-1", fmt.Sprintf(flunder, "left", ns)); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	kubectl(t, "delete", "namespace", ns, "--timeout=90s")
	kubectl(t, "create", "namespace", ns)
	if out := kubectl(t, "get", "flunders", "-n", ns, "-o", "name"); strings.Contains(out, "flunder.wardle.example.com/") { // there is a warning, too
		t.Errorf("the namespace is deleted, and left behind: %s", out)
	}
	kubectl(t, "delete", "namespace", ns, "--timeout=90s")
}
