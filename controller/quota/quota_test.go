package quota_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	counters "github.com/kontiki/kontiki/api/quota"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/quota"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

const ns = "default"

var ctx = context.Background()

// lab is an API with the controller.
type lab struct {
	*harness.Harness
	t   *testing.T
	now func() time.Time // nil means the wall clock
}

func newLab(t *testing.T) *lab {
	l := &lab{Harness: harness.New(t), t: t}
	l.control()
	return l
}

// control runs the controller until the test ends or the returned function is called.
func (l *lab) control() (stop func()) {
	return controllertest.Run(l.t, l.Client, quota.New(quota.Config{Client: l.Client, Counters: counters.NewCounters(l.Objects), StuckAt: counters.StuckAt, Now: l.now}))
}

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// limit creates a quota, and waits until it shows what exists.
func (l *lab) limit(name string, hard corev1.ResourceList, change ...func(*corev1.ResourceQuota)) {
	l.t.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	for _, c := range change {
		c(q)
	}
	if _, err := client.Create(ctx, l.Client, q); err != nil {
		l.t.Fatal(err)
	}
	controllertest.Await(l.t, l.Client, ns, name, "its status", func(q *corev1.ResourceQuota) bool {
		return len(q.Status.Used) == len(hard) && len(q.Status.Hard) == len(hard)
	})
}

// shows waits until the status of a quota has the values.
func (l *lab) shows(name string, want ...string) {
	l.t.Helper()
	controllertest.Await(l.t, l.Client, ns, name, fmt.Sprint("used: ", want), func(q *corev1.ResourceQuota) bool {
		for i := 0; i < len(want); i += 2 {
			if used := q.Status.Used[corev1.ResourceName(want[i])]; used.String() != want[i+1] {
				return false
			}
		}
		return true
	})
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func requests(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(pairs...) }
}

func limits(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = list(pairs...) }
}

func (l *lab) create(obj client.Object) error {
	_, err := client.Create(ctx, l.Client, obj)
	return err
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) refused(err error, text string) {
	l.t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), text) {
		l.t.Errorf("%v, want: %s", err, text)
	}
}

// TestMessages: a quota refuses in upstream's words what would exceed it.
func TestMessages(t *testing.T) {
	l := newLab(t)
	l.limit("q", list("pods", "2", "requests.cpu", "1", "limits.memory", "100Mi", "count/configmaps", "1", "services.nodeports", "1", "requests.example.com/gpu", "1"))
	l.must(l.create(pod("a", requests("cpu", "400m"), limits("memory", "60Mi", "example.com/gpu", "1"), func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
	})))
	l.refused(l.create(pod("b", requests("cpu", "700m"), limits("memory", "50Mi"))),
		`pods "b" is forbidden: exceeded quota: q, requested: limits.memory=50Mi,requests.cpu=700m, used: limits.memory=60Mi,requests.cpu=400m, limited: limits.memory=100Mi,requests.cpu=1`)
	l.refused(l.create(pod("b")), `pods "b" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c`)
	l.refused(l.create(pod("b", requests("cpu", "1m", "example.com/gpu", "1"), limits("memory", "1", "example.com/gpu", "1"))),
		"exceeded quota: q, requested: requests.example.com/gpu=1, used: requests.example.com/gpu=1, limited: requests.example.com/gpu=1")
	l.must(l.create(pod("b", requests("cpu", "1m"), limits("memory", "1Mi"))))
	l.refused(l.create(pod("c", requests("cpu", "1m"), limits("memory", "1Mi"))), "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2")
	cm := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	}
	l.must(l.create(cm("a")))
	l.refused(l.create(cm("b")), `configmaps "b" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1`)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 2}}}}
	made, err := client.Create(ctx, l.Client, service)
	l.must(err)
	made = made.DeepCopy()
	made.Spec.Type = corev1.ServiceTypeNodePort
	_, err = client.Update(ctx, l.Client, made)
	l.refused(err, `services "s" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1`)
	l.shows("q", "pods", "2", "requests.cpu", "401m", "limits.memory", "61Mi", "count/configmaps", "1", "services.nodeports", "0", "requests.example.com/gpu", "1")
}

