package quota_test

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	counters "github.com/kontiki/kontiki/api/quota"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

// TestQuotasAreCountedWhileWritesGoOn: quotas are created, changed, removed and created again under writes, and the controller starts
// again; in the end every counter equals what exists, and at no time was more stored than a counted quota allows.
func TestQuotasAreCountedWhileWritesGoOn(t *testing.T) {
	for seed := range int64(4) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { churn(t, seed) })
	}
}

func churn(t *testing.T, seed int64) {
	l := &lab{Harness: harness.New(t), t: t, now: func() time.Time { return time.Now().Add(time.Hour) }}
	stop := l.control()
	var writers, manager sync.WaitGroup
	done := make(chan struct{})
	for w := range 4 {
		r := rand.New(rand.NewSource(seed*100 + int64(w)))
		writers.Go(func() {
			for range 120 {
				l.write(r)
			}
		})
	}
	manager.Go(func() {
		r := rand.New(rand.NewSource(seed * 1000))
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			name := fmt.Sprint("q", r.Intn(3))
			q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hardOf(r)}}
			switch r.Intn(6) {
			case 0:
				_ = l.Client.Delete(ctx, q)
			case 1:
				stop()
				stop = l.control()
			case 2:
				q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotBestEffort}
				q.Spec.Hard = list("pods", "7", "cpu", "3")
				_ = l.create(q)
			default:
				if l.create(q) != nil {
					_, _ = client.Update(ctx, l.Client, q)
				}
			}
		}
	})
	writers.Wait()
	close(done)
	manager.Wait()
	counts := counters.NewCounters(l.Objects)
	controllertest.AwaitView(t, l.Client, []client.Object{&corev1.ResourceQuota{}, &corev1.Pod{}}, func(v client.View) string {
		for _, q := range client.List[*corev1.ResourceQuota](v, ns, nil) {
			want := exists(v, q)
			status, counted := counts.Status(v.View, q)
			if !counted {
				return q.Name + " is not counted"
			}
			for name := range q.Spec.Hard {
				have, shown := status.Used[name], q.Status.Used[name]
				if have.Cmp(want[name]) != 0 {
					w := want[name]
					return fmt.Sprintf("%s counts %s=%s, but %s exist", q.Name, name, have.String(), w.String()) // or a stuck pod will be released
				}
				if shown.Cmp(have) != 0 {
					return fmt.Sprintf("%s shows %s=%s, it is %s", q.Name, name, shown.String(), have.String())
				}
			}
		}
		return ""
	})
	for _, q := range client.List[*corev1.ResourceQuota](l.Client.View(), ns, nil) {
		l.must(l.Client.Delete(ctx, q))
	}
	l.must(counts.Mend(ctx, ns))
	if n := l.Store.View().Count("/quota/", "/quota0"); n != 0 {
		t.Errorf("%d keys are left of quotas that are gone", n)
	}
}

func hardOf(r *rand.Rand) corev1.ResourceList {
	hard := list("pods", fmt.Sprint(3+r.Intn(9)), "cpu", fmt.Sprint(1+r.Intn(5)), "count/pods", "12", "services", "4", "services.nodeports", "3", "count/configmaps", "5", "count/deployments.apps", "2")
	names := slices.Sorted(maps.Keys(hard))
	for _, name := range names {
		if len(hard) > 1 && r.Intn(2) == 0 {
			delete(hard, name)
		}
	}
	return hard
}

