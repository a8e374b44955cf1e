package authz_test

import (
	"context"
	"fmt"
	"math/rand"
	"reflect"
	"sort"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	upstream "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"github.com/kontiki/kontiki/api/auth/authz"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/harness"
)

func rulesOf(h *harness.Harness) *authz.Rules {
	r := authz.NewRules(h.Objects.Store(), h.Catalog.Table())
	r.Decode = h.Objects.Decode
	return r
}

// world makes random roles, bindings and requests out of few names, so that they often meet.
type world struct{ *rand.Rand }

func pick[T any](w world, of ...T) T { return of[w.Intn(len(of))] }

func (w world) some(of ...string) (out []string) {
	for _, s := range of {
		if w.Intn(3) == 0 {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		out = []string{pick(w, of...)}
	}
	return out
}

func (w world) rules(paths bool) (out []rbacv1.PolicyRule) {
	for range w.Intn(4) {
		rule := rbacv1.PolicyRule{Verbs: w.some("get", "list", "create", "impersonate", "*")}
		if paths && w.Intn(4) == 0 {
			rule.NonResourceURLs = w.some("/metrics", "/debug/*", "*")
		} else {
			rule.APIGroups = w.some("", "apps", "*")
			rule.Resources = w.some("pods", "pods/log", "*/scale", "*", "deployments")
			if w.Intn(3) == 0 {
				rule.ResourceNames = w.some("a", "b")
			}
		}
		out = append(out, rule)
	}
	return out
}

// bound returns a random role, and subjects.
func (w world) bound(namespaced bool) (rbacv1.RoleRef, []rbacv1.Subject) {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: pick(w, "r0", "r1", "r2", "missing")}
	if namespaced && w.Intn(2) == 0 {
		ref.Kind = "Role"
	}
	var subjects []rbacv1.Subject
	for range w.Intn(4) {
		switch w.Intn(3) {
		case 0:
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: pick(w, "ann", "joe", serviceaccount.MakeUsername("n0", "sa"))})
		case 1:
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "Group", Name: pick(w, "staff", "guests")})
		default:
			subjects = append(subjects, rbacv1.Subject{Kind: "ServiceAccount", Namespace: pick(w, "n0", "n1"), Name: "sa"})
		}
	}
	return ref, subjects
}

func (w world) request() authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{User: &user.DefaultInfo{
		Name: pick(w, "ann", "joe", "eve", serviceaccount.MakeUsername("n0", "sa"), serviceaccount.MakeUsername("n1", "sa")), Groups: w.some("staff", "guests", "others"),
	}, Verb: pick(w, "get", "list", "create", "delete", "impersonate")}
	if w.Intn(5) == 0 {
		a.Path = pick(w, "/metrics", "/debug/pprof/heap", "/debug", "/x")
		return a
	}
	a.ResourceRequest, a.APIGroup, a.Resource = true, pick(w, "", "apps", "batch"), pick(w, "pods", "deployments", "jobs")
	a.Subresource, a.Namespace, a.Name = pick(w, "", "log", "scale"), pick(w, "", "n0", "n1", "n2"), pick(w, "", "a", "c")
	return a
}

