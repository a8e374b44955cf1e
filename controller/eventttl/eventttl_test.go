package eventttl_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/eventttl"
	"github.com/kontiki/kontiki/test/harness"
)

func event(name string, last time.Time) *corev1.Event {
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, LastTimestamp: metav1.NewTime(last), Reason: "Test",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}}
}

func TestEventsGoWhenTheyAreOldAndStayWhenTheyHappenAgain(t *testing.T) {
	h := harness.New(t)
	clock := controllertest.NewClock(time.Now())
	before := time.Now()
	controllertest.Create(t, h.Client, event("early", before))
	for i := range 50 {
		controllertest.Create(t, h.Client, event(fmt.Sprint("many-", i), before))
	}
	controllertest.Run(t, h.Client, eventttl.New(eventttl.Config{Client: h.Client, Batch: time.Millisecond, Now: clock.Now}))
	again := controllertest.Create(t, h.Client, event("again", before))
	again = again.DeepCopy()
	again.LastTimestamp = metav1.NewTime(before.Add(50 * time.Minute))
	again.Count = 2
	controllertest.Change(t, h.Client, "default", "again", func(e *corev1.Event) { e.LastTimestamp, e.Count = again.LastTimestamp, 2 })
	clock.Advance(61 * time.Minute)
	// The next event wakes the sweep, whose timer runs on real time here.
	controllertest.Create(t, h.Client, event("late", clock.Now()))
	restart := controllertest.Run(t, h.Client, eventttl.New(eventttl.Config{Client: h.Client, Batch: time.Millisecond, Now: clock.Now}))
	defer restart()
	v := controllertest.AwaitView(t, h.Client, []client.Object{&corev1.Event{}}, func(v client.View) string {
		if n := len(client.List[*corev1.Event](v, "default", nil)); n != 2 {
			return fmt.Sprintf("%d events, want 2", n)
		}
		return ""
	})
	for _, name := range []string{"again", "late"} {
		if _, ok := client.Get[*corev1.Event](v, "default", name); !ok {
			t.Errorf("event %s is gone", name)
		}
	}
}

func TestTheOldestEventWakesTheSweep(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, eventttl.New(eventttl.Config{Client: h.Client, TTL: time.Millisecond, Batch: time.Millisecond}))
	for i := range 3 { // each after the one before is gone: the sweep is armed anew
		name := fmt.Sprint("e", i)
		controllertest.Create(t, h.Client, event(name, time.Now()))
		controllertest.AwaitGone[*corev1.Event](t, h.Client, "default", name)
	}
}
