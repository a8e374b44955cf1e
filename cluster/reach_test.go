package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/test/await"
)

// TestAFollowerThatComesBackCountsAtOnce: a master was away for minutes. Once it has heard from the leader again it makes the
// majority with it, so that the other one may fail. Raft by itself leaves it alone for up to ten seconds more.
func TestAFollowerThatComesBackCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{t: t, net: newMemNet(1)}
		s.start(t, func(*Config) {})
		leader := s.leader()
		back, other := (leader+1)%3, (leader+2)%3
		s.down(back, killed)
		for range 60 { // the leader goes on trying
			s.masters.nodes[leader].put("/t/things/ns/0", "meanwhile")
			time.Sleep(3 * time.Second) // virtual
		}
		s.up(back)
		await.That(t, "the master that came back to hear from the leader", func() error {
			if name, _ := s.masters.nodes[back].c.Leader(); name == "" {
				return errors.New("it has not")
			}
			return nil
		})
		s.down(other, killed)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // virtual
		defer cancel()
		if _, err := s.masters.nodes[leader].c.Propose(ctx, put("/t/things/ns/0", "after")); err != nil {
			t.Errorf("a write on the leader and the master that came back: %v", err)
		}
		if now := s.leader(); now != leader {
			t.Errorf("leadership moved from %d to %d", leader, now)
		}
		s.up(other)
		s.masters.nodes[other].waitReady()
		s.equal()
	})
}

// TestNoCallIsHeldForEver: a call to a peer that does not come back ends when the peer was removed, when another term has
// begun, and when the master stops.
func TestNoCallIsHeldForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{t: t, net: newMemNet(1)}
		s.start(t, func(*Config) {})
		leader := s.leader()
		gone := s.masters.nodes[(leader+1)%3]
		address, n := raft.ServerAddress(gone.cfg.BindAddress), s.masters.nodes[leader]
		held := func() (done chan struct{}) {
			done = make(chan struct{})
			request := &raft.AppendEntriesRequest{Term: n.c.consensus.Term(), PrevLogEntry: 1, PrevLogTerm: 1}
			transport := n.c.consensus.Internals().Transport
			go func() {
				_ = transport.AppendEntries(raft.ServerID(gone.cfg.Name), address, request, new(raft.AppendEntriesResponse))
				close(done)
			}()
			time.Sleep(time.Minute) // virtual
			select {
			case <-done:
				t.Fatal("a call to a follower that is away was not held")
			default:
			}
			return done
		}
		s.down((leader+1)%3, killed)
		time.Sleep(time.Second) // virtual: the answer to a heartbeat may still have been on its way, and lets a call go
		call := held()
		s.masters.lead(s.masters.nodes[(leader+2)%3])
		<-call
		s.masters.lead(n)
		call = held()
		n.c.consensus.Internals().Transport.Release()
		<-call
		s.down(leader, func(n *node) { n.stop() })
		s.up(leader)
		for _, m := range []*node{n, s.masters.nodes[(leader+2)%3]} {
			m.waitReady()
		}
		s.masters.lead(n)
		call = held()
		if err := n.c.RemoveMember(context.Background(), gone.cfg.Name); err != nil {
			t.Fatal(err)
		}
		<-call
	})
}