// TestWhatIsFreed: removed pods and pods that ended make room; objects that still exist count as such; resizes count their difference.
func TestWhatIsFreed(t *testing.T) {
	l := newLab(t)
	l.limit("q", list("pods", "2", "cpu", "1", "count/pods", "3"))
	for _, name := range []string{"a", "b"} {
		l.must(l.create(pod(name, requests("cpu", "500m"), limits("cpu", "2"))))
	}
	l.refused(l.create(pod("c", requests("cpu", "1m"))), "requested: cpu=1m,pods=1, used: cpu=1,pods=2, limited: cpu=1,pods=2")
	view := l.Client.View()
	a, _ := client.Get[*corev1.Pod](view, ns, "a")
	a = a.DeepCopy()
	a.Status.Phase = corev1.PodSucceeded
	_, err := client.UpdateStatus(ctx, l.Client, a)
	l.must(err)
	l.shows("q", "pods", "1", "cpu", "500m", "count/pods", "2")
	resize := func(cpu string) error {
		b, _ := client.Get[*corev1.Pod](l.Client.View(), ns, "b")
		b = b.DeepCopy()
		b.Spec.Containers[0].Resources.Requests = list("cpu", cpu)
		_, err := client.UpdateSubresource(ctx, l.Client, b, "resize")
		return err
	}
	l.must(resize("900m"))
	l.refused(resize("1001m"), "exceeded quota: q, requested: cpu=101m, used: cpu=900m, limited: cpu=1")
	l.refused(l.create(pod("c", requests("cpu", "101m"))), "requested: cpu=101m, used: cpu=900m")
	l.must(resize("500m"))
	l.refused(l.create(pod("c", requests("cpu", "501m"))), "requested: cpu=501m, used: cpu=500m")
	l.must(l.create(pod("c", requests("cpu", "500m"))))
	l.refused(l.create(pod("d", requests("cpu", "0"))), "requested: count/pods=1,pods=1, used: count/pods=3,pods=2")
	l.must(l.Client.Delete(ctx, pod("a"), client.Grace(0)))
	l.must(l.Client.Delete(ctx, pod("c"), client.Grace(0)))
	l.shows("q", "pods", "1", "cpu", "500m", "count/pods", "1")
	l.must(l.Client.Delete(ctx, pod("b"), client.Grace(0)))
	l.shows("q", "pods", "0", "cpu", "0", "count/pods", "0")
}

// TestStorage: claims count by their class too, and their growth by the difference.
func TestStorage(t *testing.T) {
	l := newLab(t)
	l.limit("q", list("requests.storage", "10Gi", "fast.storageclass.storage.k8s.io/requests.storage", "4Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims", "2", "persistentvolumeclaims", "3"))
	class := "fast"
	claim := func(name string, class *string, size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)}}}
	}
	a, err := client.Create(ctx, l.Client, claim("a", &class, "3Gi"))
	l.must(err)
	l.refused(l.create(claim("b", &class, "2Gi")), "exceeded quota: q, requested: fast.storageclass.storage.k8s.io/requests.storage=2Gi, used: fast.storageclass.storage.k8s.io/requests.storage=3Gi, limited: fast.storageclass.storage.k8s.io/requests.storage=4Gi")
	l.must(l.create(claim("b", nil, "6Gi")))
	a = a.DeepCopy()
	a.Status.Phase = corev1.ClaimBound
	a, err = client.UpdateStatus(ctx, l.Client, a)
	l.must(err)
	grow := func(size string) error {
		a = a.DeepCopy()
		a.Spec.Resources.Requests = list("storage", size)
		a.ResourceVersion = ""
		_, err := client.Update(ctx, l.Client, a)
		return err
	}
	if _, err := client.Create(ctx, l.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: "x/y", AllowVolumeExpansion: new(true)}); err != nil {
		t.Fatal(err)
	}
	l.refused(grow("5Gi"), "requested: fast.storageclass.storage.k8s.io/requests.storage=2Gi,requests.storage=2Gi, used: fast.storageclass.storage.k8s.io/requests.storage=3Gi,requests.storage=9Gi")
	l.must(grow("4Gi"))
	l.shows("q", "requests.storage", "10Gi", "fast.storageclass.storage.k8s.io/requests.storage", "4Gi", "persistentvolumeclaims", "2", "fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1")
}

