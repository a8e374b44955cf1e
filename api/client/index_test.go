package client_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/test/harness"
)

// byData finds ConfigMaps by their data, "key=value" each.
var byData = client.NewIndex(func(cm *corev1.ConfigMap, add func(string)) {
	for key, value := range cm.Data {
		add(key + "=" + value)
	}
})

func names(found []*corev1.ConfigMap) (out []string) {
	for _, cm := range found {
		out = append(out, cm.Name)
	}
	return out
}

// put creates or replaces a ConfigMap.
func put(c *client.Client, name string, data map[string]string) error {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: data}
	_, err := client.Create(context.Background(), c, cm.DeepCopy())
	if apierrors.IsAlreadyExists(err) {
		_, err = client.Update(context.Background(), c, cm)
	}
	return err
}

func TestAnIndexFollowsTheObjects(t *testing.T) {
	for name, options := range map[string]fsm.Options{"history": {}, "a history that is too short": {HistoryEvents: 1}} {
		t.Run(name, func(t *testing.T) {
			h := harness.NewWith(t, options)
			set := func(name string, data map[string]string) {
				t.Helper()
				if err := put(h.Client, name, data); err != nil {
					t.Fatal(err)
				}
			}
			expect := func(any, all string) {
				t.Helper()
				v := h.Client.View()
				if got := fmt.Sprint(names(byData.Any(v, "a=1", "b=2"))); got != any {
					t.Errorf("any of a=1 and b=2: %s, want %s", got, any)
				}
				if got := fmt.Sprint(names(byData.All(v, "a=1", "b=2"))); got != all {
					t.Errorf("a=1 and b=2: %s, want %s", got, all)
				}
			}
			set("z", map[string]string{"a": "1"})
			expect("[z]", "[]")
			set("y", map[string]string{"a": "1", "b": "2"})
			set("x", map[string]string{"b": "2"})
			set("w", map[string]string{"a": "2"})
			expect("[x y z]", "[y]")
			set("z", map[string]string{"a": "2"})
			set("x", map[string]string{"a": "1", "b": "2"})
			expect("[x y]", "[x y]")
			if err := h.Client.Delete(context.Background(), configMap("y")); err != nil {
				t.Fatal(err)
			}
			set("x", nil)
			expect("[]", "[]")
		})
	}
}

// An index that other readers have brought to a later state returns objects newer than the view, but never a mixture.
func TestAnIndexIsOfOneRevision(t *testing.T) {
	h := harness.New(t)
	// One object at a time has the key: a new object is created with it before the old one loses it, in one namespace or two.
	token := func(name string) *corev1.ConfigMap {
		cm := configMap(name)
		cm.Data = map[string]string{"a": "1"}
		return cm
	}
	create := func(name string) {
		if _, err := client.Create(context.Background(), h.Client, token(name)); err != nil {
			t.Error(err)
		}
	}
	create("t0")
	old := h.Client.View()
	create("t1")
	if got := names(byData.Any(h.Client.View(), "a=1")); !slices.Equal(got, []string{"t0", "t1"}) {
		t.Errorf("found %v", got)
	}
	if got := names(byData.Any(old, "a=1")); !slices.Equal(got, []string{"t0", "t1"}) {
		t.Errorf("found %v by a view older than the index", got)
	}
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if got := names(byData.Any(h.Client.View(), "a=1")); len(got) != 2 && len(got) != 3 {
					t.Errorf("found %v, which never was", got)
					return
				}
			}
		})
	}
	for i := range 200 {
		create(fmt.Sprint("t", i+2))
		if err := h.Client.Delete(context.Background(), configMap(fmt.Sprint("t", i))); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}
	close(done)
	readers.Wait()
}

// BenchmarkIndex looks up ten objects, each time after a change, with more and more others in the store.
func BenchmarkIndex(b *testing.B) {
	for _, others := range []int{100, 10_000} {
		h := harness.New(b)
		set := func(name, value string) {
			if err := put(h.Client, name, map[string]string{"a": value}); err != nil {
				b.Fatal(err)
			}
		}
		for i := range others {
			set(fmt.Sprint("other", i), "other")
		}
		for i := range 10 {
			set(fmt.Sprint("wanted", i), "wanted")
		}
		changes := 0
		for name, find := range map[string]func(client.View) int{
			"index": func(v client.View) int { return len(byData.Any(v, "a=wanted")) },
			"scan": func(v client.View) (n int) {
				client.Each(v, "default", func(cm *corev1.ConfigMap) bool {
					if cm.Data["a"] == "wanted" {
						n++
					}
					return true
				})
				return n
			},
		} {
			b.Run(fmt.Sprintf("%s/others=%d", name, others), func(b *testing.B) {
				b.ReportAllocs()
				find(h.Client.View()) // makes the index
				for b.Loop() {
					b.StopTimer()
					changes++
					set("changing", fmt.Sprint(changes))
					v := h.Client.View()
					b.StartTimer()
					if n := find(v); n != 10 {
						b.Fatalf("found %d", n)
					}
				}
			})
		}
	}
}
