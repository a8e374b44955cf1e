package consensus

import (
	"context"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/test/robustness/history"
)

// scheduleFaults are the faults of schedules, by name. Each lasts for a while, is undone, and returns whether it took effect.
var scheduleFaults = map[string]func(s *schedule, r *rand.Rand) bool{
	"kill": func(s *schedule, r *rand.Rand) bool { return s.crash(r, false, r.Intn(3)) },
	"kill the leader": func(s *schedule, r *rand.Rand) bool {
		i := s.leader()
		return i >= 0 && s.replaced(i, func() bool { return s.crash(r, false, i) })
	},
	"kill two": func(s *schedule, r *rand.Rand) bool {
		i := r.Intn(3)
		return s.crash(r, false, i, (i+1)%3)
	},
	"power loss": func(s *schedule, r *rand.Rand) bool { return s.crash(r, true, r.Intn(3)) },
	"power loss of the leader": func(s *schedule, r *rand.Rand) bool {
		i := s.leader()
		return i >= 0 && s.crash(r, true, i)
	},
	"power loss of all": func(s *schedule, r *rand.Rand) bool { return s.crash(r, true, 0, 1, 2) },
	"stop": func(s *schedule, r *rand.Rand) bool {
		m := s.masters[r.Intn(3)]
		done := m.stop()
		s.hold(r)
		m.start()
		return done
	},
	"isolate": func(s *schedule, r *rand.Rand) bool {
		return s.partition(r, func() { s.isolate(r.Intn(3), true, true) })
	},
	"isolate the leader": func(s *schedule, r *rand.Rand) bool {
		i := s.leader()
		return i >= 0 && s.replaced(i, func() bool { return s.partition(r, func() { s.isolate(i, true, true) }) })
	},
	"deafen": func(s *schedule, r *rand.Rand) bool {
		return s.partition(r, func() { s.isolate(r.Intn(3), true, false) })
	},
	"mute": func(s *schedule, r *rand.Rand) bool {
		return s.partition(r, func() { s.isolate(r.Intn(3), false, true) })
	},
	"cut one link": func(s *schedule, r *rand.Rand) bool {
		return s.partition(r, func() {
			i := r.Intn(3)
			a, b := s.masters[i].address, s.masters[(i+1)%3].address
			s.net.link(a, b, true)
			s.net.link(b, a, r.Intn(2) == 0)
		})
	},
	"slow network": func(s *schedule, r *rand.Rand) bool {
		before := s.net.slowed()
		s.net.slow(time.Duration(50+r.Intn(200)) * time.Millisecond)
		s.hold(r)
		s.net.mend()
		return s.net.slowed() > before
	},
	"transfer": func(s *schedule, _ *rand.Rand) bool {
		i := s.leader()
		if i < 0 {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		life := s.masters[i].life.Load()
		return life != nil && life.c.Transfer(ctx, "") == nil
	},
	"snapshot": func(s *schedule, r *rand.Rand) bool { return s.snapshot(r.Intn(3)) },
	"disk stall": func(s *schedule, r *rand.Rand) bool {
		i := s.leader()
		if i < 0 || r.Intn(2) == 0 {
			i = r.Intn(3)
		}
		life := s.masters[i].life.Load()
		if life == nil {
			return false
		}
		release := life.disk.hold()
		time.Sleep(time.Duration(1+r.Intn(10)) * time.Second) // virtual
		release()
		return life.disk.Health().Stalls > 0
	},
	"a proposal that arrives late":                     (*schedule).lateProposal,
	"a hand-over that the old leader does not hear of": (*schedule).unheardTransfer,
	// The other masters truncate their logs in the meantime.
	"far behind": func(s *schedule, r *rand.Rand) bool {
		i := r.Intn(3)
		before := s.installs()
		if r.Intn(2) == 0 {
			s.isolate(i, true, true)
		} else {
			s.masters[i].kill(false)
		}
		time.Sleep(2*time.Second + time.Duration(r.Intn(1000))*time.Millisecond) // virtual
		s.snapshot((i + 1) % 3)
		s.snapshot((i + 2) % 3)
		s.mendAll()
		time.Sleep(time.Second) // virtual
		return s.installs() > before
	},
	"a log of its own": (*schedule).ownLog,
}

var scheduleFaultNames = slices.Sorted(maps.Keys(scheduleFaults))

// scheduleEvents must happen in the schedules, in addition to the faults themselves.
var scheduleEvents = slices.Concat(
	[]string{"a snapshot was installed", "an unsynced write was dropped", "a call arrived late", "two faults at once", "a leader that was away was replaced"},
	history.WatchEvents, slices.Collect(maps.Values(simEvents)),
)

// inject injects a few faults, one after the other or two at once.
func (s *schedule) inject(r *rand.Rand) {
	s.awaitLeader()
	for range 2 + r.Intn(3) {
		time.Sleep(time.Duration(r.Intn(700)) * time.Millisecond) // virtual
		var both sync.WaitGroup
		if r.Intn(3) == 0 {
			other := rand.New(rand.NewSource(r.Int63()))
			both.Go(func() {
				time.Sleep(time.Duration(other.Intn(500)) * time.Millisecond) // virtual
				if s.fault(other) {
					s.count("two faults at once")
				}
			})
		}
		s.fault(r)
		both.Wait()
	}
	s.tell("no more faults")
}

func (s *schedule) fault(r *rand.Rand) bool {
	name := scheduleFaultNames[r.Intn(len(scheduleFaultNames))]
	s.tell(name)
	done := scheduleFaults[name](s, r)
	if done {
		s.count(name)
	}
	return done
}

func (s *schedule) hold(r *rand.Rand) { time.Sleep(time.Duration(100+r.Intn(1900)) * time.Millisecond) } // virtual

// awaitLeader waits for a leader, so that the first fault meets a working cluster.
func (s *schedule) awaitLeader() {
	for range 400 {
		if s.leader() >= 0 {
			return
		}
		time.Sleep(10 * time.Millisecond) // virtual
	}
}

func (s *schedule) leader() int {
	for i, m := range s.masters {
		if life := m.life.Load(); life != nil && life.c.IsLeader() {
			return i
		}
	}
	return -1
}

// replaced counts whether there is another leader after a fault of the leader.
func (s *schedule) replaced(leader int, fault func() bool) bool {
	done := fault()
	if now := s.leader(); now >= 0 && now != leader {
		s.count("a leader that was away was replaced")
	}
	return done
}

// crash stops machines at one moment, and starts them again after a while. A loss of power happens while the first of them writes.
// It took effect if all of them were up.
func (s *schedule) crash(r *rand.Rand, power bool, victims ...int) bool {
	if life := s.masters[victims[0]].life.Load(); power && life != nil {
		awaitFor(life.disk.nextWrite(), 300*time.Millisecond)
	}
	done := true
	for _, i := range victims {
		done = s.masters[i].kill(power) && done
	}
	s.hold(r)
	for _, i := range victims {
		s.masters[i].start()
		if r.Intn(2) == 0 {
			time.Sleep(time.Duration(r.Intn(500)) * time.Millisecond) // virtual
		}
	}
	return done
}

// awaitFor waits for a condition for a limited time.
func awaitFor(what <-chan struct{}, bound time.Duration) bool {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-what:
		return true
	case <-timer.C:
		return false
	}
}