// TestScopes: a quota counts only the pods in its scopes.
func TestScopes(t *testing.T) {
	l := newLab(t)
	scoped := func(scopes ...corev1.ResourceQuotaScope) func(*corev1.ResourceQuota) {
		return func(q *corev1.ResourceQuota) { q.Spec.Scopes = scopes }
	}
	l.limit("besteffort", list("pods", "1"), scoped(corev1.ResourceQuotaScopeBestEffort))
	l.limit("notbesteffort", list("pods", "9", "cpu", "2"), scoped(corev1.ResourceQuotaScopeNotBestEffort))
	l.limit("terminating", list("pods", "1"), scoped(corev1.ResourceQuotaScopeTerminating))
	l.limit("critical", list("pods", "1"), func(q *corev1.ResourceQuota) {
		q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{
			ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"system-node-critical"}}}}
	})
	l.limit("affine", list("pods", "0"), scoped(corev1.ResourceQuotaScopeCrossNamespacePodAffinity))
	l.must(l.create(pod("a")))
	l.refused(l.create(pod("b")), "exceeded quota: besteffort, requested: pods=1, used: pods=1, limited: pods=1")
	deadline := func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64); *p.Spec.ActiveDeadlineSeconds = 60 }
	cpu := requests("cpu", "1")
	l.must(l.create(pod("c", cpu)))
	l.must(l.create(pod("d", cpu, deadline)))
	l.refused(l.create(pod("e", requests("cpu", "1m"), deadline)), "exceeded quota: notbesteffort, requested: cpu=1m, used: cpu=2")
	c, _ := client.Get[*corev1.Pod](l.Client.View(), ns, "c")
	c = c.DeepCopy()
	deadline(c)
	_, err := client.Update(ctx, l.Client, c)
	l.refused(err, "exceeded quota: terminating, requested: pods=1, used: pods=1, limited: pods=1")
	critical := func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }
	zero := requests("cpu", "0", "memory", "1")
	l.must(l.create(pod("f", zero, critical)))
	l.refused(l.create(pod("g", zero, critical)), "exceeded quota: critical, requested: pods=1, used: pods=1, limited: pods=1")
	l.refused(l.create(pod("h", zero, func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: "x", Namespaces: []string{"other"}, LabelSelector: &metav1.LabelSelector{}}}}}
	})), "exceeded quota: affine, requested: pods=1, used: pods=0, limited: pods=0")
	l.shows("besteffort", "pods", "1")
	l.shows("notbesteffort", "pods", "3", "cpu", "2")
	l.shows("terminating", "pods", "1")
	l.shows("critical", "pods", "1")
}

// TestParallelCreates: of a hundred creations at once exactly as many succeed as fit.
func TestParallelCreates(t *testing.T) {
	l := newLab(t)
	l.limit("q", list("pods", "37", "count/configmaps", "11"))
	var group sync.WaitGroup
	var mu sync.Mutex
	stored := map[string]int{}
	for i := range 100 {
		for kind, obj := range map[string]client.Object{
			"pods":       pod(fmt.Sprint("p", i)),
			"configmaps": &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("c", i)}},
		} {
			group.Go(func() {
				err := l.create(obj)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					stored[kind]++
				} else if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota") {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	if stored["pods"] != 37 || stored["configmaps"] != 11 {
		t.Errorf("stored %v", stored)
	}
	l.shows("q", "pods", "37", "count/configmaps", "11")
}

// TestTransactions: the operations of a transaction are charged together.
func TestTransactions(t *testing.T) {
	l := newLab(t)
	l.limit("q", list("pods", "3", "cpu", "1"))
	l.must(l.create(pod("old", requests("cpu", "500m"))))
	many := func(n int, cpu string) (ops []objects.TxOperation) {
		for i := range n {
			ops = append(ops, l.operation(objects.VerbCreate, pod(fmt.Sprint("p", i), requests("cpu", cpu))))
		}
		return ops
	}
	_, _, err := l.Objects.Transact(ctx, many(3, "1m"), false)
	l.refused(err, "exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3")
	if failed := (*objects.TxError)(nil); !errors.As(err, &failed) || failed.Operation != 2 {
		t.Errorf("%v", err)
	}
	_, _, err = l.Objects.Transact(ctx, many(2, "300m"), false)
	l.refused(err, "requested: cpu=300m, used: cpu=800m, limited: cpu=1")
	_, _, err = l.Objects.Transact(ctx, append([]objects.TxOperation{l.operation(objects.VerbDelete, pod("old"))}, many(3, "300m")...), false)
	l.must(err)
	l.shows("q", "pods", "3", "cpu", "900m")
}

