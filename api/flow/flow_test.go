package flow

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Sleeps that are marked as virtual are in bubbles of testing/synctest: they advance its clock, and take no time.

// queuing returns a level with queues, and a number of shares.
func queuing(name string, shares, queues, hand, length int32, change ...func(*flowcontrolv1.LimitedPriorityLevelConfiguration)) *flowcontrolv1.PriorityLevelConfiguration {
	limited := &flowcontrolv1.LimitedPriorityLevelConfiguration{
		NominalConcurrencyShares: &shares,
		LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: length}},
	}
	for _, c := range change {
		c(limited)
	}
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("level-" + name)},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: limited}}
}

// rejecting returns a level without queues.
func rejecting(name string, shares int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := queuing(name, shares, 1, 1, 1)
	l.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	return l
}

// schemaFor returns a schema that sends users to a level, each as a flow of its own.
func schemaFor(level string, precedence int32, users ...string) *flowcontrolv1.FlowSchema {
	var subjects []flowcontrolv1.Subject
	for _, name := range users {
		subjects = append(subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}})
	}
	all := []string{"*"}
	return &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "to-" + level, UID: types.UID("schema-" + level)}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: precedence,
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         subjects,
			ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: all, APIGroups: all, Resources: all, Namespaces: all, ClusterScope: true}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: all, NonResourceURLs: all}},
		}},
	}}
}

// oneLevel returns a Control with a level for everybody that has exactly that many seats: the catch-all level has none.
func oneLevel(seats int, level *flowcontrolv1.PriorityLevelConfiguration) *Control {
	catchAll := rejecting("catch-all", 0)
	c := New(seats)
	c.Configure([]*flowcontrolv1.FlowSchema{schemaFor(level.Name, 100, "*")}, []*flowcontrolv1.PriorityLevelConfiguration{level, catchAll})
	return c
}

func as(name string) Request {
	return Request{User: &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}, Verb: "get", Path: "/api/v1/namespaces/ns/pods/a",
		Version: "v1", Resource: "pods", Namespace: "ns", ObjectName: "a", Wait: time.Minute}
}

func enters(t *testing.T, c *Control, r Request) *Seat {
	t.Helper()
	seat, _, err := c.Enter(t.Context(), r)
	if err != nil {
		t.Fatalf("%s is refused: %v", r.User.GetName(), err)
	}
	return seat
}

func refused(t *testing.T, c *Control, r Request) {
	t.Helper()
	_, _, err := c.Enter(t.Context(), r)
	if after, ok := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !ok || after < 1 {
		t.Fatalf("%s: %v", r.User.GetName(), err)
	}
}

// level returns one of the levels of a Control; what it reads of it, nobody changes meanwhile.
func levelOf(t *testing.T, c *Control, name string) *level {
	t.Helper()
	l := c.levels[name]
	if l == nil {
		t.Fatalf("no level %s", name)
	}
	return l
}

func TestTheSeatsAreSharedAsUpstreamSharesThem(t *testing.T) {
	c := New(600)
	c.Configure(bootstrap.SuggestedFlowSchemas, bootstrap.SuggestedPriorityLevelConfigurations)
	// What kube-apiserver with its default flags reports as apiserver_flowcontrol_nominal_limit_seats and lower_limit_seats.
	for name, want := range map[string][2]int{
		"exempt": {0, 0}, "catch-all": {13, 13}, "global-default": {49, 24}, "workload-low": {245, 24}, "workload-high": {98, 49},
		"leader-election": {25, 25}, "node-high": {98, 73}, "system": {74, 50},
	} {
		l := levelOf(t, c, name)
		if got := [2]int{l.limits.nominal, l.limits.least}; got != want {
			t.Errorf("%s: nominal and least %v, want %v", name, got, want)
		}
	}
}

// TestAFlowGetsItsShareWhateverAnotherOneSends: of two flows that always want the only seat, each gets half of the time, although
// one of them sends a hundred times as many requests.
func TestAFlowGetsItsShareWhateverAnotherOneSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(1, queuing("one", 100, 64, 1, 200))
		c.seed = apart(c, "greedy", "modest")
		ctx, cancel := context.WithCancel(t.Context())
		var served [2]atomic.Int64
		var group sync.WaitGroup
		run := func(i int, name string) {
			group.Go(func() {
				for ctx.Err() == nil {
					seat, _, err := c.Enter(ctx, as(name))
					if err != nil {
						continue
					}
					time.Sleep(10 * time.Millisecond) // virtual
					seat.Leave()
					served[i].Add(1)
				}
			})
		}
		for range 100 {
			run(0, "greedy")
		}
		run(1, "modest")
		time.Sleep(10 * time.Second) // virtual
		cancel()
		group.Wait()
		if total := served[0].Load() + served[1].Load(); total < 990 || served[1].Load() < 480 {
			t.Errorf("served %d of the greedy, %d of the modest", served[0].Load(), served[1].Load())
		}
	})
}

