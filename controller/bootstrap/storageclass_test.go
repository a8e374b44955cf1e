package bootstrap_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/bootstrap"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

const isDefault = "storageclass.kubernetes.io/is-default-class"

func system(t *testing.T, h *harness.Harness) {
	t.Helper()
	if _, ok := client.Get[*corev1.Namespace](h.Client.View(), "", "kube-system"); !ok {
		controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
	}
}

func awaitMade(t *testing.T, h *harness.Harness) {
	t.Helper()
	controllertest.Await(t, h.Client, "", "kube-system", "the note that the class was made", func(n *corev1.Namespace) bool {
		return n.Annotations["kontiki.io/storage-class-created"] != ""
	})
}

// TestTheFirstStorageClass: a new cluster has a default class; who deletes it keeps that, also with a new leader.
func TestTheFirstStorageClass(t *testing.T) {
	h := harness.New(t)
	system(t, h)
	stop := controllertest.Run(t, h.Client, bootstrap.NewStorageClass(h.Client))
	class := controllertest.Await(t, h.Client, "", "local-path", "the default", func(c *storagev1.StorageClass) bool { return c.Annotations[isDefault] == "true" })
	if *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer || !*class.AllowVolumeExpansion {
		t.Errorf("the class is %+v", class)
	}
	awaitMade(t, h)
	stop()
	if err := h.Client.Delete(context.Background(), class); err != nil {
		t.Fatal(err)
	}
	ctl := bootstrap.NewStorageClass(h.Client)
	if _, err := ctl.Reconcile(context.Background(), h.Client.View(), controller.Key{Name: "kube-system"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := client.Get[*storagev1.StorageClass](h.Client.View(), "", "local-path"); ok {
		t.Error("the class is back")
	}
}

// TestAClusterKeepsItsDefaultClass: one that has a default class does not get another.
func TestAClusterKeepsItsDefaultClass(t *testing.T) {
	h := harness.New(t)
	controllertest.Create(t, h.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "mine", Annotations: map[string]string{isDefault: "true"}}, Provisioner: "example.com/p"})
	system(t, h)
	controllertest.Run(t, h.Client, bootstrap.NewStorageClass(h.Client))
	awaitMade(t, h)
	class, ok := client.Get[*storagev1.StorageClass](h.Client.View(), "", "local-path")
	if !ok || class.Annotations[isDefault] != "" {
		t.Errorf("the class is %v", class)
	}
}
