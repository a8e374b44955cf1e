package peers

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/kontiki/kontiki/test/await"
)

// mirror copies each ConfigMap with the label "mirror" to a Secret that it owns.
type mirror struct{ client.Client }

func (m *mirror) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	var cm corev1.ConfigMap
	if err := m.Get(ctx, r.NamespacedName, &cm); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if cm.Labels["mirror"] == "" {
		return ctrl.Result{}, nil
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: cm.Namespace, Name: cm.Name}}
	_, err := controllerutil.CreateOrUpdate(ctx, m.Client, secret, func() error {
		secret.StringData = cm.Data
		return controllerutil.SetControllerReference(&cm, secret, m.Scheme())
	})
	return ctrl.Result{}, err
}

// TestControllerRuntime runs two managers with a cache and leader election: one of them reconciles, and the other takes over.
func TestControllerRuntime(t *testing.T) {
	log.SetLogger(zap.New(zap.WriteTo(testWriter{t})))
	start := func() (stop func()) {
		manager, err := ctrl.NewManager(cluster.Config, ctrl.Options{
			Metrics: metricsserver.Options{BindAddress: "0"}, LeaderElection: true, LeaderElectionID: "mirror", LeaderElectionNamespace: "default",
			LeaderElectionReleaseOnCancel: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		skip := true // both managers are in one process, under one name
		err = ctrl.NewControllerManagedBy(manager).Named("mirror").WithOptions(controller.Options{SkipNameValidation: &skip}).For(&corev1.ConfigMap{}).Owns(&corev1.Secret{}).Complete(&mirror{manager.GetClient()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- manager.Start(ctx) }()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error("a manager ended:", err)
			}
		}
	}
	ctx := context.Background()
	set := cluster.Set.CoreV1()
	copied := func(name, want string) {
		t.Helper()
		await.That(t, fmt.Sprintf("%s to be a copy with %q", name, want), func() error {
			secret, err := set.Secrets("default").Get(ctx, name, metav1.GetOptions{})
			if err == nil && string(secret.Data["a"]) != want {
				err = fmt.Errorf("it is %q", secret.Data["a"])
			}
			return err
		})
	}
	create := func(name string) {
		t.Helper()
		if _, err := set.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"mirror": "yes"}}, Data: map[string]string{"a": name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	stopFirst := start()
	create("one")
	copied("one", "one")
	stopSecond := start()
	stopFirst()
	create("two")
	copied("two", "two")
	if _, err := set.ConfigMaps("default").Patch(ctx, "one", types.MergePatchType, []byte(`{"data":{"a":"changed"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	copied("one", "changed")
	// What somebody else deletes is made again, and what is owned goes with its owner.
	if err := set.Secrets("default").Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	copied("one", "changed")
	stopSecond()
	for _, name := range []string{"one", "two"} {
		if err := set.ConfigMaps("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		await.That(t, name+" to go with its owner", func() error {
			if _, err := set.Secrets("default").Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("get: %v", err)
			}
			return nil
		})
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(b))
	return len(b), nil
}