// apart finds a seed of the hash for which flows have different queues, in a level where a hand is one queue.
func apart(c *Control, users ...string) (seed maphashSeed) {
	for {
		c.seed = newSeed()
		queues := map[int]bool{}
		for _, name := range users {
			r := as(name)
			s := c.classify(&r)
			queues[s.level.deal(c.hash(s.Name, name))] = true
		}
		if len(queues) == len(users) {
			return c.seed
		}
	}
}

// TestWidthCountsAsWork: two flows of which one sends requests of three seats are served equal work, not equal numbers.
func TestWidthCountsAsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(6, queuing("one", 100, 64, 1, 200))
		levelOf(t, c, "one").limits.widest = 3
		c.seed = apart(c, "wide", "narrow")
		ctx, cancel := context.WithCancel(t.Context())
		var served [2]atomic.Int64
		var group sync.WaitGroup
		for i, name := range []string{"wide", "narrow"} {
			for range 20 {
				group.Go(func() {
					r := as(name)
					if name == "wide" {
						r.Bytes = 300_000
					}
					for ctx.Err() == nil {
						seat, _, err := c.Enter(ctx, r)
						if err != nil {
							continue
						}
						time.Sleep(10 * time.Millisecond) // virtual
						seat.Leave()
						served[i].Add(1)
					}
				})
			}
		}
		time.Sleep(20 * time.Second) // virtual
		cancel()
		group.Wait()
		wide, narrow := served[0].Load(), served[1].Load()
		if ratio := float64(narrow) / float64(wide); ratio < 2.5 || ratio > 3.5 {
			t.Errorf("served %d wide and %d narrow requests", wide, narrow)
		}
	})
}

// TestAGreedyFlowFillsItsHandAndNobodyElses: a flow that fills all queues of its hand is refused, and nearly all others are not.
func TestAGreedyFlowFillsItsHandAndNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hand, length = 6, 5
		c := oneLevel(2, queuing("one", 100, 128, hand, length))
		ctx, cancel := context.WithCancel(t.Context())
		held := []*Seat{enters(t, c, as("greedy")), enters(t, c, as("greedy"))}
		var group sync.WaitGroup
		for range hand * length {
			group.Go(func() {
				if seat, _, err := c.Enter(ctx, as("greedy")); err == nil {
					seat.Leave()
				}
			})
		}
		synctest.Wait()
		refused(t, c, as("greedy"))
		var others atomic.Int64
		for i := range 20 {
			group.Go(func() {
				if seat, _, err := c.Enter(ctx, as(fmt.Sprint("other-", i))); err == nil {
					others.Add(1)
					seat.Leave()
				}
			})
		}
		synctest.Wait()
		for _, s := range held {
			s.Leave()
		}
		group.Wait()
		cancel()
		if others.Load() != 20 {
			t.Errorf("%d of 20 others were served", others.Load())
		}
		if l := levelOf(t, c, "one"); !l.idle() || l.seats != 0 || l.seatsWanted != 0 || l.active != 0 || l.rejected != 1 {
			t.Errorf("afterwards: %+v", l)
		}
	})
}

// TestLevelsDoNotNoticeEachOther: a level is full, and another one serves at once.
func TestLevelsDoNotNoticeEachOther(t *testing.T) {
	c := New(20)
	c.Configure([]*flowcontrolv1.FlowSchema{schemaFor("low", 100, "greedy"), schemaFor("high", 200, "*")},
		[]*flowcontrolv1.PriorityLevelConfiguration{rejecting("low", 50), rejecting("high", 50), rejecting("catch-all", 0)})
	for range 10 {
		enters(t, c, as("greedy"))
	}
	refused(t, c, as("greedy"))
	for range 10 {
		enters(t, c, as("other"))
	}
	refused(t, c, as("other"))
	// Administrators and health checks are always served.
	admin := as("admin")
	admin.User = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
	health := as("greedy")
	health.Resource, health.Path, health.Health = "", "/livez", true
	for range 30 {
		enters(t, c, admin)
		enters(t, c, health)
	}
}

func TestARequestWaitsForItsTimeAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(1, queuing("one", 100, 1, 1, 10))
		held := enters(t, c, as("a"))
		began := time.Now()
		r := as("b")
		r.Wait = 15 * time.Second
		refused(t, c, r)
		if waited := time.Since(began); waited != 15*time.Second {
			t.Errorf("waited %v", waited)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, _, err := c.Enter(ctx, as("b")); !apierrors.IsTooManyRequests(err) {
			t.Errorf("a client that has gone: %v", err)
		}
		l := levelOf(t, c, "one")
		if l.waiting != 0 || l.seatsWanted != 0 || l.timedOut != 1 || l.cancelled != 1 || l.rejected != 2 || l.queues[0].work != 0 {
			t.Errorf("afterwards: %+v", l)
		}
		time.AfterFunc(time.Second, held.Leave)
		next := enters(t, c, as("b"))
		held.Leave() // again
		refusedNow := as("c")
		refusedNow.Wait = time.Second
		refused(t, c, refusedNow)
		next.Leave()
		enters(t, c, as("c"))
	})
}

// TestADeletedLevelServesWhatItHas: requests that wait in a level whose object is deleted are served, new ones go elsewhere.
func TestADeletedLevelServesWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(1, queuing("one", 100, 1, 1, 10))
		held := enters(t, c, as("a"))
		done := make(chan error)
		go func() {
			seat, _, err := c.Enter(t.Context(), as("b"))
			seat.Leave()
			done <- err
		}()
		synctest.Wait()
		c.Configure([]*flowcontrolv1.FlowSchema{schemaFor("one", 100, "*")}, nil)
		if l := levelOf(t, c, "one"); !l.quiescing || l.waiting != 1 {
			t.Errorf("%+v", l)
		}
		// The schema's level does not exist any more.
		seat, class, err := c.Enter(t.Context(), as("c"))
		if err != nil || class != (Class{}) {
			t.Errorf("%v %v", class, err)
		}
		if seat.level.name != "catch-all" {
			t.Errorf("a new request went to %s", seat.level.name)
		}
		held.Leave()
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.adjust()
		if c.levels["one"] != nil {
			t.Error("the level is still there")
		}
	})
}

// TestQueuesMayBecomeFewer: requests in queues that are no longer desired are served.
func TestQueuesMayBecomeFewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(1, queuing("one", 100, 64, 1, 10))
		held := enters(t, c, as("a"))
		var group sync.WaitGroup
		var served atomic.Int64
		for i := range 30 {
			group.Go(func() {
				if seat, _, err := c.Enter(t.Context(), as(fmt.Sprint("user-", i))); err == nil {
					served.Add(1)
					seat.Leave()
				}
			})
		}
		synctest.Wait()
		for _, level := range []*flowcontrolv1.PriorityLevelConfiguration{queuing("one", 100, 2, 1, 10), rejecting("one", 100)} {
			c.Configure(c.given.schemas, []*flowcontrolv1.PriorityLevelConfiguration{level, rejecting("catch-all", 0)})
		}
		refused(t, c, as("new"))
		held.Leave()
		group.Wait()
		if l := levelOf(t, c, "one"); served.Load() != 30 || len(l.queues) != 0 || l.active != 0 {
			t.Errorf("%d were served; %+v", served.Load(), l)
		}
	})
}

// TestAWriteOccupiesSeatsForItsWatchers: after a write that many watch, its seats stay occupied for the work of sending events.
func TestAWriteOccupiesSeatsForItsWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(10, rejecting("one", 100))
		var ended []func()
		for _, of := range [][3]string{{"pods"}, {"pods", "ns"}, {"pods", "ns", "a"}, {"pods", "other"}, {"nodes"}} {
			for range 10 {
				ended = append(ended, c.Watching("", of[0], of[1], of[2]))
			}
		}
		write := as("a")
		write.Verb = "update"
		began := time.Now()
		seat := enters(t, c, write)
		l := levelOf(t, c, "one")
		if l.seats != 3 { // 30 watchers are interested
			t.Errorf("%d seats are occupied", l.seats)
		}
		seat.Leave()
		l.mu.Lock()
		if l.seats != 3 || !l.idle() {
			t.Errorf("after the answer: %d seats are occupied", l.seats)
		}
		l.mu.Unlock()
		time.Sleep(durationPerEvent) // virtual
		synctest.Wait()
		l.mu.Lock()
		if l.seats != 0 || time.Since(began) != durationPerEvent {
			t.Errorf("later: %d seats are occupied", l.seats)
		}
		l.mu.Unlock()
		for _, end := range ended {
			end()
		}
		if len(c.watchers.count) != 0 {
			t.Errorf("left: %v", c.watchers.count)
		}
	})
}

