package pods

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/timeline"
)

// The steps of a start are kept once, in order; a restart adds none.
func TestTheStepsOfAStartAreKept(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.m.c.Timeline = timeline.New(nil)
		p := pod("a", corev1.RestartPolicyAlways, trap, "sh|-c|exit 3")
		n.m.Update(p)
		n.status(p)
		pass(time.Minute) // the second container restarts
		var names []string
		for _, s := range n.m.c.Timeline.Of(string(p.UID)).Steps {
			if s.Ended.Before(s.Began) {
				t.Errorf("%+v ended before it began", s)
			}
			names = append(names, s.Name+" "+s.Container)
		}
		for _, want := range []string{"receive ", "volumes ", "sandbox ", "network ", "create c1", "start c1", "create c2", "start c2"} {
			if count(names, want) != 1 {
				t.Errorf("%q is there %d times: %q", want, count(names, want), names)
			}
		}
		if names[0] != "receive " || slices.Index(names, "sandbox ") > slices.Index(names, "create c1") {
			t.Errorf("order: %q", names)
		}
	})
}

func count(names []string, want string) (n int) {
	for _, name := range names {
		if name == want {
			n++
		}
	}
	return n
}
