package objects_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// forgetful is a store that commits writes of ConfigMaps, but does not know that it did.
type forgetful struct {
	objects.Store
	on bool
}

func (f *forgetful) Propose(ctx context.Context, command *kv.Command) (kv.Result, error) {
	result, err := f.Store.Propose(ctx, command)
	if f.on && err == nil && result.Failed == nil && strings.Contains(command.Ops[0].Key, "/configmaps/") {
		return kv.Result{}, kv.ErrOutcomeUnknown
	}
	return result, err
}

// A write whose outcome is unknown is not made again, because it may have been committed.
func TestAnUnknownOutcomeIsTheAnswer(t *testing.T) {
	store := &forgetful{}
	h := harness.NewOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	ctx := context.Background()
	list := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "list", Finalizers: []string{"example.com/0"}}}
	if _, err := client.Create(ctx, h.Client, list.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	store.on = true
	_, err := client.Create(ctx, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "made-"}})
	if !apierrors.IsTimeout(err) {
		t.Errorf("the creation ended with %v", err)
	}
	made := 0
	client.Each(h.Client.View(), "default", func(cm *corev1.ConfigMap) bool {
		if cm.GenerateName == "made-" {
			made++
		}
		return true
	})
	if made != 1 {
		t.Errorf("%d objects were made", made)
	}
	_, err = client.Patch(ctx, h.Client, list, types.JSONPatchType, []byte(`[{"op":"add","path":"/metadata/finalizers/-","value":"example.com/1"}]`), "")
	if !apierrors.IsTimeout(err) {
		t.Errorf("the patch ended with %v", err)
	}
	if got, _ := client.Get[*corev1.ConfigMap](h.Client.View(), "default", "list"); len(got.Finalizers) != 2 {
		t.Errorf("finalizers %v: the patch was not applied once", got.Finalizers)
	}
}