// write makes one random write. Most errors are possible and mean that nothing was stored.
func (l *lab) write(r *rand.Rand) {
	name := fmt.Sprint("x", r.Intn(12))
	existing, found := client.Get[*corev1.Pod](l.Client.View(), ns, name)
	switch r.Intn(10) {
	case 0, 1, 2:
		p := pod(name)
		if r.Intn(3) > 0 {
			requests("cpu", fmt.Sprintf("%dm", r.Intn(900)))(p)
		}
		if r.Intn(2) == 0 {
			p.Spec.NodeName = "lost"
		}
		_ = l.create(p)
	case 3:
		_ = l.Client.Delete(ctx, pod(name), client.Grace(int64(r.Intn(2)*30)))
	case 4:
		if found {
			p := existing.DeepCopy()
			p.Status.Phase = corev1.PodFailed
			_, _ = client.UpdateStatus(ctx, l.Client, p)
		}
	case 5: // pods are resized and move into the scope of others, and services get node ports
		if found && len(existing.Spec.Containers[0].Resources.Requests) > 0 && r.Intn(2) == 0 {
			p := existing.DeepCopy()
			requests("cpu", fmt.Sprintf("%dm", 1+r.Intn(900)))(p)
			_, _ = client.UpdateSubresource(ctx, l.Client, p, "resize")
		} else if found {
			_, _ = client.Patch(ctx, l.Client, existing, types.MergePatchType, []byte(`{"spec":{"activeDeadlineSeconds":9}}`), "")
		}
		_, _ = client.Patch(ctx, l.Client, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}, types.MergePatchType, []byte(`{"spec":{"type":"NodePort"}}`), "")
	case 6:
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 1}}}}
		if l.create(service) != nil {
			if r.Intn(2) == 0 {
				_ = l.Client.Delete(ctx, service)
			} else {
				_, _ = client.Patch(ctx, l.Client, service, types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), "")
			}
		}
	case 7:
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Finalizers: []string{"x/y"}}}
		if l.create(cm) != nil {
			_ = l.Client.Delete(ctx, cm)
			_, _ = client.Patch(ctx, l.Client, cm, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), "")
		}
	default: // several at once
		var ops []objects.TxOperation
		for i := range 1 + r.Intn(3) {
			p := pod(fmt.Sprint("x", (r.Intn(4)*3+i)), requests("cpu", "200m"))
			verb := objects.VerbCreate
			if r.Intn(2) == 0 {
				verb = objects.VerbDelete
			}
			ops = append(ops, l.operation(verb, p))
		}
		_, _, _ = l.Objects.Transact(ctx, ops, false)
	}
}

func (l *lab) operation(verb objects.Verb, obj client.Object) objects.TxOperation {
	grace := int64(0)
	return objects.TxOperation{Verb: verb, Object: obj, Delete: &metav1.DeleteOptions{GracePeriodSeconds: &grace}, Request: &objects.Request{
		User: &user.DefaultInfo{Name: "tester"}, Kind: l.Client.KindOf(obj), Namespace: obj.GetNamespace(), Name: obj.GetName(), FieldManager: "tester", Trusted: true}}
}

// exists counts by itself what a quota counts.
func exists(v client.View, q *corev1.ResourceQuota) corev1.ResourceList {
	out := corev1.ResourceList{}
	add := func(name corev1.ResourceName, n resource.Quantity) {
		sum := out[name]
		sum.Add(n)
		out[name] = sum
	}
	one := resource.MustParse("1")
	for _, p := range client.List[*corev1.Pod](v, ns, nil) {
		cpu, has := p.Spec.Containers[0].Resources.Requests["cpu"]
		if len(q.Spec.Scopes) > 0 && (!has || cpu.IsZero()) {
			continue
		}
		add("count/pods", one)
		if p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp == nil { // the test's clock is far ahead
			add("pods", one)
			add("cpu", cpu)
		}
	}
	for _, s := range client.List[*corev1.Service](v, ns, nil) {
		add("services", one)
		if s.Spec.Type == corev1.ServiceTypeNodePort {
			add("services.nodeports", one)
		}
	}
	for range client.List[*corev1.ConfigMap](v, ns, nil) {
		add("count/configmaps", one)
	}
	for range client.List[*appsv1.Deployment](v, ns, nil) {
		add("count/deployments.apps", one)
	}
	return out
}
