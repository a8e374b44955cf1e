package migration

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/time/rate"
	rbacv1 "k8s.io/api/rbac/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/harness"
)

type svm = storagemigrationv1.StorageVersionMigration

func of(name, group, resource string) *svm {
	return &svm{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: group, Resource: resource}}}
}

func is(s *svm, of storagemigrationv1.MigrationConditionType, status metav1.ConditionStatus) bool {
	return apimeta.IsStatusConditionPresentAndEqual(s.Status.Conditions, string(of), status)
}

func finished(s *svm) bool {
	return (is(s, storagemigrationv1.MigrationSucceeded, metav1.ConditionTrue) || is(s, storagemigrationv1.MigrationFailed, metav1.ConditionTrue)) &&
		is(s, storagemigrationv1.MigrationRunning, metav1.ConditionFalse)
}

// storeOld stores bindings as a program did that did not know the default of a field.
func storeOld(t *testing.T, h *harness.Harness, count int) {
	t.Helper()
	kind := h.Client.KindOf(&rbacv1.ClusterRoleBinding{})
	for i := range count {
		obj := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("old-%d", i), UID: "u", CreationTimestamp: metav1.Now()},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}},
		}
		obj.SetGroupVersionKind(kind.GVK())
		value, err := kind.Store(obj)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Store.Propose(t.Context(), &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: kind.Key("", obj.Name), Value: value}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// changes returns how often each object of a kind has changed since a revision.
func changes(t *testing.T, h *harness.Harness, prefix string, since uint64) map[string]int {
	t.Helper()
	w, err := h.Store.Watch(prefix, since)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	n := map[string]int{}
	for w.Progress() < h.Store.View().Revision() {
		events, _, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			n[e.Current.Key]++
		}
	}
	return n
}

// TestAMigrationStoresWhatIsStoredOtherwise is interrupted in the middle, as by a change of leader: every object that is not stored as it
// would be now is written once, and no other one.
func TestAMigrationStoresWhatIsStoredOtherwise(t *testing.T) {
	h := harness.New(t)
	const old = 40
	storeOld(t, h, old)
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "new"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
	}); err != nil {
		t.Fatal(err)
	}
	before := h.Store.View().Revision()
	prefix := h.Client.KindOf(&rbacv1.ClusterRoleBinding{}).Prefix()
	slow := &migrator{c: h.Client, limit: rate.NewLimiter(100, 1), now: time.Now}
	ctl := New(h.Client)
	ctl.Reconcile = slow.reconcile
	stop := controllertest.Run(t, h.Client, ctl)
	if _, err := client.Create(t.Context(), h.Client, of("m", rbacv1.GroupName, "clusterrolebindings")); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitView(t, h.Client, []client.Object{&rbacv1.ClusterRoleBinding{}}, func(client.View) string {
		if n := len(changes(t, h, prefix, before)); n < 5 {
			return fmt.Sprintf("%d are migrated", n)
		}
		return ""
	})
	stop()
	if n := len(changes(t, h, prefix, before)); n == old {
		t.Error("everything was migrated before the controller was stopped")
	}
	controllertest.Run(t, h.Client, New(h.Client))
	s := controllertest.Await(t, h.Client, "", "m", "to be finished", finished)
	if !is(s, storagemigrationv1.MigrationSucceeded, metav1.ConditionTrue) || s.Status.ResourceVersion == "" {
		t.Errorf("%+v", s.Status)
	}
	n := changes(t, h, prefix, before)
	for i := range old {
		if key := h.Client.KindOf(&rbacv1.ClusterRoleBinding{}).Key("", fmt.Sprintf("old-%d", i)); n[key] != 1 {
			t.Errorf("%s was written %d times", key, n[key])
		}
	}
	if len(n) != old {
		t.Errorf("%d objects were written", len(n))
	}
	client.Each(h.Client.View(), "", func(p *rbacv1.ClusterRoleBinding) bool {
		if len(p.Subjects) > 0 && p.Subjects[0].APIGroup != rbacv1.GroupName {
			t.Errorf("%s is as before", p.Name)
		}
		return true
	})
}

// TestEveryResourceIsMigrated: migrations of all resources that are stored succeed; none of them writes what is stored as it should be.
func TestEveryResourceIsMigrated(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	controllertest.Run(t, h.Client, New(h.Client))
	own := h.Client.KindOf(&svm{}).Prefix()
	before, count := h.Store.View().Revision(), 0
	for _, kind := range h.Client.Kinds() {
		count++
		if _, err := client.Create(t.Context(), h.Client, of(fmt.Sprintf("m-%d", count), kind.Group, kind.Resource)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range count {
		s := controllertest.Await(t, h.Client, "", fmt.Sprintf("m-%d", i+1), "to be finished", finished)
		if !is(s, storagemigrationv1.MigrationSucceeded, metav1.ConditionTrue) {
			t.Errorf("%+v: %+v", s.Spec.Resource, s.Status.Conditions)
		}
	}
	if count < 50 {
		t.Errorf("only %d resources", count)
	}
	for key := range changes(t, h, "/", before) {
		if len(key) < len(own) || key[:len(own)] != own {
			t.Errorf("%s was written", key)
		}
	}
}

// TestMigrationsThatFail: an unknown resource is waited for and then given up; a second migration of a resource waits for the first.
func TestMigrationsThatFail(t *testing.T) {
	h := harness.New(t)
	clock := controllertest.NewClock(time.Now())
	m := &migrator{c: h.Client, limit: rate.NewLimiter(rate.Inf, 1), now: clock.Now}
	unknown, err := client.Create(t.Context(), h.Client, of("unknown", "example.io", "pandas"))
	if err != nil {
		t.Fatal(err)
	}
	step := func() time.Duration {
		t.Helper()
		r, err := m.reconcile(t.Context(), h.Client.View(), keyOf(unknown))
		if err != nil {
			t.Fatal(err)
		}
		return r.After
	}
	get := func(name string) *svm {
		s, _ := client.Get[*svm](h.Client.View(), "", name)
		return s
	}
	step()
	if after := step(); after == 0 || !is(get("unknown"), storagemigrationv1.MigrationRunning, metav1.ConditionTrue) {
		t.Errorf("a resource that may be served soon: again after %s, %+v", after, get("unknown").Status)
	}
	clock.Advance(2 * time.Minute)
	second, err := client.Create(t.Context(), h.Client, of("a-second", "example.io", "pandas"))
	if err != nil {
		t.Fatal(err)
	}
	step()
	if s := get("unknown"); !is(s, storagemigrationv1.MigrationFailed, metav1.ConditionTrue) || len(get(second.Name).Status.Conditions) != 0 {
		t.Errorf("a resource that is not served: %+v, %+v", s.Status, get(second.Name).Status)
	}
	for range 3 {
		step()
	}
	if !finished(get("unknown")) || !is(get(second.Name), storagemigrationv1.MigrationFailed, metav1.ConditionTrue) {
		t.Errorf("%+v, %+v", get("unknown").Status, get(second.Name).Status)
	}
}
