package upgrade_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cmd/kontiki/upgrade"
)

const (
	before = "v1.37.2+kontiki.0.1"
	after  = "v1.37.2+kontiki.0.2"
)

// fake is a cluster of masters and workers. A host whose program is replaced is away for some seconds, and then runs the new version.
type fake struct {
	mu       sync.Mutex
	leader   string
	masters  map[string]*cluster.MemberStatus
	nodes    map[string]*corev1.Node
	pods     map[string][]corev1.Pod // by node
	problems []string
	away     map[string]time.Time // when hosts are back
	done     []string             // what happened, in order
	// spoil changes what a host is like when it is back.
	spoil func(f *fake, host string)
}

func newFake(masters int, workers ...string) *fake {
	f := &fake{leader: "m1", masters: map[string]*cluster.MemberStatus{}, nodes: map[string]*corev1.Node{}, pods: map[string][]corev1.Pod{}, away: map[string]time.Time{}}
	for i := range masters {
		name := fmt.Sprintf("m%d", i+1)
		f.masters[name] = &cluster.MemberStatus{Name: name, Role: cluster.StatusVoter, Address: fmt.Sprintf("10.0.0.%d:6444", i+1), Version: before, Health: cluster.HealthOK, AppliedIndex: 100}
	}
	for _, name := range workers {
		f.nodes[name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: before},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: "10.0.1.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
		f.pods[name] = []corev1.Pod{pod(name + "-a"), pod(name + "-b")}
	}
	return f
}

func pod(name string) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}, Status: corev1.PodStatus{Phase: corev1.PodRunning,
		Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "c", RestartCount: 3}}}}
}

func (f *fake) back(host string) bool { return !time.Now().Before(f.away[host]) }

func (f *fake) Status(context.Context) (*cluster.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &cluster.Status{Leader: f.leader, CommitIndex: 100, Problems: slices.Clone(f.problems)}
	well := 0
	for _, name := range slices.Sorted(mapsKeys(f.masters)) {
		m := *f.masters[name]
		if !f.back(name) {
			m.Health = cluster.HealthUnreachable
			s.Problems = append(s.Problems, "master "+name+" does not answer")
		} else {
			well++
		}
		if m.Name == f.leader {
			m.Role = cluster.StatusLeader
		}
		s.Members = append(s.Members, m)
	}
	s.FailuresTolerated = well - (len(f.masters)/2 + 1)
	if s.FailuresTolerated < 0 {
		return nil, errors.New("the cluster does not answer")
	}
	return s, nil
}

func (f *fake) Transfer(_ context.Context, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leader, f.done = to, append(f.done, "lead "+to)
	return nil
}

func (f *fake) Nodes(context.Context) (out []corev1.Node, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(mapsKeys(f.nodes)) {
		n := f.nodes[name].DeepCopy()
		if !f.back(name) {
			n.Status.Conditions[0].Status = corev1.ConditionUnknown
		}
		out = append(out, *n)
	}
	return out, nil
}

func (f *fake) Pods(_ context.Context, node string) ([]corev1.Pod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.pods[node]), nil
}

func (f *fake) replace(_ context.Context, h upgrade.Host) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, h.Name)
	f.away[h.Name] = time.Now().Add(3 * time.Second)
	if m := f.masters[h.Name]; m != nil {
		m.Version = after
	}
	if n := f.nodes[h.Name]; n != nil {
		n.Status.NodeInfo.KubeletVersion = after
	}
	if f.spoil != nil {
		f.spoil(f, h.Name)
	}
	return nil
}

func mapsKeys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// run upgrades the cluster, in virtual time.
func (f *fake) run(t *testing.T, change func(*upgrade.Options)) (out string, err error) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		o := upgrade.Options{Cluster: f, Version: after, Replace: f.replace, Patience: time.Minute, Out: &text}
		if change != nil {
			change(&o)
		}
		f.away = map[string]time.Time{}
		err = upgrade.Run(t.Context(), o)
		out = text.String()
	})
	return out, err
}

func TestHostsAreUpgradedOneAfterTheOther(t *testing.T) {
	f := newFake(3, "m2", "w2", "w1") // m2 is also a worker
	f.nodes["hollow-1"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "hollow-1", Labels: map[string]string{"kontiki.io/hollow": "true"}},
		Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: before}}}
	f.nodes["kubelet"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "kubelet"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.0"}}}
	out, err := f.run(t, nil)
	if want := []string{"m2", "m3", "lead m2", "m1", "w1", "w2"}; err != nil || !slices.Equal(f.done, want) {
		t.Fatalf("%v: %v, want %v\n%s", err, f.done, want, out)
	}
	for _, line := range []string{"m2 (master+worker): " + before + " -> " + after, "m1 leads: handing leadership over to m2", "w1 is back after 3s, with its 2 pod(s) as before", "5 host(s) upgraded"} {
		if !strings.Contains(out, line) {
			t.Errorf("the output lacks %q:\n%s", line, out)
		}
	}
	f.done = nil
	if out, err := f.run(t, nil); err != nil || len(f.done) > 0 || !strings.Contains(out, "All hosts run "+after+" already") {
		t.Errorf("again: %v, %v: %s", err, f.done, out)
	}
}

