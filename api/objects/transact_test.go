package objects_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// lab builds transactions.
type lab struct {
	*harness.Harness
	t testing.TB
}

func newLab(t testing.TB) *lab { return &lab{harness.New(t), t} }

func (l *lab) request(obj registry.Object) *objects.Request {
	l.t.Helper()
	kind, ok := l.Objects.Kinds().ByObject(obj)
	if !ok {
		l.t.Fatalf("no kind for %T", obj)
	}
	return &objects.Request{User: &user.DefaultInfo{Name: "tester"}, Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), FieldManager: "tester", Trusted: true}
}

func (l *lab) create(obj registry.Object) objects.TxOperation {
	return objects.TxOperation{Verb: objects.VerbCreate, Request: l.request(obj), Object: obj}
}

func (l *lab) update(obj registry.Object) objects.TxOperation {
	return objects.TxOperation{Verb: objects.VerbUpdate, Request: l.request(obj), Object: obj}
}

func (l *lab) remove(obj registry.Object) objects.TxOperation {
	return objects.TxOperation{Verb: objects.VerbDelete, Request: l.request(obj)}
}

func (l *lab) check(obj registry.Object, version string) objects.TxOperation {
	return objects.TxOperation{Verb: objects.VerbCheck, Request: l.request(obj), ResourceVersion: version}
}

func (l *lab) patch(obj registry.Object, data string) objects.TxOperation {
	return objects.TxOperation{Verb: objects.VerbPatch, Request: l.request(obj), Patch: objects.Patch{Type: types.MergePatchType, Data: []byte(data)}}
}

func (l *lab) apply(obj registry.Object, data string) objects.TxOperation {
	return objects.TxOperation{Verb: objects.VerbApply, Request: l.request(obj), Patch: objects.Patch{Type: types.ApplyYAMLPatchType, Data: []byte(data)}}
}

func (l *lab) transact(operations ...objects.TxOperation) ([]objects.TxResult, uint64, error) {
	return l.Objects.Transact(context.Background(), operations, false)
}

func cm(name string, data ...string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	for i := 0; i+1 < len(data); i += 2 {
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[data[i]] = data[i+1]
	}
	return m
}

func (l *lab) get(name string) *corev1.ConfigMap {
	l.t.Helper()
	got, ok := client.Get[*corev1.ConfigMap](l.Client.View(), "default", name)
	if !ok {
		l.t.Fatalf("configmap %s is not there", name)
	}
	return got
}

func (l *lab) absent(name string) {
	l.t.Helper()
	if _, ok := client.Get[*corev1.ConfigMap](l.Client.View(), "default", name); ok {
		l.t.Errorf("configmap %s is there", name)
	}
}