// TestAListIsAsWideAsItsObjects, but never wider than its level allows.
func TestAListIsAsWideAsItsObjects(t *testing.T) {
	c := oneLevel(100, queuing("one", 100, 16, 4, 10))
	for bytes, want := range map[int64]int{0: 1, 100_000: 1, 100_001: 2, 950_000: 10, 1 << 40: 10} {
		r := as("a")
		r.Verb, r.ObjectName, r.Bytes = "list", "", bytes
		seat := enters(t, c, r)
		if seat.width.seats != want {
			t.Errorf("%d bytes: %d seats", bytes, seat.width.seats)
		}
		seat.Leave()
	}
	narrow := oneLevel(20, queuing("one", 100, 16, 4, 10))
	r := as("a")
	r.Verb, r.Bytes = "list", 1<<40
	if seat := enters(t, narrow, r); seat.width.seats != 3 {
		t.Errorf("in a small level: %d seats", seat.width.seats)
	}
}

// TestAWideRequestIsServedAlone: a request that is wider than its level does not wait forever.
func TestAWideRequestIsServedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(2, queuing("one", 100, 1, 1, 10))
		levelOf(t, c, "one").limits.widest = 5
		held := enters(t, c, as("a"))
		time.AfterFunc(time.Second, held.Leave)
		r := as("b")
		r.Bytes = 1 << 30
		wide := enters(t, c, r)
		if l := levelOf(t, c, "one"); l.seats != 5 || l.serving != 1 {
			t.Errorf("%+v", l)
		}
		time.AfterFunc(time.Second, wide.Leave)
		enters(t, c, as("a"))
	})
}

func TestRetryAfterGrowsWithWhatIsDropped(t *testing.T) {
	var r retry
	at := time.Unix(1000, 0)
	second := func(drops int) (told int) {
		for range drops {
			told = r.after(at)
		}
		at = at.Add(time.Second)
		return told
	}
	var told []int
	for range 70 {
		told = append(told, second(200))
	}
	if told[0] != 1 || told[1] != 2 || told[69] != longestRetry || !slices.IsSorted(told) {
		t.Errorf("while many are dropped: %v", told)
	}
	for range 100 {
		at = at.Add(40 * time.Second)
		second(1)
	}
	if got := second(1); got != 1 {
		t.Errorf("later: %d", got)
	}
	if len(r.history) > longestRetry+2 {
		t.Errorf("%d seconds are kept", len(r.history))
	}
}

// TestTheMeterMayBeSetBack: a level whose meter is set back while requests wait serves them in the same order.
func TestTheMeterMayBeSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneLevel(1, queuing("one", 100, 64, 1, 100))
		l := levelOf(t, c, "one")
		l.meter = highReading - perSecond
		c.seed = apart(c, "a", "b", "c")
		held := enters(t, c, as("c"))
		var mu sync.Mutex
		var order []string
		var group sync.WaitGroup
		for range 10 {
			for _, name := range []string{"a", "b"} {
				group.Go(func() {
					seat, _, err := c.Enter(t.Context(), as(name))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
					time.Sleep(10 * time.Millisecond) // virtual
					seat.Leave()
				})
			}
		}
		synctest.Wait()
		time.Sleep(5 * time.Second) // virtual
		held.Leave()
		group.Wait()
		if l.epochs != 1 || l.meter > highReading {
			t.Errorf("%d epochs, meter %v", l.epochs, l.meter)
		}
		for i := 0; i < len(order); i += 2 {
			if i > 2 && slices.Equal(order[i:i+2], []string{"a", "a"}) {
				t.Errorf("served in the order %v", order)
				break
			}
		}
	})
}

func BenchmarkEnter(b *testing.B) {
	for _, who := range []struct {
		name string
		user user.Info
	}{
		{"administrator", &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}},
		{"service account", &user.DefaultInfo{Name: "system:serviceaccount:ns:name", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns", user.AllAuthenticated}}},
		{"user", &user.DefaultInfo{Name: "joe", Groups: []string{"devs", user.AllAuthenticated}}},
	} {
		b.Run(who.name, func(b *testing.B) {
			c := New(600)
			c.Configure(bootstrap.SuggestedFlowSchemas, bootstrap.SuggestedPriorityLevelConfigurations)
			r := as("x")
			r.User = who.user
			b.ReportAllocs()
			for b.Loop() {
				seat, _, err := c.Enter(b.Context(), r)
				if err != nil {
					b.Fatal(err)
				}
				seat.Leave()
			}
		})
	}
}