// change changes one random role or binding.
func (w world) change(t *testing.T, h *harness.Harness) {
	t.Helper()
	name, namespace := fmt.Sprintf("r%d", w.Intn(3)), fmt.Sprintf("n%d", w.Intn(2))
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	var err error
	put := w.Intn(3) > 0
	ctx := context.Background()
	switch w.Intn(4) {
	case 0:
		if put {
			_, err = client.Update(ctx, h.Client, &rbacv1.Role{ObjectMeta: meta, Rules: w.rules(false)})
		} else {
			err = h.Client.Delete(ctx, &rbacv1.Role{ObjectMeta: meta})
		}
	case 1:
		meta.Namespace = ""
		if put {
			_, err = client.Update(ctx, h.Client, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: w.rules(true)})
		} else {
			err = h.Client.Delete(ctx, &rbacv1.ClusterRole{ObjectMeta: meta})
		}
	case 2:
		if put {
			meta.Name = fmt.Sprintf("b%d", w.Intn(1000)) // a binding's role cannot be changed
			ref, subjects := w.bound(true)
			_, err = client.Create(ctx, h.Client, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
		} else if all := client.List[*rbacv1.RoleBinding](h.Client.View(), "", nil); len(all) > 0 {
			err = h.Client.Delete(ctx, pick(w, all...))
		}
	default:
		meta.Namespace = ""
		if put {
			meta.Name = fmt.Sprintf("b%d", w.Intn(1000))
			ref, subjects := w.bound(false)
			_, err = client.Create(ctx, h.Client, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
		} else if all := client.List[*rbacv1.ClusterRoleBinding](h.Client.View(), "", nil); len(all) > 0 {
			err = h.Client.Delete(ctx, pick(w, all...))
		}
	}
	if err != nil && !strings.Contains(err.Error(), "not found") && !strings.Contains(err.Error(), "already exists") {
		t.Fatal(err)
	}
}

// Whatever changes, the decisions are those of upstream's authorizer for the stored roles and bindings.
func TestDecisionsAreUpstreams(t *testing.T) {
	for name, options := range map[string]fsm.Options{"": {}, "short history": {HistoryEvents: 3}} {
		t.Run(name, func(t *testing.T) {
			h := harness.NewWith(t, options)
			namespace(t, h, "n0")
			namespace(t, h, "n1")
			seed := rand.Int63()
			w := world{rand.New(rand.NewSource(seed))}
			rules := rulesOf(h)
			permitted := 0
			for range 150 {
				for range w.Intn(6) {
					w.change(t, h)
				}
				v := h.Client.View()
				resolver, static := validation.NewTestRuleResolver(client.List[*rbacv1.Role](v, "", nil), client.List[*rbacv1.RoleBinding](v, "", nil),
					client.List[*rbacv1.ClusterRole](v, "", nil), client.List[*rbacv1.ClusterRoleBinding](v, "", nil))
				oracle := upstream.New(static, static, static, static)
				for range 20 {
					a := w.request()
					got, reason, err := rules.Authorize(context.Background(), &a)
					want, wantReason, wantErr := oracle.Authorize(context.Background(), &a)
					if got != want || err != nil || wantErr != nil || (reason == "") != (wantReason == "") {
						t.Fatalf("seed %d: %+v: %v (%s) %v, upstream %v (%s) %v", seed, a, got, reason, err, want, wantReason, wantErr)
					}
					if got == authorizer.DecisionAllow {
						permitted++
						if !knownReason(v, reason) {
							t.Fatalf("seed %d: %+v: the reason is %q, upstream's %q", seed, a, reason, wantReason)
						}
						if may, _ := rules.MayChange(context.Background(), a.User); !may && a.Verb != "get" && a.Verb != "list" {
							t.Fatalf("seed %d: %+v is allowed, and yet nothing may be changed", seed, a)
						}
					}
					have, _ := rules.RulesFor(context.Background(), a.User, a.Namespace)
					wanted, _ := resolver.RulesFor(context.Background(), a.User, a.Namespace)
					if !reflect.DeepEqual(sorted(have), sorted(wanted)) {
						t.Fatalf("seed %d: rules of %+v:\n%v, upstream\n%v", seed, a, have, wanted)
					}
				}
			}
			if permitted < 100 {
				t.Errorf("seed %d: only %d requests were allowed", seed, permitted)
			}
		})
	}
}

func sorted(rules []rbacv1.PolicyRule) []string {
	out := []string{}
	for _, r := range rules {
		out = append(out, fmt.Sprint(r))
	}
	sort.Strings(out)
	return out
}

// knownReason says whether a reason names an existing binding.
func knownReason(v client.View, reason string) bool {
	found := false
	client.Each(v, "", func(b *rbacv1.ClusterRoleBinding) bool {
		found = found || strings.HasPrefix(reason, fmt.Sprintf("RBAC: allowed by ClusterRoleBinding %q of ClusterRole %q to ", b.Name, b.RoleRef.Name))
		return true
	})
	client.Each(v, "", func(b *rbacv1.RoleBinding) bool {
		found = found || strings.HasPrefix(reason, fmt.Sprintf("RBAC: allowed by RoleBinding %q of %s %q to ", b.Name+"/"+b.Namespace, b.RoleRef.Kind, b.RoleRef.Name))
		return true
	})
	return found
}

func namespace(t testing.TB, h *harness.Harness, name string) {
	t.Helper()
	if _, err := client.Create(context.Background(), h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		t.Fatal(err)
	}
}

// Decisions are made while roles and bindings change, by many at the same time.
func TestConcurrentDecisions(t *testing.T) {
	h := harness.NewWith(t, fsm.Options{HistoryEvents: 20})
	namespace(t, h, "n0")
	namespace(t, h, "n1")
	rules := rulesOf(h)
	var wait sync.WaitGroup
	for i := range 4 {
		w := world{rand.New(rand.NewSource(int64(i)))}
		wait.Go(func() {
			for range 500 {
				a := w.request()
				if _, _, err := rules.Authorize(context.Background(), &a); err != nil {
					t.Error(err)
				}
				rules.MayChange(context.Background(), a.User)
			}
		})
	}
	w := world{rand.New(rand.NewSource(5))}
	for range 200 {
		w.change(t, h)
	}
	wait.Wait()
}

// A grant holds for the next request, and its end too.
func TestGrantsHoldAtOnce(t *testing.T) {
	h := harness.New(t)
	rules := rulesOf(h)
	ctx := context.Background()
	a := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "joe"}, Verb: "get", Resource: "pods", Namespace: "default", ResourceRequest: true}
	check := func(want authorizer.Decision) {
		t.Helper()
		if got, reason, err := rules.Authorize(ctx, &a); got != want || err != nil {
			t.Errorf("%v (%s), want %v", got, reason, want)
		}
	}
	check(authorizer.DecisionNoOpinion)
	meta := metav1.ObjectMeta{Namespace: "default", Name: "r"}
	for i := range 50 {
		role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
		if _, err := client.Update(ctx, h.Client, role); err != nil {
			t.Fatal(err)
		}
		binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "joe"}}}
		if _, err := client.Create(ctx, h.Client, binding); err != nil {
			t.Fatal(err)
		}
		check(authorizer.DecisionAllow)
		if i%2 == 0 {
			if err := h.Client.Delete(ctx, &rbacv1.Role{ObjectMeta: meta}); err != nil {
				t.Fatal(err)
			}
			check(authorizer.DecisionNoOpinion)
		}
		if err := h.Client.Delete(ctx, &rbacv1.RoleBinding{ObjectMeta: meta}); err != nil {
			t.Fatal(err)
		}
		check(authorizer.DecisionNoOpinion)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	h := harness.New(b)
	ctx := context.Background()
	create := func(obj client.Object) {
		b.Helper()
		var err error
		switch obj := obj.(type) {
		case *rbacv1.ClusterRole:
			_, err = client.Create(ctx, h.Client, obj)
		case *rbacv1.ClusterRoleBinding:
			_, err = client.Create(ctx, h.Client, obj)
		case *rbacv1.RoleBinding:
			_, err = client.Create(ctx, h.Client, obj)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	create(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "view"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"apps"}, Resources: []string{"deployments", "replicasets"}},
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"pods", "services", "configmaps", "pods/log"}},
	}})
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}
	for i := range 5000 {
		subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: fmt.Sprintf("user-%d", i)}}
		if i%2 == 0 {
			create(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("b%d", i)}, RoleRef: ref, Subjects: subjects})
		} else {
			create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("b%d", i)}, RoleRef: ref, Subjects: subjects})
		}
	}
	z := authz.New(rulesOf(h))
	z.Nodes.Client = h.Client
	of := func(name string) *authorizer.AttributesRecord {
		return &authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name, Groups: []string{"staff", user.AllAuthenticated}}, Verb: "get",
			Resource: "pods", Subresource: "log", Namespace: "default", Name: "p", ResourceRequest: true}
	}
	for _, c := range []struct {
		name string
		a    *authorizer.AttributesRecord
		want authorizer.Decision
	}{{"bound in the cluster", of("user-4000"), authorizer.DecisionAllow}, {"bound in a namespace", of("user-4001"), authorizer.DecisionAllow}, {"not bound", of("nobody"), authorizer.DecisionNoOpinion}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, _, _ := z.Authorize(ctx, c.a); got != c.want {
					b.Fatal(got)
				}
			}
		})
	}
	b.Run("after a write of something else", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if _, err := h.Store.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: "/elsewhere", Value: []byte("x")}}}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if got, _, _ := z.Authorize(ctx, of("user-4000")); got != authorizer.DecisionAllow {
				b.Fatal(got)
			}
		}
	})
}