func TestAnUpgradeStopsAtTheFirstHostThatIsNotWell(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(f *fake, host string)
		says  string
	}{
		"does not come back":   {func(f *fake, host string) { f.away[host] = time.Now().Add(time.Hour) }, "master m3 does not answer"},
		"runs another version": {func(f *fake, host string) { f.masters[host].Version = before }, `runs version "` + before + `"`},
		"is not sent the log":  {func(f *fake, host string) { f.masters[host].AppliedIndex = 50 }, "applied the log up to 50, of 100"},
		"is removed":           {func(f *fake, host string) { delete(f.masters, host) }, "not a member any more"},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFake(3, "w1")
			f.spoil = func(f *fake, host string) {
				if host == "m3" {
					c.spoil(f, host)
				}
			}
			out, err := f.run(t, nil)
			if err == nil || !strings.Contains(err.Error(), "stopped at m3") || !strings.Contains(err.Error(), c.says) || !slices.Equal(f.done, []string{"m2", "m3"}) {
				t.Fatalf("%v, after %v\n%s", err, f.done, out)
			}
			// When the host is well, the same command goes on with what is left.
			f.spoil, f.done = nil, nil
			f.masters["m3"] = &cluster.MemberStatus{Name: "m3", Role: cluster.StatusVoter, Address: "10.0.0.3:6444", Version: after, Health: cluster.HealthOK, AppliedIndex: 100}
			if out, err := f.run(t, nil); err != nil || !slices.Equal(f.done, []string{"lead m2", "m1", "w1"}) {
				t.Errorf("then: %v, %v\n%s", err, f.done, out)
			}
		})
	}
}

func TestPodsAreAsBefore(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(pods []corev1.Pod) []corev1.Pod
		says  string
	}{
		"restarted":  {func(p []corev1.Pod) []corev1.Pod { p[0].Status.ContainerStatuses[0].RestartCount++; return p }, "containers were restarted, which an upgrade does not do: default/w1-a (c)"},
		"not ready":  {func(p []corev1.Pod) []corev1.Pod { p[1].Status.Conditions[0].Status = corev1.ConditionFalse; return p }, "pods that were ready are not: default/w1-b"},
		"one ended":  {func(p []corev1.Pod) []corev1.Pod { return p[:1] }, ""},
		"as before":  {func(p []corev1.Pod) []corev1.Pod { return p }, ""},
		"one is new": {func(p []corev1.Pod) []corev1.Pod { return append(p, pod("new")) }, ""},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFake(3, "w1", "w2")
			f.spoil = func(f *fake, host string) {
				if host != "w1" {
					return
				}
				var own []corev1.Pod
				for _, p := range f.pods[host] {
					own = append(own, *p.DeepCopy())
				}
				f.pods[host] = c.spoil(own)
			}
			out, err := f.run(t, nil)
			if c.says == "" && (err != nil || f.done[len(f.done)-1] != "w2") {
				t.Errorf("%v, after %v\n%s", err, f.done, out)
			}
			if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || f.done[len(f.done)-1] != "w1") {
				t.Errorf("%v, after %v\n%s", err, f.done, out)
			}
		})
	}
}

func TestAnUpgradeDoesNotBeginInAClusterThatIsNotWell(t *testing.T) {
	notReady := func(f *fake) { f.nodes["w1"].Status.Conditions[0].Status = corev1.ConditionFalse }
	for what, c := range map[string]struct {
		masters int
		spoil   func(*fake)
		allow   bool
		says    string
	}{
		"a problem":                        {3, func(f *fake) { f.problems = []string{"the disk of master m1 is full"} }, false, "the disk of master m1 is full"},
		"a worker that is not ready":       {3, notReady, false, "worker w1 is not ready"},
		"one master":                       {1, func(*fake) {}, false, "--allow-interruption"},
		"two masters":                      {2, func(*fake) {}, false, "--allow-interruption"},
		"one master, with an interruption": {1, func(*fake) {}, true, ""},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFake(c.masters, "w1")
			c.spoil(f)
			_, problems, err := upgrade.Plan(t.Context(), upgrade.Options{Cluster: f, Version: after, AllowInterruption: c.allow})
			if err != nil || c.says != "" != (len(problems) > 0) {
				t.Errorf("the plan: %v, %v", problems, err)
			}
			out, err := f.run(t, func(o *upgrade.Options) { o.AllowInterruption = c.allow })
			if c.says == "" {
				if err != nil || !slices.Equal(f.done, []string{"m1", "w1"}) {
					t.Errorf("%v, after %v\n%s", err, f.done, out)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || len(f.done) > 0 {
				t.Errorf("%v, after %v\n%s", err, f.done, out)
			}
		})
	}
}

func TestAProgramThatIsNotReplacedStopsTheUpgrade(t *testing.T) {
	f := newFake(3, "w1")
	_, err := f.run(t, func(o *upgrade.Options) {
		o.Replace = func(context.Context, upgrade.Host) error { return errors.New("connection refused") }
	})
	if err == nil || !strings.Contains(err.Error(), "stopped at m2: its program could not be replaced: connection refused") {
		t.Error(err)
	}
}

func TestThePlanNamesHostsInOrder(t *testing.T) {
	f := newFake(3, "w1", "m3")
	hosts, problems, err := upgrade.Plan(t.Context(), upgrade.Options{Cluster: f, Version: after})
	want := []upgrade.Host{
		{Name: "m2", Role: upgrade.Master, Address: "10.0.0.2", Version: before},
		{Name: "m3", Role: upgrade.Both, Address: "10.0.0.3", Version: before},
		{Name: "m1", Role: upgrade.Master, Address: "10.0.0.1", Version: before, Leads: true},
		{Name: "w1", Role: upgrade.Worker, Address: "10.0.1.1", Version: before},
	}
	if err != nil || len(problems) > 0 || !slices.Equal(hosts, want) {
		t.Errorf("%v, %v\n%+v\nwant\n%+v", err, problems, hosts, want)
	}
}
