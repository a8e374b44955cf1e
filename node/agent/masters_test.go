package agent

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

func TestNodesSpreadOverTheMasters(t *testing.T) {
	masters := []string{"192.0.2.1:6444", "192.0.2.2:6444", "192.0.2.3:6444", "192.0.2.4:6444", "192.0.2.5:6444"}
	const nodes = 5000
	first, second := map[string]int{}, map[string]int{}
	for i := range nodes {
		name := fmt.Sprint("worker-", i)
		order := inOrder(name, masters)
		if again := inOrder(name, []string{masters[3], masters[1], masters[4], masters[0], masters[2]}); !slices.Equal(order, again) {
			t.Fatalf("%s: the order depends on the order: %v, %v", name, order, again)
		}
		first[order[0]]++
		if order[0] == masters[0] {
			second[order[1]]++
			// Without its first the rest stays as it is: who is not concerned does not move.
			if rest := inOrder(name, masters[1:]); !slices.Equal(rest, order[1:]) {
				t.Fatalf("%s: %v, without the first %v", name, order, rest)
			}
		}
	}
	for _, m := range masters {
		if n := first[m]; n < nodes/5*8/10 || n > nodes/5*12/10 {
			t.Errorf("%s is the first of %d of %d nodes", m, n, nodes)
		}
		if n := second[m]; m != masters[0] && (n < nodes/20*7/10 || n > nodes/20*13/10) {
			t.Errorf("%s takes over %d of the %d nodes of another master", m, n, first[masters[0]])
		}
	}
}

// twoMasters starts two masters and an agent, and answers the master that it prefers and the other one.
func twoMasters(t *testing.T, change func(*master)) (home, other *master, addresses []string) {
	t.Helper()
	a, b := newMaster(t), newMaster(t)
	addresses = inOrder("node-1", []string{a.addr, b.addr})
	for _, m := range []*master{a, b} {
		m.peers = addresses
		change(m)
	}
	if a.addr == addresses[0] {
		return a, b, addresses
	}
	return b, a, addresses
}

func TestASilentMasterIsLeft(t *testing.T) {
	home, other, _ := twoMasters(t, func(m *master) { m.beats = true })
	startFake(t, fake.New(runtimetest.BusyboxName), home, other)
	home.await("an answer to its beats", func() bool { return home.answers > 0 })
	other.mu.Lock()
	if other.hellos > 0 {
		t.Error("the worker did not begin with the master that it prefers")
	}
	other.mu.Unlock()
	// Its host vanishes: the connection stays up, and nothing comes.
	home.mu.Lock()
	home.mute = true
	home.mu.Unlock()
	other.await("the worker of a silent master", func() bool { return other.hellos > 0 && other.answers > 0 })
}

func TestAWorkerMovesWhenItIsAsked(t *testing.T) {
	home, other, addresses := twoMasters(t, func(*master) {})
	rt := fake.New(runtimetest.BusyboxName)
	startFake(t, rt, home, other)
	home.await("the first session", func() bool { return home.hellos == 1 })
	home.move(addresses[1])
	other.await("the worker", func() bool { return other.hellos == 1 })
	// One that it cannot reach does not end its session.
	other.move("127.0.0.1:1")
	p := sleeper("p")
	other.pod(p)
	other.awaitPod(p.UID, "running", running)
	other.move(addresses[0])
	home.await("the worker again", func() bool { return home.hellos == 2 })
	other.mu.Lock()
	defer other.mu.Unlock()
	if other.hellos != 1 {
		t.Errorf("%d sessions with the second master", other.hellos)
	}
}

// mutedStream is a session's stream on which nothing is sent.
type mutedStream struct {
	grpc.ClientStream
	answers int
}

func (s *mutedStream) Send(*nodev1.SessionRequest) error { s.answers++; return nil }
func (s *mutedStream) Recv() (*nodev1.SessionResponse, error) {
	return nil, context.Canceled
}

func TestSilenceIsCountedInMissedBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := &mutedStream{}
		s := &session{stream: stream, spoke: make(chan struct{}, 1)}
		ended := make(chan error, 1)
		go func() { ended <- s.listen(t.Context(), missedBeats) }()
		still := func(what string) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-ended:
				t.Fatalf("%s: ended with %v", what, err)
			default:
			}
		}
		// A master of an earlier version sends no beats, and is not held to them.
		s.spoke <- struct{}{}
		time.Sleep(30 * time.Minute) // virtual, as everywhere in this test
		still("no beats")
		s.period.Store(int64(300 * time.Millisecond))
		for range 100 {
			s.spoke <- struct{}{}
			time.Sleep(900 * time.Millisecond)
			still("beats that come late")
		}
		// While an assignment is written to a slow disk nobody reads beats; the worker goes on answering.
		s.busy.Store(true)
		s.spoke <- struct{}{}
		time.Sleep(time.Minute)
		still("busy")
		if stream.answers < 55 || stream.answers > 70 {
			t.Errorf("%d answers in a minute", stream.answers)
		}
		s.busy.Store(false)
		began := time.Now()
		if err := <-ended; err != errSilent {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("silent after %s", took)
		}
	})
}
