package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/guard"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// fakeGuard is a guard in this process.
type fakeGuard struct {
	state guard.State
	there bool
	err   error
}

func (g *fakeGuard) Tell(_ context.Context, s guard.State) error {
	if g.err == nil {
		g.state, g.there = s, true
	}
	return g.err
}

func (g *fakeGuard) Found(context.Context) (guard.State, bool) { return g.state, g.there }

// fenceBed is a fence with a clock of its own.
type fenceBed struct {
	*fence
	g   *fakeGuard
	now time.Duration
}

func newFenceBed() *fenceBed {
	b := &fenceBed{g: &fakeGuard{}, now: 100 * time.Second}
	b.fence = newFence(b.g, func(p *corev1.Pod) bool { return p.Labels["fenced"] != "" })
	b.fence.now = func() time.Duration { return b.now }
	return b
}

var (
	leased    = &nodev1.Welcome{LeaseMs: 10_000}
	database  = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "db", Labels: map[string]string{"fenced": "yes"}}}
	webServer = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "web"}}
)

func (b *fenceBed) held(t *testing.T, p *corev1.Pod, want bool) {
	t.Helper()
	if got := b.holds(t.Context(), p); got != want {
		t.Errorf("after %s, pod %s is held: %v", b.now, p.UID, got)
	}
}

func TestALeaseRunsFromWhenItWasAskedFor(t *testing.T) {
	b := newFenceBed()
	b.adopt(t.Context(), leased)
	b.welcome(leased, b.now)
	if b.due() != 0 {
		t.Error("a lease is asked for that no pod needs")
	}
	b.held(t, webServer, false)
	b.held(t, database, true)
	if len(b.g.state.Pods) != 1 || b.g.state.Pods[0] != "db" {
		t.Errorf("the guard knows %v", b.g.state.Pods)
	}
	first := b.due()
	if first == 0 || b.due() != 0 {
		t.Fatal("no lease is asked for, or twice at once")
	}
	b.now += 4 * time.Second // the grant takes its time
	b.grant(t.Context(), first)
	b.held(t, database, false)
	b.now += 5999 * time.Millisecond
	b.held(t, database, false)
	b.now += time.Millisecond
	b.held(t, database, true)
	b.held(t, webServer, false)
	if b.g.state.Deadline != 110*time.Second {
		t.Errorf("the guard's deadline is %s", b.g.state.Deadline)
	}
	// Requests are granted in any order, and each once; what an earlier session asked for is not.
	b.now += time.Second
	older := b.due()
	b.now += time.Second
	newer := b.due()
	b.grant(t.Context(), newer)
	b.grant(t.Context(), older)
	if b.g.state.Deadline != 122*time.Second {
		t.Errorf("the guard's deadline is %s", b.g.state.Deadline)
	}
	b.now += 2 * time.Second
	lost := b.due()
	b.welcome(leased, b.now)
	b.grant(t.Context(), lost)
	b.grant(t.Context(), lost+100)
	if b.g.state.Deadline != 122*time.Second {
		t.Errorf("the guard's deadline is %s", b.g.state.Deadline)
	}
}

func TestANewAgentTakesOverTheLease(t *testing.T) {
	b := newFenceBed()
	b.g.state, b.g.there = guard.State{Deadline: 103 * time.Second, Pods: []string{"db"}}, true
	b.adopt(t.Context(), leased)
	b.held(t, database, false)
	b.now = 103 * time.Second
	b.held(t, database, true)
	// Without a guard nobody has watched the clock, so there is no lease.
	b = newFenceBed()
	b.adopt(t.Context(), leased)
	b.held(t, database, true)
	b.welcome(leased, b.now)
	b.held(t, database, true)
}

// A cluster that begins to fence its workers does not stop what is running.
func TestTheFirstLease(t *testing.T) {
	b := newFenceBed()
	b.adopt(t.Context(), &nodev1.Welcome{})
	b.held(t, database, false)
	b.welcome(leased, 95*time.Second)
	b.held(t, database, false)
	b.now = 105 * time.Second
	b.held(t, database, true)
	// One that ends it lets everything run.
	b.welcome(&nodev1.Welcome{}, b.now)
	b.held(t, database, false)
	if len(b.g.state.Pods) != 0 {
		t.Errorf("the guard still guards %v", b.g.state.Pods)
	}
}

func TestAGuardThatDoesNotAnswer(t *testing.T) {
	b := newFenceBed()
	b.welcome(leased, b.now)
	b.g.err = errors.New("gone")
	b.held(t, database, true)
	b.grant(t.Context(), b.due())
	b.held(t, database, true) // nothing is started that nobody guards
	b.g.err = nil
	b.held(t, database, false)
	b.g.err = errors.New("gone again")
	b.now += time.Second
	b.grant(t.Context(), b.due())
	b.held(t, database, false) // but what runs goes on, by this process's own clock
	b.now += 10 * time.Second
	b.held(t, database, true)
}

// A pod is guarded until nothing of it is left, whatever becomes of its claims.
func TestPodsAreGuardedUntilTheyAreGone(t *testing.T) {
	b := newFenceBed()
	b.welcome(leased, b.now)
	b.held(t, database, true)
	b.grant(t.Context(), b.due())
	forgotten := database.DeepCopy()
	forgotten.Labels = nil
	b.now += 10 * time.Second
	b.held(t, forgotten, true)
	b.keep(map[types.UID]bool{"db": true})
	b.held(t, forgotten, true)
	b.keep(map[types.UID]bool{})
	b.held(t, forgotten, false)
	// A worker without a guard holds nothing, and does not say that it has leases.
	none := newFence(nil, func(*corev1.Pod) bool { return true })
	none.welcome(leased, 0)
	if none.holds(t.Context(), database) || none.due() != 0 {
		t.Error("a worker without a guard holds pods, or asks for leases")
	}
}
