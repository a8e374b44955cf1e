package rbac_test

import (
	"context"
	"log/slog"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/test/harness"
)

var kinds = []client.Object{&rbacv1.Role{}, &rbacv1.RoleBinding{}, &rbacv1.ClusterRole{}, &rbacv1.ClusterRoleBinding{}}

func awaitDefaults(t *testing.T, c *client.Client) {
	t.Helper()
	controllertest.AwaitView(t, c, kinds, func(v client.View) string {
		for _, obj := range rbac.Defaults() {
			if _, ok := v.GetOf(c.KindOf(obj), obj.GetNamespace(), obj.GetName()); !ok {
				return obj.GetName() + " is missing"
			}
		}
		return ""
	})
}

func TestDefaultsAreCreatedAndCompleted(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	c := client.New(h.Objects, "system:apiserver", "kube-apiserver")
	ready := rbac.Ready(c)
	if err := ready(ctx); err == nil {
		t.Error("ready without roles")
	}
	// An administrator has already made one default role, and has changed and protected another.
	reader := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}}
	if _, err := client.Create(ctx, h.Client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:monitoring"}, Rules: []rbacv1.PolicyRule{reader}}); err != nil {
		t.Fatal(err)
	}
	protected := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:basic-user", Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}}, Rules: []rbacv1.PolicyRule{reader}}
	if _, err := client.Create(ctx, h.Client, protected); err != nil {
		t.Fatal(err)
	}
	other := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "system:public-info-viewer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}}
	if _, err := client.Create(ctx, h.Client, other); err != nil {
		t.Fatal(err)
	}
	controllertest.Run(t, c, rbac.NewDefaults(c, slog.New(slog.DiscardHandler)))
	// The namespace kube-public is created only afterwards, and gets its role then.
	if _, err := client.Create(ctx, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespacePublic}}); err != nil {
		t.Fatal(err)
	}
	awaitDefaults(t, c)
	if err := ready(ctx); err != nil {
		t.Errorf("with all roles: %v", err)
	}
	controllertest.Await(t, c, "", "system:monitoring", "has its own rule and the default ones", func(r *rbacv1.ClusterRole) bool {
		return len(r.Rules) > 1 && reflect.DeepEqual(r.Rules[0], reader) && r.Labels["kubernetes.io/bootstrapping"] == "rbac-defaults"
	})
	if r, _ := client.Get[*rbacv1.ClusterRole](c.View(), "", "system:basic-user"); len(r.Rules) != 1 {
		t.Errorf("a protected role was changed: %v", r.Rules)
	}

	// A binding's role cannot be changed, so a binding to another one is replaced.
	controllertest.Await(t, c, "", other.Name, "binds the right role", func(b *rbacv1.ClusterRoleBinding) bool {
		return b.RoleRef.Name == "system:public-info-viewer" && len(b.Subjects) == 2
	})

	// What is taken away comes back; what is added stays.
	discovery, _ := client.Get[*rbacv1.ClusterRole](c.View(), "", "system:discovery")
	less := discovery.DeepCopy()
	less.Rules = []rbacv1.PolicyRule{reader}
	if _, err := client.Update(ctx, h.Client, less); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, c, "", "system:discovery", "has its rules again", func(r *rbacv1.ClusterRole) bool { return len(r.Rules) > 1 && reflect.DeepEqual(r.Rules[0], reader) })
	admins, _ := client.Get[*rbacv1.ClusterRoleBinding](c.View(), "", "cluster-admin")
	if err := h.Client.Delete(ctx, admins); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, c, "", "cluster-admin", "is bound again", func(b *rbacv1.ClusterRoleBinding) bool {
		return b.UID != admins.UID && len(b.Subjects) == 1 && b.Subjects[0].Name == "system:masters"
	})
	if err := ready(ctx); err != nil {
		t.Errorf("after deletions: %v", err)
	}
}

func TestClusterRolesAreAggregated(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	c := client.New(h.Objects, "system:serviceaccount:kube-system:clusterrole-aggregation-controller", "kube-controller-manager")
	controllertest.Run(t, c, rbac.NewAggregation(c))
	rule := func(resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}}
	}
	role := func(name string, labels map[string]string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Rules: rules}
	}
	create := func(r *rbacv1.ClusterRole) {
		t.Helper()
		if _, err := client.Create(ctx, h.Client, r); err != nil {
			t.Fatal(err)
		}
	}
	to := map[string]string{"to": "sum"}
	sum := role("sum", to) // it selects itself, too
	sum.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: to}, {MatchLabels: map[string]string{"also": "sum"}}}}
	create(role("b", to, rule("pods"), rule("services")))
	create(sum)
	create(role("a", to, rule("nodes"), rule("pods")))
	create(role("c", map[string]string{"also": "sum"}, rule("secrets")))
	create(role("d", nil, rule("events")))
	await := func(what string, rules ...rbacv1.PolicyRule) {
		t.Helper()
		controllertest.Await(t, c, "", "sum", what, func(r *rbacv1.ClusterRole) bool { return reflect.DeepEqual(r.Rules, rules) })
	}
	await("has the rules of all", rule("nodes"), rule("pods"), rule("services"), rule("secrets"))
	if err := h.Client.Delete(ctx, role("a", nil)); err != nil {
		t.Fatal(err)
	}
	await("has lost those of a", rule("pods"), rule("services"), rule("secrets"))
	// Rules that somebody writes into it do not stay.
	now, _ := client.Get[*rbacv1.ClusterRole](c.View(), "", "sum")
	changed := now.DeepCopy()
	changed.Rules = append(changed.Rules, rule("events"))
	if _, err := client.Update(ctx, h.Client, changed); err != nil {
		t.Fatal(err)
	}
	await("is as it was", rule("pods"), rule("services"), rule("secrets"))
	for _, name := range []string{"b", "c"} {
		if err := h.Client.Delete(ctx, role(name, nil)); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Await(t, c, "", "sum", "has no rules", func(r *rbacv1.ClusterRole) bool { return len(r.Rules) == 0 })
}

// Where no leader creates the default roles, every master does.
func TestRolesAreEnsuredWithoutTheLeader(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	c := client.New(h.Objects, "system:apiserver", "kube-apiserver")
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- rbac.Ensure(ctx, c, time.Millisecond, slog.New(slog.DiscardHandler)) }()
	if _, err := client.Create(ctx, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespacePublic}}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := rbac.Ready(c)(ctx); err != nil {
		t.Error(err)
	}
}