// ownLog makes an isolated leader append entries that are never committed, while the others write and truncate their logs, so that
// it is sent a snapshot that conflicts with its log. It may crash right after it has installed it.
func (s *schedule) ownLog(r *rand.Rand) bool {
	i := s.leader()
	if i < 0 {
		return false
	}
	life := s.masters[i].life.Load()
	if life == nil {
		return false
	}
	s.isolate(i, true, true)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	var proposals sync.WaitGroup
	propose := func(on *simLife, n int) {
		for k := range n {
			command := put("/other/things/ns/x", fmt.Sprint(k))
			command.Since = 1
			data, err := fsm.EncodeCommand(command)
			if err != nil {
				s.fail(err)
				return
			}
			proposals.Go(func() { on.c.applyAll(ctx, [][]byte{data}) })
		}
	}
	propose(life, 40)
	time.Sleep(1500*time.Millisecond + time.Duration(r.Intn(1000))*time.Millisecond) // virtual: the others elect
	if j := s.leader(); j >= 0 && j != i {
		if other := s.masters[j].life.Load(); other != nil {
			propose(other, 5+r.Intn(20))
			time.Sleep(100 * time.Millisecond) // virtual
		}
	}
	s.snapshot((i + 1) % 3)
	s.snapshot((i + 2) % 3)
	installed := life.disk.nextSnapshot()
	s.net.mend()
	done := awaitFor(installed, 2*time.Second)
	if done && r.Intn(2) == 0 {
		time.Sleep(time.Duration(r.Intn(1000)) * time.Microsecond) // virtual
		s.masters[i].kill(r.Intn(2) == 0)
		s.hold(r)
		s.masters[i].start()
	}
	cancel()
	proposals.Wait()
	return done
}