// TestAQuotaAndItsObjectsInOneTransaction: where the transaction creates the namespace too, the quota counts what the transaction creates
// before and after it; in a namespace that exists, what is there must be counted first.
func TestAQuotaAndItsObjectsInOneTransaction(t *testing.T) {
	l := newLab(t)
	in := func(namespace string, obj client.Object) objects.TxOperation {
		obj.SetNamespace(namespace)
		return l.operation(objects.VerbCreate, obj)
	}
	config := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	tenant := func(namespace string, more int) []objects.TxOperation {
		ops := []objects.TxOperation{in("", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}), in(namespace, config("before")),
			in(namespace, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: list("configmaps", "3", "resourcequotas", "1")}})}
		for i := range more {
			ops = append(ops, in(namespace, config(fmt.Sprint("c", i))))
		}
		return ops
	}
	_, _, err := l.Objects.Transact(ctx, tenant("tenant", 3), false)
	l.refused(err, "exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: configmaps=3")
	_, _, err = l.Objects.Transact(ctx, tenant("tenant", 2), false)
	l.must(err)
	full := func() error {
		_, err := client.Create(ctx, l.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "tenant", Name: "more"}})
		return err
	}
	l.refused(full(), "exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: configmaps=3")
	controllertest.Await(t, l.Client, "tenant", "q", "its status", func(q *corev1.ResourceQuota) bool {
		used := q.Status.Used["configmaps"]
		quotas := q.Status.Used["resourcequotas"]
		return used.Value() == 3 && quotas.Value() == 1
	})
	l.refused(full(), "used: configmaps=3") // the controller has found nothing to correct

	_, _, err = l.Objects.Transact(ctx, tenant(ns, 1)[2:], false)
	l.refused(err, "status unknown for quota: q, resources: configmaps")
}

// TestLimitedResources can be consumed only where a quota covers them.
func TestLimitedResources(t *testing.T) {
	l := &lab{Harness: harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Admission.Configuration = []byte(`{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [{"name": "ResourceQuota", "configuration": {
			"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration", "limitedResources": [
				{"resource": "pods", "matchContains": ["cpu"]},
				{"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]},
				{"apiGroup": "apps", "resource": "deployments", "matchContains": ["count/"]}]}}]}`)
	}), t: t}
	l.control()
	l.must(l.create(pod("free")))
	l.refused(l.create(pod("a", requests("cpu", "1m"))), "insufficient quota to consume: cpu,requests.cpu")
	l.limit("memory", list("requests.memory", "1Gi"))
	l.refused(l.create(pod("a", requests("cpu", "1m", "memory", "1Mi"))), "insufficient quota to consume: cpu,requests.cpu")
	l.limit("cpu", list("requests.cpu", "1", "cpu", "1"))
	l.must(l.create(pod("a", requests("cpu", "1m", "memory", "1Mi"))))
	l.refused(l.create(pod("b", requests("cpu", "1", "memory", "1Mi"))), "exceeded quota: cpu")

	deployment := func() error {
		_, err := client.Create(ctx, l.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "d"}, Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("x").Spec}}})
		return err
	}
	l.refused(deployment(), "insufficient quota to consume: count/deployments.apps")
	l.limit("deployments", list("count/deployments.apps", "1"))
	l.must(deployment())
	l.must(l.Client.Delete(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "d"}}))

	critical := func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }
	_, err := client.Create(ctx, l.Client, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000})
	l.must(err)
	l.refused(l.create(pod("c", requests("cpu", "1m", "memory", "1Mi"), critical)), "insufficient quota to match these scopes: [{PriorityClass In [system-node-critical]}]")
	l.limit("critical", list("pods", "1"), func(q *corev1.ResourceQuota) {
		q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
			{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"system-node-critical"}}}}
	})
	l.must(l.create(pod("c", requests("cpu", "1m", "memory", "1Mi"), critical)))

	for text, want := range map[string]string{
		`{"apiVersion": "v1", "kind": "Configuration"}`:                                                                                                                                                        "is not a ResourceQuotaConfiguration",
		`{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration", "limitedResources": [{}]}`:                                                                                         "Required value",
		`{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration", "limited": []}`:                                                                                                    "unknown field",
		`{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration", "limitedResources": [{"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "Maybe"}]}]}`: "matchScopes",
	} {
		if _, err := counters.ParseConfiguration([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestAQuotaOfTheSameName starts from what exists, whatever the one before it had counted.
func TestAQuotaOfTheSameName(t *testing.T) {
	l := newLab(t)
	l.limit("q", list("pods", "3"))
	l.must(l.create(pod("a")))
	l.must(l.Client.Delete(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "q"}}))
	l.must(l.create(pod("b")))
	l.must(l.Client.Delete(ctx, pod("a"), client.Grace(0)))
	l.must(l.create(pod("c")))
	l.limit("q", list("pods", "3"))
	l.shows("q", "pods", "2")
	l.must(l.create(pod("d")))
	l.refused(l.create(pod("e")), "used: pods=3")
}

// between does something before commands reach the store.
type between struct {
	objects.Store
	mu   sync.Mutex
	once map[string]func() // by a key of the command
}

func (b *between) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	for _, op := range c.Ops {
		b.mu.Lock()
		first := b.once[op.Key]
		delete(b.once, op.Key)
		b.mu.Unlock()
		if first != nil {
			first()
		}
	}
	return b.Store.Propose(ctx, c)
}

