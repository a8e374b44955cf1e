package hardware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/runtime"
)

// provider gives everything to everybody near a node, and records what it is asked.
type provider struct {
	name  string
	node  int
	calls *[]string
	fails error
	idle  bool
}

func (p *provider) say(format string, args ...any) {
	*p.calls = append(*p.calls, p.name+" "+fmt.Sprintf(format, args...))
}

func (p *provider) hint() numa.Hints {
	return numa.Hints{p.name: {{Nodes: numa.Of(p.node), Preferred: true}}}
}

func (p *provider) Needs(*corev1.Pod) bool { return !p.idle }
func (p *provider) Hints(_ *corev1.Pod, c *corev1.Container) numa.Hints {
	p.say("hints %s", c.Name)
	return p.hint()
}
func (p *provider) PodHints(*corev1.Pod) numa.Hints { p.say("pod hints"); return p.hint() }
func (p *provider) Allocate(_ context.Context, _ *corev1.Pod, c *corev1.Container, near numa.Hint) error {
	at := "any"
	if near.Nodes != 0 {
		at = near.Nodes.String()
	}
	p.say("allocate %s near %s", c.Name, at)
	return p.fails
}
func (p *provider) Release(uid types.UID) error { p.say("release %s", uid); return nil }
func (p *provider) Pods() []types.UID           { return []types.UID{"p", types.UID(p.name)} }
func (p *provider) Container(context.Context, *corev1.Pod, string) (runtime.Edits, error) {
	return runtime.Edits{Env: []runtime.KeyValue{{Name: p.name, Value: "1"}}, CPUs: "3", NoCPUQuota: true}, p.fails
}

func pod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "p"}, Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "c"}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e"}}}}}
}

func manager(t *testing.T, policy, scope string, nodeOfB int, failsB error) (*Manager, *[]string) {
	t.Helper()
	p, err := numa.NewPolicy(policy, &numa.Machine{Nodes: []numa.Node{{ID: 0}, {ID: 1}}}, numa.Options{})
	if err != nil {
		t.Fatal(err)
	}
	calls := &[]string{}
	return New(Config{Providers: []Provider{&provider{name: "a", node: 1, calls: calls}, &provider{name: "b", node: nodeOfB, calls: calls, fails: failsB, idle: true}}, Policy: p, Scope: scope}), calls
}

func TestAllocate(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		policy, scope string
		nodeOfB       int
		fails         error
		want          []string
		err           error
	}{
		{numa.None, numa.ScopeContainer, 0, nil, []string{"a allocate i near any", "b allocate i near any", "a allocate c near any", "b allocate c near any"}, nil},
		{numa.Restricted, numa.ScopeContainer, 1, nil, []string{"a hints i", "b hints i", "a allocate i near 10", "b allocate i near 10",
			"a hints c", "b hints c", "a allocate c near 10", "b allocate c near 10"}, nil},
		{numa.SingleNUMANode, numa.ScopePod, 1, nil, []string{"a pod hints", "b pod hints", "a allocate i near 10", "b allocate i near 10", "a allocate c near 10", "b allocate c near 10"}, nil},
		{numa.SingleNUMANode, numa.ScopePod, 0, nil, []string{"a pod hints", "b pod hints", "a release p", "b release p"}, errTopology},
		{numa.Restricted, numa.ScopeContainer, 0, nil, []string{"a hints i", "b hints i", "a release p", "b release p"}, errTopology},
		{numa.None, numa.ScopeContainer, 0, broken, []string{"a allocate i near any", "b allocate i near any", "a release p", "b release p"}, broken},
	} {
		m, calls := manager(t, c.policy, c.scope, c.nodeOfB, c.fails)
		if err := m.Allocate(t.Context(), pod()); !errors.Is(err, c.err) {
			t.Errorf("%s, %s: %v, want %v", c.policy, c.scope, err, c.err)
		}
		if !slices.Equal(*calls, c.want) {
			t.Errorf("%s, %s: %q, want %q", c.policy, c.scope, *calls, c.want)
		}
	}
	if errTopology.Reason() != "TopologyAffinityError" {
		t.Error(errTopology.Reason())
	}
}

func TestPodsThatNeedNothingWaitForNobody(t *testing.T) {
	m, calls := manager(t, numa.Restricted, numa.ScopePod, 0, nil)
	m.c.Providers = m.c.Providers[1:]
	if err := m.turn.Take(t.Context()); err != nil { // a plugin is slow
		t.Fatal(err)
	}
	if err := m.Allocate(t.Context(), pod()); err != nil || len(*calls) > 0 {
		t.Errorf("%v, calls %q", err, *calls)
	}
}

func TestWhatIsCombined(t *testing.T) {
	m, calls := manager(t, numa.None, numa.ScopePod, 0, nil)
	e, err := m.Container(t.Context(), pod(), "c")
	if err != nil || len(e.Env) != 2 || e.CPUs != "3" || !e.NoCPUQuota {
		t.Errorf("%+v %v", e, err)
	}
	if got := m.Pods(); !slices.Equal(got, []types.UID{"a", "b", "p"}) {
		t.Errorf("pods %v", got)
	}
	if err := m.Release(t.Context(), "p"); err != nil || !slices.Equal(*calls, []string{"a release p", "b release p"}) {
		t.Errorf("%v, %q", err, *calls)
	}
	claims := pod()
	claims.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x"}}
	if m.Prepare(t.Context(), pod()) != nil || m.Prepare(t.Context(), claims) == nil {
		t.Error("a pod with claims cannot start without drivers, others can")
	}
}