func TestTransactionDoesAllAtOneInstant(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"old", "patched", "applied", "updated", "same"} {
		mustCreate(t, l, cm(name, "k", "v"))
	}
	updated := l.get("updated").DeepCopy()
	updated.Data["k"] = "w"
	same := l.get("same").DeepCopy()
	before := l.Store.View().Revision()
	watcher, err := l.Store.Watch("/", before)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}}
	inside := cm("inside")
	inside.Namespace = "fresh"
	results, revision, err := l.transact(
		l.create(ns), l.create(inside), // in a namespace that the same transaction makes
		l.create(cm("new", "a", "b")), l.update(updated), l.patch(cm("patched"), `{"data":{"k":"p"}}`),
		l.apply(cm("applied"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {more: x}"),
		l.apply(cm("made"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\ndata: {k: v}"),
		l.remove(cm("old")), l.check(cm("never"), ""), l.check(cm("same"), same.ResourceVersion),
	)
	if err != nil {
		t.Fatal(err)
	}
	if revision != l.Store.View().Revision() {
		t.Errorf("revision %d, the store is at %d", revision, l.Store.View().Revision())
	}
	events, progress, err := watcher.Next(t.Context())
	if err != nil || progress != revision || uint64(len(events)) != revision-before {
		t.Errorf("a watcher saw %d events up to %d, %v; want one instant up to %d", len(events), progress, err, revision)
	}
	l.absent("old")
	for name, want := range map[string]map[string]string{
		"new": {"a": "b"}, "updated": {"k": "w"}, "patched": {"k": "p"}, "applied": {"k": "v", "more": "x"}, "made": {"k": "v"}, "same": {"k": "v"},
	} {
		if got := l.get(name).Data; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for i, name := range map[int]string{2: "new", 3: "updated", 4: "patched", 5: "applied", 6: "made"} {
		if got := results[i].Object.GetResourceVersion(); got != l.get(name).ResourceVersion {
			t.Errorf("%s was answered at %s and is at %s", name, got, l.get(name).ResourceVersion)
		}
	}
	if !results[2].Created || results[3].Created || !results[6].Created || results[5].Created || !results[7].Gone || results[8].Object != nil {
		t.Errorf("%+v", results)
	}
	if l.get("same").ResourceVersion != same.ResourceVersion {
		t.Error("an object that was only checked was written")
	}
}

func mustCreate(t testing.TB, l *lab, obj *corev1.ConfigMap) {
	t.Helper()
	if _, err := client.Create(context.Background(), l.Client, obj); err != nil {
		t.Fatal(err)
	}
}

func TestTransactionDoesNothingWhenOneOperationCannot(t *testing.T) {
	l := newLab(t)
	mustCreate(t, l, cm("there", "k", "v"))
	stale := l.get("there").DeepCopy()
	if _, _, err := l.transact(l.patch(cm("there"), `{"data":{"k":"w"}}`)); err != nil {
		t.Fatal(err)
	}
	stale.Data["k"] = "stale"
	replicas := int32(1)
	bad := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bad"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas}}
	elsewhere := cm("x")
	elsewhere.Namespace = "nowhere"
	port := func(name string, ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	big := cm("big", "k", strings.Repeat("x", 900<<10))
	for name, x := range map[string]struct {
		operations []objects.TxOperation
		failed     int
		is         func(error) bool
		says       string
	}{
		"exists":                     {[]objects.TxOperation{l.create(cm("n")), l.create(cm("there"))}, 1, apierrors.IsAlreadyExists, "already exists"},
		"invalid":                    {[]objects.TxOperation{l.create(cm("n")), l.create(bad)}, 1, apierrors.IsInvalid, "spec.selector"},
		"no namespace":               {[]objects.TxOperation{l.create(elsewhere), l.create(cm("n"))}, 0, apierrors.IsNotFound, "nowhere"},
		"stale update":               {[]objects.TxOperation{l.create(cm("n")), l.update(stale)}, 1, apierrors.IsConflict, "has been modified"},
		"not there":                  {[]objects.TxOperation{l.create(cm("n")), l.patch(cm("missing"), `{}`)}, 1, apierrors.IsNotFound, "missing"},
		"delete of nothing":          {[]objects.TxOperation{l.create(cm("n")), l.remove(cm("missing"))}, 1, apierrors.IsNotFound, "missing"},
		"check of absence":           {[]objects.TxOperation{l.create(cm("n")), l.check(cm("there"), "")}, 1, apierrors.IsAlreadyExists, "there"},
		"check of version":           {[]objects.TxOperation{l.create(cm("n")), l.check(cm("there"), stale.ResourceVersion)}, 1, apierrors.IsConflict, "the check requires " + stale.ResourceVersion},
		"check of nonsense":          {[]objects.TxOperation{l.create(cm("n")), l.check(cm("there"), "soon")}, 1, apierrors.IsBadRequest, "resourceVersion"},
		"one object twice":           {[]objects.TxOperation{l.create(cm("n")), l.patch(cm("there"), `{"data":{"k":"1"}}`), l.remove(cm("there"))}, 2, apierrors.IsBadRequest, "operations[1]"},
		"an object made and checked": {[]objects.TxOperation{l.create(cm("n")), l.check(cm("n"), "1")}, 1, apierrors.IsConflict, "the check requires 1"},
		"an address twice":           {[]objects.TxOperation{l.create(port("a", "10.96.7.7")), l.create(port("b", "10.96.7.7"))}, 1, apierrors.IsInvalid, "10.96.7.7"},
		"too large":                  {[]objects.TxOperation{l.create(big), l.create(cm("big2", "k", big.Data["k"])), l.create(cm("big3", "k", big.Data["k"]))}, -1, apierrors.IsRequestEntityTooLargeError, "too large"},
	} {
		before := l.Store.View().Revision()
		_, _, err := l.transact(x.operations...)
		if err == nil || !strings.Contains(err.Error(), x.says) || !x.is(err) && !x.is(errors.Unwrap(err)) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var at *objects.TxError
		if errors.As(err, &at) != (x.failed >= 0) || at != nil && at.Operation != x.failed {
			t.Errorf("%s: %v, want operation %d", name, err, x.failed)
		}
		if at != nil {
			if status := at.Status(); !strings.HasPrefix(status.Message, fmt.Sprintf("operations[%d]: ", x.failed)) || status.Code == 0 {
				t.Errorf("%s: the status is %+v", name, status)
			}
		}
		if now := l.Store.View().Revision(); now != before {
			t.Errorf("%s: something was stored", name)
		}
	}
	l.absent("n")
	many := make([]objects.TxOperation, objects.MaxTransactionOperations+1)
	for i := range many {
		many[i] = l.create(cm(fmt.Sprint("many-", i)))
	}
	if _, _, err := l.transact(many...); !apierrors.IsRequestEntityTooLargeError(err) || !strings.Contains(err.Error(), "1001") {
		t.Errorf("1,001 operations: %v", err)
	}
	if _, _, err := l.transact(many[:1000]...); err != nil {
		t.Errorf("1,000 operations: %v", err)
	}
	if _, _, err := l.transact(); !apierrors.IsBadRequest(err) {
		t.Errorf("no operation: %v", err)
	}
}

func TestTransactionDryRunStoresNothing(t *testing.T) {
	l := newLab(t)
	mustCreate(t, l, cm("there", "k", "v"))
	before, version := l.Store.View().Revision(), l.get("there").ResourceVersion
	results, _, err := l.Objects.Transact(t.Context(), []objects.TxOperation{
		l.create(cm("new")), l.patch(cm("there"), `{"data":{"k":"w"}}`), l.check(cm("new2"), ""),
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	patched := results[1].Object.(*corev1.ConfigMap)
	if patched.Data["k"] != "w" || patched.ResourceVersion != version || results[0].Object.GetResourceVersion() != "" || results[0].Object.GetUID() == "" {
		t.Errorf("%+v", results)
	}
	if l.Store.View().Revision() != before {
		t.Error("a dry run stored something")
	}
	if _, _, err := l.Objects.Transact(t.Context(), []objects.TxOperation{l.create(cm("there"))}, true); !apierrors.IsAlreadyExists(errors.Unwrap(err)) {
		t.Errorf("a dry run that cannot: %v", err)
	}
	large := make([]objects.TxOperation, 3)
	for i := range large {
		large[i] = l.create(cm(fmt.Sprint("large", i), "k", strings.Repeat("x", kv.MaxCommandBytes/3)))
	}
	if _, _, err := l.Objects.Transact(t.Context(), large, true); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a dry run of what is too large: %v", err)
	}
}

// TestConcurrentTransactionsKeepTheSum transfers amounts between accounts concurrently, while others read: the sum in any one view
// never changes, and no transfer is lost.
func TestConcurrentTransactionsKeepTheSum(t *testing.T) {
	l := newLab(t)
	const accounts, movers, moves = 6, 8, 40
	for i := range accounts {
		mustCreate(t, l, cm(fmt.Sprint("account-", i), "amount", "100"))
	}
	sum := func(v client.View) (total int) {
		client.Each(v, "default", func(m *corev1.ConfigMap) bool {
			var n int
			if _, err := fmt.Sscan(m.Data["amount"], &n); err == nil {
				total += n
			}
			return true
		})
		return total
	}
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if got := sum(l.Client.View()); got != 100*accounts {
					t.Errorf("a view shows a sum of %d", got)
					return
				}
			}
		}
	})
	for i := range movers {
		r := rand.New(rand.NewSource(int64(i)))
		writers.Go(func() {
			for range moves {
				for {
					a := r.Intn(accounts)
					b := (a + 1 + r.Intn(accounts-1)) % accounts
					from, to := l.get(fmt.Sprint("account-", a)).DeepCopy(), l.get(fmt.Sprint("account-", b)).DeepCopy()
					add(from, -1)
					add(to, 1)
					_, _, err := l.transact(l.update(from), l.update(to))
					if err == nil {
						break
					}
					if !apierrors.IsConflict(errors.Unwrap(err)) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if got := sum(l.Client.View()); got != 100*accounts {
		t.Errorf("the sum is %d", got)
	}
}

func add(m *corev1.ConfigMap, d int) {
	var n int
	fmt.Sscan(m.Data["amount"], &n)
	m.Data["amount"] = fmt.Sprint(n + d)
}

// TestUnconditionalTransactionsLoseNothing: patches are prepared again until they go through.
func TestUnconditionalTransactionsLoseNothing(t *testing.T) {
	l := newLab(t)
	mustCreate(t, l, cm("a"))
	mustCreate(t, l, cm("b"))
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			patch := fmt.Sprintf(`{"data":{"k%d":"v"}}`, i)
			if _, _, err := l.transact(l.patch(cm("a"), patch), l.patch(cm("b"), patch)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a, b := len(l.get("a").Data), len(l.get("b").Data); a != 30 || b != 30 {
		t.Errorf("%d and %d of 30 patches are there", a, b)
	}
}

// TestManagedFieldsAreBroughtBack: the object is as it was, including the owners of its fields.
func TestManagedFieldsAreBroughtBack(t *testing.T) {
	l := newLab(t)
	applied := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: "
	if _, _, err := l.transact(l.apply(cm("a"), applied+"one}")); err != nil {
		t.Fatal(err)
	}
	before := l.get("a").DeepCopy()
	if _, _, err := l.transact(l.apply(cm("a"), applied+"two}")); err != nil {
		t.Fatal(err)
	}
	back := before.DeepCopy()
	back.ResourceVersion = ""
	op := l.update(back)
	op.KeepManagedFields = true
	if _, _, err := l.transact(op); err != nil {
		t.Fatal(err)
	}
	got := l.get("a")
	if got.Data["k"] != "one" || len(got.ManagedFields) != 1 || got.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("%+v", got)
	}
	if _, _, err := l.transact(l.apply(cm("a"), applied+"three}")); err != nil {
		t.Errorf("its manager cannot apply again: %v", err)
	}
}

func TestSecretsOfATransactionAreSealed(t *testing.T) {
	l := newLab(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, StringData: map[string]string{"word": "hush-hush"}}
	if _, _, err := l.transact(l.create(secret), l.create(cm("n"))); err != nil {
		t.Fatal(err)
	}
	l.Store.View().Range("/", kv.PrefixEnd("/"), func(v *kv.Version) bool {
		if strings.Contains(string(v.Value), "hush-hush") {
			t.Errorf("%s holds the secret in the clear", v.Key)
		}
		return true
	})
}

func BenchmarkTransact(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			operations := make([]objects.TxOperation, n)
			for i := range operations {
				mustCreate(b, l, cm(fmt.Sprint("bench-", i), "k", "v"))
			}
			b.ReportAllocs()
			for round := 0; b.Loop(); round++ {
				for i := range operations {
					operations[i] = l.patch(cm(fmt.Sprint("bench-", i)), fmt.Sprintf(`{"data":{"k":"%d"}}`, round))
				}
				if _, _, err := l.transact(operations...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
