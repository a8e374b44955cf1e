package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func second[T any](_ T, err error) error { return err }

func TestAListGoesOnAtItsRevision(t *testing.T) {
	c, s, masters := fakes(t, 2)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		s.put(t, name, "1")
	}
	var broken atomic.Bool
	masters[0].set(func(m *master) {
		m.after = func(string, int) error {
			if broken.Swap(true) {
				return nil
			}
			s.put(t, "aa", "late")
			return status.Error(codes.Unavailable, "gone")
		}
	})
	var names []string
	for page, err := range Pages[*corev1.ConfigMap](testContext(t), c, "default") {
		if err != nil || page.ResourceVersion != "5" {
			t.Fatal(page.ResourceVersion, err)
		}
		for _, cm := range page.Items {
			names = append(names, cm.Name)
		}
	}
	if want := []string{"a", "b", "c", "d", "e"}; !slices.Equal(names, want) || !broken.Load() {
		t.Errorf("%v", names)
	}
	// An empty list is a list.
	items, version, err := List[*corev1.ConfigMap](testContext(t), c, "default", AsOf("0"))
	if err != nil || len(items) != 0 || version != "0" {
		t.Errorf("%v %q %v", items, version, err)
	}
	s.forget()
	if _, _, err := List[*corev1.ConfigMap](testContext(t), c, "default", AsOf("2")); !errors.Is(err, ErrExpired) {
		t.Errorf("%v", err)
	}
}

// told is a short form of what a watch has delivered.
func told(t *testing.T, e Event[*corev1.ConfigMap], err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if e.Object == nil {
		return e.Type.String()
	}
	return fmt.Sprintf("%s %s=%s", e.Type, e.Object.Name, e.Object.Data["v"])
}

func TestAWatchShowsEachChangeOnceWhateverBreaks(t *testing.T) {
	c, s, masters := fakes(t, 3)
	s.put(t, "a", "0")
	s.put(t, "b", "0")
	s.put(t, "c", "0")
	// Every third event, and the first page, break the stream of the master that sends them first: the master dies with whatever is
	// on its way and restarts, or ends the stream.
	var mu sync.Mutex
	broken := map[string]bool{}
	for _, m := range masters {
		m.set(func(*master) {
			m.after = func(method string, revision int) error {
				mu.Lock()
				defer mu.Unlock()
				if key := fmt.Sprint(method, revision); revision%3 != 0 || broken[key] {
					return nil
				} else {
					broken[key] = true
				}
				if revision%2 == 0 {
					return status.Error(codes.Unavailable, "ends")
				}
				m.die()
				m.start()
				return nil
			}
		})
	}
	want := []string{"Added a=0", "Added b=0", "Added c=0", "Synced"}
	const changes = 40
	for i := range changes {
		want = append(want, fmt.Sprintf("Modified b=%d", i))
	}
	var got []string
	for e, err := range Watch[*corev1.ConfigMap](testContext(t), c, "default") {
		got = append(got, told(t, e, err))
		if e.Type == Synced {
			for i := range changes {
				s.put(t, "b", fmt.Sprint(i))
			}
		}
		if len(got) == len(want) {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(broken) < changes/3 {
		t.Errorf("only %d streams were broken", len(broken))
	}
}

func TestAWatchSaysThatItMissedChanges(t *testing.T) {
	c, s, masters := fakes(t, 2)
	s.put(t, "a", "0")
	broken := false
	masters[0].set(func(m *master) {
		m.after = func(string, int) error {
			if broken {
				return nil
			}
			broken = true
			s.put(t, "b", "0")
			s.put(t, "a", "2")
			s.forget()
			return status.Error(codes.Unavailable, "ends")
		}
	})
	var got []string
	s.put(t, "c", "0")
	for e, err := range Watch[*corev1.ConfigMap](testContext(t), c, "default", After("1")) {
		if got = append(got, told(t, e, err)); e.Type == Synced {
			break
		}
	}
	if want := []string{"Added c=0", "Restarted", "Added a=2", "Added b=0", "Added c=0", "Synced"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestAWatchEndsWithItsContextAndWithWhatDoesNotHeal(t *testing.T) {
	c, _, masters := fakes(t, 2)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var last error
	for e, err := range Watch[*corev1.ConfigMap](ctx, c, "default") {
		if e.Type == Synced {
			cancel()
		}
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("%v", last)
	}
	for _, m := range masters {
		m.set(func(m *master) {
			m.fault = func(context.Context, string) error {
				return answer(codes.PermissionDenied, metav1.StatusReasonForbidden, "no")
			}
		})
	}
	for _, last = range Watch[*corev1.ConfigMap](testContext(t), c, "default") {
	}
	if !errors.Is(last, ErrForbidden) {
		t.Errorf("%v", last)
	}
}
