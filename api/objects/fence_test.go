package objects_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// TestOnlyTheLatestHolderOfAFenceWrites, whatever the kind of write.
func TestOnlyTheLatestHolderOfAFenceWrites(t *testing.T) {
	h := harness.New(t)
	begin := func(name string) *client.Client {
		service, err := h.Objects.Fence(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return client.New(service, "system:tests", "tests")
	}
	configMap := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	}
	first, other := begin("a"), begin("b")
	made, err := client.Create(t.Context(), first, configMap("made"))
	if err != nil {
		t.Fatal(err)
	}
	changed := made.DeepCopy()
	changed.Data = map[string]string{"x": "y"}
	if changed, err = client.Update(t.Context(), first, changed); err != nil {
		t.Fatal(err)
	}
	second := begin("a")
	refused := func(what string, err error) {
		t.Helper()
		if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s by the earlier holder: %v", what, err)
		}
	}
	before := h.Store.View().Revision()
	_, err = client.Create(t.Context(), first, configMap("late"))
	refused("a creation", err)
	changed = changed.DeepCopy()
	changed.Data["x"] = "z"
	_, err = client.Update(t.Context(), first, changed)
	refused("an update", err)
	refused("a deletion", first.Delete(t.Context(), made))
	if now := h.Store.View().Revision(); now != before {
		t.Errorf("the earlier holder wrote %d times", now-before)
	}
	for name, c := range map[string]*client.Client{"the new holder": second, "the holder of another fence": other} {
		if _, err := client.Create(t.Context(), c, configMap("by"+strings.Fields(name)[1])); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAFenceWaitsUntilItIsUp: masters whose disks are full refuse writes for a time.
func TestAFenceWaitsUntilItIsUp(t *testing.T) {
	store := &refusing{left: 2}
	h := harness.NewOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	if _, err := h.Objects.Fence(t.Context(), "a"); err != nil || store.left != 0 {
		t.Errorf("%d refusals are left, %v", store.left, err)
	}
	store.left = 1 << 30
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Objects.Fence(ctx, "a"); !errors.Is(err, kv.ErrDiskFull) {
		t.Errorf("after the end: %v", err)
	}
}

// refusing refuses the next commands that put up fences.
type refusing struct {
	objects.Store
	left int
}

func (s *refusing) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	if strings.HasPrefix(c.Ops[0].Key, kv.OwnPrefix+"fences/") && s.left > 0 {
		s.left--
		return kv.Result{}, kv.ErrDiskFull
	}
	return s.Store.Propose(ctx, c)
}
