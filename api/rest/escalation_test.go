package rest_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

// allow gives a user rules in the whole cluster, or, with a namespace, in it.
func allow(t *testing.T, h *harness.Harness, namespace, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	ctx := context.Background()
	name := user + "-" + strings.ToLower(rules[0].Verbs[0])
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := client.Create(ctx, h.Client, role); err != nil {
		t.Fatal(err)
	}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}}
	var err error
	if namespace == "" {
		_, err = client.Create(ctx, h.Client, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref, Subjects: subjects})
	} else {
		_, err = client.Create(ctx, h.Client, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, RoleRef: ref, Subjects: subjects})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func rule(verbs, group, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{group}, Resources: strings.Split(resources, ","), ResourceNames: names}
}

const rbacPath = "/apis/rbac.authorization.k8s.io/v1/"

// Nobody grants more than they may do themselves, whichever verb, method or protocol they use.
func TestNobodyEscalates(t *testing.T) {
	h := harness.New(t)
	all := rule("*", rbacv1.GroupName, "roles,rolebindings,clusterroles,clusterrolebindings")
	all.Verbs = []string{"create", "get", "update", "patch", "delete"} // neither escalate nor bind
	allow(t, h, "", "ann", all, rule("get", "", "pods"))
	ann := h.Config("ann")
	admin := h.Config("admin", "system:masters")
	object := func(kind, name, rest string) string {
		return `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"` + kind + `","metadata":{"name":"` + name + `","namespace":"default"},` + rest + `}`
	}
	const (
		little  = `"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]`
		much    = `"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods","secrets"]}]`
		toAnn   = `"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"ann"}],`
		toMuch  = toAnn + `"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"much"}`
		toSmall = toAnn + `"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"little"}`
	)
	const roles, bindings = rbacPath + "namespaces/default/roles", rbacPath + "namespaces/default/rolebindings"
	mustBe := func(config string, code int, text, method, path, contentType, body string) {
		t.Helper()
		c := ann
		if config == "admin" {
			c = admin
		}
		got, answer := raw(t, c, method, path, contentType, []byte(body))
		if got != code || !strings.Contains(answer, text) {
			t.Errorf("%s %s %s %s: %d %s, want %d with %q", config, method, path, body, got, answer, code, text)
		}
	}
	const refusal = `is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}`
	transaction := func(ops ...string) string {
		var list []map[string]json.RawMessage
		for i := 0; i < len(ops); i += 2 {
			list = append(list, map[string]json.RawMessage{ops[i]: json.RawMessage(ops[i+1])})
		}
		body, err := json.Marshal(map[string]any{"fieldManager": "m", "operations": list})
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}

	// Roles.
	mustBe("ann", 201, "", "POST", roles, "application/json", object("Role", "little", little))
	mustBe("admin", 201, "", "POST", roles, "application/json", object("Role", "much", much))
	mustBe("ann", 403, refusal, "POST", roles, "application/json", object("Role", "more", much))
	mustBe("ann", 403, refusal, "POST", roles+"?dryRun=All", "application/json", object("Role", "more", much))
	mustBe("ann", 403, refusal, "PUT", roles+"/more", "application/json", object("Role", "more", much))
	mustBe("ann", 403, refusal, "PUT", roles+"/little", "application/json", object("Role", "little", much))
	mustBe("ann", 403, refusal, "PATCH", roles+"/little", "application/merge-patch+json", `{`+much+`}`)
	mustBe("ann", 403, refusal, "PATCH", roles+"/little?fieldManager=m&force=true", "application/apply-patch+yaml", object("Role", "little", much))
	mustBe("ann", 403, refusal, "PATCH", roles+"/more?fieldManager=m", "application/apply-patch+yaml", object("Role", "more", much))
	mustBe("ann", 403, refusal, "POST", "/kontiki/v1/transactions", "application/json", transaction("create", object("Role", "more", much)))
	mustBe("ann", 403, refusal, "POST", "/kontiki/v1/transactions", "application/json", transaction("apply", object("Role", "more", much)))
	// A role that allows more may lose rules, be owned and be deleted.
	mustBe("ann", 200, "", "PATCH", roles+"/much", "application/merge-patch+json", `{"metadata":{"finalizers":["example.com/wait"]}}`)
	mustBe("ann", 403, refusal, "PATCH", roles+"/much", "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`)
	mustBe("ann", 200, "", "PATCH", roles+"/much", "application/merge-patch+json", `{"metadata":{"finalizers":null}}`)

	// Bindings.
	mustBe("ann", 201, "", "POST", bindings, "application/json", object("RoleBinding", "fine", toSmall))
	mustBe("ann", 403, refusal, "POST", bindings, "application/json", object("RoleBinding", "more", toMuch))
	mustBe("ann", 403, refusal, "PUT", bindings+"/more", "application/json", object("RoleBinding", "more", toMuch))
	mustBe("ann", 403, refusal, "PATCH", bindings+"/more?fieldManager=m", "application/apply-patch+yaml", object("RoleBinding", "more", toMuch))
	mustBe("ann", 404, `roles.rbac.authorization.k8s.io \"none\" not found`, "POST", bindings, "application/json", object("RoleBinding", "none", strings.ReplaceAll(toMuch, `"much"`, `"none"`)))
	// The role may be in the same transaction; it counts as it will be.
	mustBe("ann", 200, "", "POST", "/kontiki/v1/transactions", "application/json", transaction("create", object("Role", "new", little),
		"create", object("RoleBinding", "new", strings.ReplaceAll(toSmall, `"little"`, `"new"`))))
	mustBe("ann", 403, refusal, "POST", "/kontiki/v1/transactions", "application/json", transaction("create", object("Role", "new2", little), "create", object("RoleBinding", "more", toMuch)))
	mustBe("admin", 201, "", "POST", bindings, "application/json", object("RoleBinding", "much", toMuch[len(toAnn):]))
	mustBe("ann", 403, refusal, "PATCH", bindings+"/much", "application/merge-patch+json", `{"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"ann"}]}`)

	// Aggregation gathers everything.
	aggregated := `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"sum"},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]}}`
	const sum = `clusterroles.rbac.authorization.k8s.io \"sum\" is forbidden: must have cluster-admin privileges to use the aggregationRule`
	mustBe("ann", 403, sum, "POST", rbacPath+"clusterroles", "application/json", aggregated)
	mustBe("admin", 201, "", "POST", rbacPath+"clusterroles", "application/json", aggregated)
	mustBe("ann", 403, sum, "PATCH", rbacPath+"clusterroles/sum", "application/merge-patch+json", `{"aggregationRule":null}`)

	// With escalate and bind it is allowed, for the roles that are named.
	allow(t, h, "default", "ann", rule("escalate", rbacv1.GroupName, "roles", "more"), rule("bind", rbacv1.GroupName, "roles", "much"))
	mustBe("ann", 403, refusal, "POST", roles, "application/json", object("Role", "more", much)) // upstream does not know the name yet
	mustBe("ann", 201, "", "PUT", roles+"/more", "application/json", object("Role", "more", much))
	mustBe("ann", 403, refusal, "PUT", roles+"/little", "application/json", object("Role", "little", much))
	mustBe("ann", 201, "", "POST", bindings, "application/json", object("RoleBinding", "more", toMuch))
	// The controllers, which are trusted, may do all of it.
	if _, err := client.Create(context.Background(), h.Client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "any"}, Rules: []rbacv1.PolicyRule{rule("*", "*", "*")}}); err != nil {
		t.Error(err)
	}
}