// unheardTransfer transfers leadership while nothing reaches the old leader, so that it believes until its lease ends that it
// leads: responses to its earlier messages are still on their way to it. Meanwhile the new leader acknowledges writes.
func (s *schedule) unheardTransfer(r *rand.Rand) bool {
	i := s.leader()
	if i < 0 {
		return false
	}
	old := s.masters[i].life.Load()
	if old == nil {
		return false
	}
	s.isolate(i, true, false)
	time.Sleep(70 * time.Millisecond) // virtual: a heartbeat to each of the others is under way
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var asking sync.WaitGroup
	to := (i + 1 + r.Intn(2)) % 3
	asking.Go(func() {
		_ = old.c.node.await(ctx, func() raft.Future {
			return old.c.node.raft.LeadershipTransferToServer(raft.ServerID(s.masters[to].name), raft.ServerAddress(s.masters[to].address))
		})
	})
	elected := false
	for range 30 {
		if life := s.masters[to].life.Load(); life != nil && life.c.IsLeader() {
			elected = true
			break
		}
		time.Sleep(2 * time.Millisecond) // virtual
	}
	var last history.Bank
	if life := s.masters[to].life.Load(); elected && life != nil {
		for range 4 {
			s.history.Ask(ctx, 50, s.bugs.asker(life), r, &last)
		}
	}
	believes := old.c.IsLeader()
	for k := range 4 {
		own := rand.New(rand.NewSource(r.Int63()))
		asking.Go(func() {
			var last history.Bank
			for range 3 {
				s.history.Ask(ctx, 60+k, s.bugs.asker(old), own, &last)
			}
		})
	}
	time.Sleep(time.Duration(r.Intn(10)) * time.Millisecond) // virtual
	s.net.mend()
	asking.Wait()
	return elected && believes
}

// lateProposal delays a follower's proposal while leadership moves to the third master, where the follower proposes it again, and
// back: then the first attempt arrives, after many other commands have been applied.
func (s *schedule) lateProposal(r *rand.Rand) bool {
	i := s.leader()
	if i < 0 {
		return false
	}
	from, to := (i+1)%3, (i+2)%3
	lives := [3]*simLife{s.masters[0].life.Load(), s.masters[1].life.Load(), s.masters[2].life.Load()}
	if lives[0] == nil || lives[1] == nil || lives[2] == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	before := s.net.lateCalls()
	s.net.stick(s.masters[from].address, s.masters[i].address)
	var asking sync.WaitGroup
	for k := range 3 {
		own := rand.New(rand.NewSource(r.Int63()))
		asking.Go(func() {
			var last history.Bank
			s.history.Ask(ctx, 70+k, s.bugs.asker(lives[from]), own, &last)
		})
	}
	time.Sleep(20 * time.Millisecond) // virtual: they are under way
	if lives[i].c.Transfer(ctx, s.masters[to].name) == nil {
		asking.Wait()
		var last history.Bank
		for range 3 * simRemembered {
			s.history.Ask(ctx, 80, s.bugs.asker(lives[to]), r, &last)
		}
		_ = lives[to].c.Transfer(ctx, s.masters[i].name)
		for range 50 {
			if lives[i].c.IsLeader() {
				break
			}
			time.Sleep(2 * time.Millisecond) // virtual
		}
	}
	s.net.mend()
	asking.Wait()
	time.Sleep(20 * time.Millisecond) // virtual
	return s.net.lateCalls() > before
}

// partition cuts links for a while. It took effect if a message was sent on a link that was cut.
func (s *schedule) partition(r *rand.Rand, cut func()) bool {
	before := s.net.heldUp()
	cut()
	s.hold(r)
	s.net.mend()
	return s.net.heldUp() > before
}

func (s *schedule) isolate(i int, in, out bool) {
	own := s.masters[i].address
	for j, m := range s.masters {
		if j != i {
			s.net.link(m.address, own, in)
			s.net.link(own, m.address, out)
		}
	}
}

func (s *schedule) snapshot(i int) bool {
	life := s.masters[i].life.Load()
	if life == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return life.c.node.await(ctx, func() raft.Future { return life.c.node.raft.Snapshot() }) == nil // there may be nothing new
}

// installs counts snapshots that were installed.
func (s *schedule) installs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.happened["a snapshot was installed"]
}

// mendAll reverts a fault.
func (s *schedule) mendAll() {
	s.net.mend()
	for _, m := range s.masters {
		m.start()
	}
}
