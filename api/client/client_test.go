package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"n": name}}}
}

// state is the state that an observer of ViewAndWatch has: names to resource versions.
type state map[string]string

// follow keeps a state up to date and checks that every event follows from it, until stop returns true.
func follow(ctx context.Context, t *testing.T, c *client.Client, stop func(state) bool) (state, int, error) {
	var seen state
	starts := 0
	errStop := errors.New("seen enough")
	var last uint64
	err := c.ViewAndWatch(ctx, []client.Object{&corev1.ConfigMap{}, &corev1.Secret{}}, func(v client.View) error {
		starts++
		seen, last = state{}, v.Revision()
		for _, cm := range client.List[*corev1.ConfigMap](v, "default", nil) {
			seen["cm/"+cm.Name] = cm.ResourceVersion
		}
		for _, s := range client.List[*corev1.Secret](v, "default", nil) {
			seen["secret/"+s.Name] = s.ResourceVersion
		}
		if stop(seen) {
			return errStop
		}
		return nil
	}, func(events []client.Event) error {
		for _, e := range events {
			name := ""
			switch obj := e.Object().(type) {
			case *corev1.ConfigMap:
				name = "cm/" + obj.Name
			case *corev1.Secret:
				name = "secret/" + obj.Name
			default:
				t.Errorf("an event of a %T", obj)
			}
			if e.Revision <= last {
				t.Errorf("ErrBrokeOrdered: revision %d after %d", e.Revision, last)
			}
			last = e.Revision
			have, there := seen[name]
			if (e.Old != nil) != there || (e.Old != nil && e.Old.GetResourceVersion() != have) {
				t.Errorf("ErrBrokeReliable: %s was at %q, the event follows %v", name, have, e.Old)
			}
			if e.New == nil {
				delete(seen, name)
			} else {
				seen[name] = e.New.GetResourceVersion()
			}
		}
		if stop(seen) {
			return errStop
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return seen, starts, err
}

func TestViewAndWatchShowsEveryChangeOnce(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	for i := range 10 {
		if _, err := client.Create(ctx, h.Client, configMap(fmt.Sprint("early-", i))); err != nil {
			t.Fatal(err)
		}
	}
	var followers sync.WaitGroup
	finals := make([]state, 4)
	for i := range finals {
		followers.Go(func() {
			var err error
			finals[i], _, err = follow(ctx, t, h.Client, func(s state) bool { return s["cm/the-end"] != "" })
			if err != nil {
				t.Error(err)
			}
		})
	}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 25 {
				name := fmt.Sprintf("w%d-%d", w, i%5)
				_, err := client.Create(ctx, h.Client, configMap(name))
				switch {
				case apierrors.IsAlreadyExists(err) && i%2 == 0:
					err = h.Client.Delete(ctx, configMap(name))
				case apierrors.IsAlreadyExists(err):
					cm := configMap(name)
					cm.Data = map[string]string{"i": fmt.Sprint(i)}
					_, err = client.Update(ctx, h.Client, cm)
				}
				if err != nil {
					t.Error(err)
				}
				if _, err := client.Create(ctx, h.Client, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d-%d", w, i), Namespace: "default"}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if _, err := client.Create(ctx, h.Client, configMap("the-end")); err != nil {
		t.Fatal(err)
	}
	followers.Wait()
	want, _, err := follow(ctx, t, h.Client, func(state) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range finals {
		if !maps.Equal(got, want) {
			t.Errorf("follower %d believes %v, there is %v", i, got, want)
		}
	}
}

// TestViewAndWatchBeginsAgain: an observer that falls behind the history gets a new view.
func TestViewAndWatchBeginsAgain(t *testing.T) {
	h := harness.NewWith(t, fsm.Options{HistoryEvents: 8})
	ctx := t.Context()
	slow := make(chan struct{})
	first := true
	seen, starts, err := follow(ctx, t, h.Client, func(s state) bool {
		if first {
			first = false
			go func() {
				defer close(slow)
				for i := range 100 {
					if _, err := client.Create(ctx, h.Client, configMap(fmt.Sprint("c-", i))); err != nil {
						t.Error(err)
					}
				}
			}()
			<-slow
		}
		return len(s) >= 100
	})
	if err != nil || starts != 2 || len(seen) != 100 {
		t.Errorf("%d objects after %d views, %v", len(seen), starts, err)
	}
}

func TestTypedAccess(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	created, err := client.Create(ctx, h.Client, configMap("a"))
	if err != nil {
		t.Fatal(err)
	}
	stale := created.DeepCopy()
	created.Data = map[string]string{"k": "v"}
	if created, err = client.Update(ctx, h.Client, created); err != nil || created.ManagedFields[0].Manager != "harness" {
		t.Fatal(created, err)
	}
	if _, err := client.Update(ctx, h.Client, stale); !apierrors.IsConflict(err) {
		t.Errorf("a stale update: %v", err)
	}
	if _, err := client.Patch(ctx, h.Client, configMap("a"), types.MergePatchType, []byte(`{"data":{"l":"w"}}`), ""); err != nil {
		t.Fatal(err)
	}
	view, err := h.Client.Consistent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := client.Get[*corev1.ConfigMap](view, "default", "a")
	if !ok || len(got.Data) != 2 {
		t.Errorf("%v", got)
	}
	if again, _ := client.Get[*corev1.ConfigMap](view, "default", "a"); again != got {
		t.Error("two readers of one version have an object each")
	}
	if _, ok := client.Get[*corev1.ConfigMap](view, "default", "b"); ok {
		t.Error("an object that is not there")
	}
	if list := client.List[*corev1.ConfigMap](view, "", labels.SelectorFromSet(labels.Set{"n": "a"})); len(list) != 1 {
		t.Errorf("%d objects match", len(list))
	}
	kind := h.Client.KindOf(&corev1.ConfigMap{})
	if obj, ok := view.GetOf(kind, "default", "a"); !ok || obj != client.Object(got) {
		t.Error("untyped and typed access differ")
	}
	if err := h.Client.Delete(ctx, got, client.IfUID("other")); !apierrors.IsConflict(err) {
		t.Errorf("deletion of another object: %v", err)
	}
	if err := h.Client.Delete(ctx, got, client.IfUID(got.UID), client.Propagation(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	for _, k := range h.Client.Kinds() {
		if k.StoredAs != nil {
			t.Errorf("%s is listed besides what it is stored as", k.GVK())
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a kind that is not served was taken")
		}
	}()
	client.Get[*corev1.RangeAllocation](view, "", "x")
}

// TestEventsAreOneInBothVersions: an event written in one API version is read in the other.
func TestEventsAreOneInBothVersions(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	old := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, Message: "hello", Reason: "Because", Count: 3, Type: "Normal",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "default"}}
	if _, err := client.Create(ctx, h.Client, old); err != nil {
		t.Fatal(err)
	}
	shown, ok := client.Get[*eventsv1.Event](h.Client.View(), "default", "e")
	if !ok || shown.Note != "hello" || shown.Regarding.Name != "p" || shown.DeprecatedCount != 3 || shown.ResourceVersion == "" {
		t.Fatalf("%+v", shown)
	}
	now := metav1.NewMicroTime(time.Now().Truncate(time.Microsecond))
	fresh := &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "f", Namespace: "default"}, Note: "new", Reason: "Why", Type: "Warning", EventTime: now,
		ReportingController: "example.com/c", ReportingInstance: "i", Action: "Binding", Regarding: corev1.ObjectReference{Kind: "Pod", Name: "q", Namespace: "default"}}
	if _, err := client.Create(ctx, h.Client, fresh); err != nil {
		t.Fatal(err)
	}
	back, ok := client.Get[*corev1.Event](h.Client.View(), "default", "f")
	if !ok || back.Message != "new" || back.InvolvedObject.Name != "q" || !back.EventTime.Equal(&now) {
		t.Fatalf("%+v", back)
	}
	if _, err := client.Create(ctx, h.Client, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "g", Namespace: "default"}}); !apierrors.IsInvalid(err) {
		t.Errorf("the newer version is strict: %v", err)
	}
	if n := h.Store.View().Count("/core/events/", kv.PrefixEnd("/core/events/")); n != 2 {
		t.Errorf("%d events are stored", n)
	}
}
