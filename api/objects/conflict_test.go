package objects_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/test/harness"
)

var admin = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}

// request is a request for an object of the harness' API.
func request(h *harness.Harness, resource, namespace, name string) *objects.Request {
	for _, kind := range h.Objects.Kinds().Kinds() {
		if kind.Resource == resource && kind.StoredAs == nil {
			return &objects.Request{User: admin, Kind: kind, Namespace: namespace, Name: name, FieldManager: "test"}
		}
	}
	panic("no resource " + resource)
}

func configMap(name string, data ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	for i := 0; i+1 < len(data); i += 2 {
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		cm.Data[data[i]] = data[i+1]
	}
	return cm
}

func create[T registry.Object](t testing.TB, h *harness.Harness, resource string, obj T) T {
	t.Helper()
	created, err := h.Objects.Create(context.Background(), request(h, resource, obj.GetNamespace(), ""), obj)
	if err != nil {
		t.Fatal(err)
	}
	return created.(T)
}

func get[T registry.Object](t testing.TB, h *harness.Harness, resource, namespace, name string) T {
	t.Helper()
	r := request(h, resource, namespace, name)
	v, err := h.Objects.Get(context.Background(), r, "")
	if err != nil {
		t.Fatal(err)
	}
	obj, err := h.Objects.Decode(r.Kind, v)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(T)
}

// TestConcurrentIncrementsLoseNothing: whichever write is used for a counter, it fails if another one came after its read.
func TestConcurrentIncrementsLoseNothing(t *testing.T) {
	const writers, each = 32, 5
	ctx := context.Background()
	ways := map[string]func(h *harness.Harness, r *objects.Request, now *corev1.ConfigMap, next string) error{
		"update": func(h *harness.Harness, r *objects.Request, now *corev1.ConfigMap, next string) error {
			changed := now.DeepCopy()
			changed.Data["n"] = next
			_, _, err := h.Objects.Update(ctx, r, changed)
			return err
		},
		"json patch": func(h *harness.Harness, r *objects.Request, now *corev1.ConfigMap, next string) error {
			patch := fmt.Sprintf(`[{"op":"test","path":"/data/n","value":%q},{"op":"replace","path":"/data/n","value":%q}]`, now.Data["n"], next)
			_, _, err := h.Objects.Patch(ctx, r, objects.Patch{Type: types.JSONPatchType, Data: []byte(patch)})
			if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Code == 422 {
				return apierrors.NewConflict(r.Kind.GroupResource(), r.Name, err) // somebody else was faster
			}
			return err
		},
		"merge patch": func(h *harness.Harness, r *objects.Request, now *corev1.ConfigMap, next string) error {
			patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"data":{"n":%q}}`, now.ResourceVersion, next)
			_, _, err := h.Objects.Patch(ctx, r, objects.Patch{Type: types.MergePatchType, Data: []byte(patch)})
			return err
		},
		"apply": func(h *harness.Harness, r *objects.Request, now *corev1.ConfigMap, next string) error {
			applied := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","resourceVersion":%q},"data":{"n":%q}}`, now.ResourceVersion, next)
			_, _, err := h.Objects.Patch(ctx, r, objects.Patch{Type: types.ApplyYAMLPatchType, Data: []byte(applied), Force: true})
			return err
		},
	}
	for name, write := range ways {
		t.Run(name, func(t *testing.T) {
			h := harness.New(t)
			create(t, h, "configmaps", configMap("c", "n", "0"))
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					r := request(h, "configmaps", "default", "c")
					for done := 0; done < each; {
						v, err := h.Objects.Get(ctx, r, "")
						if err != nil {
							t.Error(err)
							return
						}
						obj, err := h.Objects.Decode(r.Kind, v)
						if err != nil {
							t.Error(err)
							return
						}
						now := obj.(*corev1.ConfigMap)
						n, _ := strconv.Atoi(now.Data["n"])
						switch err := write(h, r, now, strconv.Itoa(n+1)); {
						case err == nil:
							done++
						case !apierrors.IsConflict(err):
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			if got := get[*corev1.ConfigMap](t, h, "configmaps", "default", "c"); got.Data["n"] != strconv.Itoa(writers*each) {
				t.Errorf("the counter is at %s after %d increments", got.Data["n"], writers*each)
			}
		})
	}
}

// TestUnconditionalWritesNeverFail: patches without a resourceVersion are merged one after the other, however many come.
func TestUnconditionalWritesNeverFail(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	create(t, h, "configmaps", configMap("c"))
	const writers, each = 32, 8
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				patch, _ := json.Marshal(map[string]any{"data": map[string]string{fmt.Sprintf("k%d-%d", i, j): "x"}})
				if _, _, err := h.Objects.Patch(ctx, request(h, "configmaps", "default", "c"), objects.Patch{Type: types.StrategicMergePatchType, Data: patch}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := get[*corev1.ConfigMap](t, h, "configmaps", "default", "c"); len(got.Data) != writers*each {
		t.Errorf("%d of %d patches are there", len(got.Data), writers*each)
	}
}

func TestGeneratedNamesAreDrawnAgain(t *testing.T) {
	h := harness.New(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	names := map[string]bool{}
	for range 16 {
		wg.Go(func() {
			for range 20 {
				cm := configMap("")
				cm.GenerateName = "g-"
				created, err := h.Objects.Create(context.Background(), request(h, "configmaps", "default", ""), cm)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				names[created.GetName()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(names) != 320 {
		t.Errorf("%d names", len(names))
	}
}

// TestCreationIsBoundToItsNamespace: nothing is created in a namespace whose deletion begins after the request has read it.
func TestCreationIsBoundToItsNamespace(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	create(t, h, "namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	if _, gone, err := h.Objects.Delete(ctx, request(h, "namespaces", "", "n"), nil); err != nil || gone {
		t.Fatal(gone, err)
	}
	cm := configMap("a")
	cm.Namespace = "n"
	_, err := h.Objects.Create(ctx, request(h, "configmaps", "n", ""), cm)
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Fatal(err)
	}
	ns := get[*corev1.Namespace](t, h, "namespaces", "", "n").DeepCopy()
	if ns.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("its phase is %s", ns.Status.Phase)
	}
	ns.Spec.Finalizers = nil
	r := request(h, "namespaces", "", "n")
	r.Subresource = "finalize"
	if _, _, err := h.Objects.Update(ctx, r, ns); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Objects.Get(ctx, request(h, "namespaces", "", "n"), ""); !apierrors.IsNotFound(err) {
		t.Fatalf("a finalized namespace: %v", err)
	}
	if _, err := h.Objects.Create(ctx, request(h, "configmaps", "n", ""), cm); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}
