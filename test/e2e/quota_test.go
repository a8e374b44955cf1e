package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// TestAQuotaIsNeverExceeded: a hundred creations at once, on three masters, while the leader is killed: never is more stored than the
// quota allows, the counter is what exists, and what is freed can be used again.
func TestAQuotaIsNeverExceeded(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	ctx := context.Background()
	const limit = 40
	name := corev1.ResourceName("count/configmaps")
	var before int // the ConfigMap of the cluster's CA
	eventually(t, 30*time.Second, "the namespace's ConfigMap", func() error {
		list, err := env.Set.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		if before = len(list.Items); err == nil && before == 0 {
			err = errNotYet
		}
		return err
	})
	_, err := env.Set.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{name: *resource.NewQuantity(limit, resource.DecimalSI)}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	victim, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	var clients []kontikiv1.ObjectsClient
	for _, master := range masterNames() {
		clients = append(clients, kontikiv1.NewObjectsClient(grpcTo(t, master)))
	}
	var writers sync.WaitGroup
	acked, unknown := make([]bool, 100), make([]bool, 100)
	for i := range acked {
		request := creation(t, ns, fmt.Sprintf("c%d", i), "v")
		writers.Go(func() {
			for try := 0; try < 60; try++ {
				one, cancel := context.WithTimeout(ctx, 10*time.Second)
				_, err := clients[(i+try)%len(clients)].Create(one, request)
				cancel()
				switch {
				case err == nil, status.Code(err) == codes.AlreadyExists:
					acked[i] = true
					return
				case strings.Contains(err.Error(), "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=40, limited: count/configmaps=40"):
					return // also what is stored by a try with an unknown outcome
				}
				unknown[i] = true
				time.Sleep(100 * time.Millisecond) // a master that is down, or has no leader: another one, later
			}
			t.Errorf("c%d was neither stored nor refused", i)
		})
	}
	must(t, "dev", "kill", victim)
	writers.Wait()
	shows := func(used int64) {
		t.Helper()
		eventually(t, time.Minute, fmt.Sprintf("the quota to show %d", used), func() error {
			list, err := env.Set.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			if len(list.Items) > limit {
				t.Fatalf("%d are stored, the limit is %d", len(list.Items), limit)
			}
			q, err := env.Set.CoreV1().ResourceQuotas(ns).Get(ctx, "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if shown := q.Status.Used[name]; len(list.Items) != int(used) || shown.Value() != used {
				return fmt.Errorf("%d are stored, the quota shows %s", len(list.Items), shown.String())
			}
			return nil
		})
	}
	shows(limit)
	for i := range acked {
		_, err := env.Set.CoreV1().ConfigMaps(ns).Get(ctx, fmt.Sprintf("c%d", i), metav1.GetOptions{})
		if is := err == nil; is != acked[i] && !(is && unknown[i]) {
			t.Errorf("c%d: acknowledged: %v; there: %v", i, acked[i], err)
		}
	}
	if err := env.Set.CoreV1().ConfigMaps(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name!=kube-root-ca.crt"}); err != nil {
		t.Fatal(err)
	}
	shows(int64(before))
	must(t, "dev", "start", victim)
	healthy(t)
}
