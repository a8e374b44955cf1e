package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const roleOfBill = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: bill, namespace: bills}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bill, namespace: bills}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: bill}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: bill}]
`

// Roles are made and asked about with kubectl, and hold for what kubectl and kontiki do.
func TestRolesDecide(t *testing.T) {
	kubectl(t, "create", "namespace", "bills")
	t.Cleanup(func() { kubectl(t, "delete", "namespace", "bills") })
	canI := func(want string, args ...string) {
		t.Helper()
		out, err := kontiki(append([]string{"kubectl", "auth", "can-i", "--as=bill"}, args...)...)
		if got := strings.TrimSpace(out); !strings.HasSuffix(got, want) || (err == nil) != (want == "yes") {
			t.Errorf("can-i %v: %q, %v, want %s", args, out, err, want)
		}
	}
	canI("no", "list", "pods", "-n", "bills")
	file := filepath.Join(t.TempDir(), "role.yaml")
	if err := os.WriteFile(file, []byte(roleOfBill), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, kubectl(t, "auth", "reconcile", "-f", file), "role.rbac.authorization.k8s.io/bill reconciled", "rolebinding.rbac.authorization.k8s.io/bill reconciled")
	// Reconciling adds what is missing, and keeps the rest.
	if err := os.WriteFile(file, []byte(strings.Replace(roleOfBill, "[get, list]", "[watch]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, kubectl(t, "auth", "reconcile", "-f", file), "missing rules added", "Verbs:[watch]")
	for verb, want := range map[string]string{"get": "yes", "list": "yes", "watch": "yes", "delete": "no"} {
		canI(want, verb, "pods", "-n", "bills")
	}
	canI("no", "list", "pods")
	canI("yes", "get", "/version")
	canI("no", "get", "/kontiki/v1/cluster")
	contains(t, kubectl(t, "auth", "can-i", "--list", "--as=bill", "-n", "bills"), "pods", "selfsubjectaccessreviews.authorization.k8s.io", "/healthz")
	contains(t, kubectl(t, "auth", "whoami"), "system:masters", "system:authenticated")
	if out, err := kontiki("kubectl", "--as=bill", "-n", "bills", "delete", "pods", "--all"); err == nil && !strings.Contains(out, "No resources found") {
		t.Errorf("deleted: %s", out)
	}
	out, err := kontiki("kubectl", "--as=bill", "-n", "bills", "create", "configmap", "x")
	if err == nil || !strings.Contains(err.Error(), `User "bill" cannot create resource "configmaps" in API group "" in the namespace "bills"`) {
		t.Errorf("created: %s %v", out, err)
	}
	kubectl(t, "create", "clusterrolebinding", "bill-views", "--clusterrole=kontiki:viewer", "--user=bill")
	t.Cleanup(func() { kubectl(t, "delete", "clusterrolebinding", "bill-views") })
	canI("yes", "get", "/kontiki/v1/cluster")
	canI("no", "post", "/kontiki/v1/cluster/transfer")
	contains(t, kubectl(t, "--as=bill", "get", "--raw", "/kontiki/v1/cluster"), "leader")
	contains(t, kubectl(t, "get", "--raw", "/readyz?verbose"), "[+]poststarthook/rbac/bootstrap-roles ok")
	// A service account's token is one.
	token := strings.TrimSpace(kubectl(t, "-n", "bills", "create", "token", "default"))
	if strings.Count(token, ".") != 2 {
		t.Errorf("token: %q", token)
	}
}