// TestWritesThatDidNotKnowTheQuota: a write that was prepared before a quota was created, changed or counted is prepared again.
func TestWritesThatDidNotKnowTheQuota(t *testing.T) {
	b := &between{once: map[string]func(){}}
	l := &lab{Harness: harness.NewOver(t, func(s objects.Store) objects.Store { b.Store = s; return b }), t: t}
	l.control()
	before := func(name string, do func()) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.once["/core/pods/"+ns+"/"+name] = do
	}
	before("late", func() { l.limit("q", list("pods", "0")) })
	l.refused(l.create(pod("late")), "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0")
	raise := func(n string) {
		_, err := client.Update(ctx, l.Client, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: list("pods", n)}})
		l.must(err)
	}
	raise("5")
	l.must(l.create(pod("a")))
	before("b", func() { raise("1") })
	l.refused(l.create(pod("b")), "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1")
	before("a", func() { l.limit("other", list("pods", "7", "count/pods", "7")) })
	l.must(l.Client.Delete(ctx, pod("a"), client.Grace(0)))
	l.shows("q", "pods", "0")
	l.shows("other", "pods", "0", "count/pods", "0")
}

// TestAQuotaThatIsNotCounted: without the controller a quota does not know what exists, and refuses increases and nothing else.
func TestAQuotaThatIsNotCounted(t *testing.T) {
	l := &lab{Harness: harness.New(t), t: t}
	l.must(l.create(pod("a")))
	l.must(l.create(pod("b")))
	l.must(l.create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: list("pods", "1")}}))
	l.refused(l.create(pod("c")), "status unknown for quota: q, resources: pods")
	l.must(l.Client.Delete(ctx, pod("a"), client.Grace(0)))
	l.must(l.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "a"}}))
	l.control()
	l.refused(l.create(pod("c")), "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1")
	l.shows("q", "pods", "1")
}

// TestStuckPods: a pod that has not ended long after it was deleted takes no room from others; whatever becomes of it, it is not
// subtracted twice.
func TestStuckPods(t *testing.T) {
	later := func() time.Time { return time.Now().Add(time.Hour) }
	l := &lab{Harness: harness.New(t), t: t, now: later}
	stop := l.control()
	l.limit("q", list("pods", "3", "cpu", "1", "count/pods", "9"))
	for _, name := range []string{"a", "b", "c"} {
		l.must(l.create(pod(name, requests("cpu", "300m"), func(p *corev1.Pod) { p.Spec.NodeName = "lost" })))
	}
	l.refused(l.create(pod("d", requests("cpu", "1m"))), "requested: pods=1, used: pods=3")
	for _, name := range []string{"a", "b"} {
		l.must(l.Client.Delete(ctx, pod(name), client.Grace(30)))
	}
	l.shows("q", "pods", "1", "cpu", "300m", "count/pods", "3")
	l.must(l.create(pod("d", requests("cpu", "700m"))))
	stop()
	l.control() // the correction knows what has been released
	a, _ := client.Get[*corev1.Pod](l.Client.View(), ns, "a")
	a = a.DeepCopy()
	a.Status.Phase = corev1.PodFailed // it ends after all
	_, err := client.UpdateStatus(ctx, l.Client, a)
	l.must(err)
	l.must(l.Client.Delete(ctx, pod("b"), client.Grace(0)))
	l.shows("q", "pods", "2", "cpu", "1", "count/pods", "3")
	l.must(l.Client.Delete(ctx, pod("a"), client.Grace(0)))
	l.shows("q", "pods", "2", "cpu", "1", "count/pods", "2")
	if n := l.Store.View().Count("/quota/"+ns+"/.stuck/", "/quota/"+ns+"/.stuck0"); n != 0 {
		t.Errorf("%d keys of pods that are gone", n)
	}
	// A quota that is created now counts as if it had been there.
	l.must(l.Client.Delete(ctx, pod("c"), client.Grace(30)))
	l.shows("q", "pods", "1")
	l.limit("later", list("pods", "3", "count/pods", "3"))
	l.shows("later", "pods", "1", "count/pods", "2")
}
