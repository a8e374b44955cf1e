package cluster

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/robustness/history"
)

// simulatedLength is how long a simulated cluster lives, in virtual time.
const simulatedLength = 15 * time.Second

// TestSimulatedFaults runs masters in virtual time over a network in memory, one schedule of faults a seed, while clients read
// and write on all of them and watchers watch. KONTIKI_SEEDS=FROM-TO runs others; a seed gives the same faults at the same
// times again (raft's own timeouts are not ours to seed).
func TestSimulatedFaults(t *testing.T) {
	from, to := int64(1), int64(12)
	if text := os.Getenv("KONTIKI_SEEDS"); text != "" {
		if _, err := fmt.Sscanf(text, "%d-%d", &from, &to); err != nil {
			t.Fatalf("KONTIKI_SEEDS=%q is not FROM-TO", text)
		}
	}
	var mu sync.Mutex
	happened := map[string]int{}
	operations := 0
	t.Run("seeds", func(t *testing.T) {
		for seed := from; seed <= to; seed++ {
			t.Run(strconv.FormatInt(seed, 10), func(t *testing.T) {
				t.Parallel()
				s := &simulation{seed: seed, happened: map[string]int{}}
				synctest.Test(t, func(t *testing.T) { s.run(t) })
				s.history.Check(t)
				mu.Lock()
				defer mu.Unlock()
				for name, n := range s.happened {
					happened[name] += n
				}
				operations += len(s.history.Done)
			})
		}
	})
	t.Logf("%d operations; what took effect: %v", operations, happened)
	if to-from < 10 {
		return
	}
	for _, name := range slices.Concat(faultNames, history.WatchEvents[:2]) {
		if happened[name] == 0 {
			t.Errorf("%q never took effect", name)
		}
	}
}

// simulation is one cluster of three masters, its clients and its faults.
type simulation struct {
	seed     int64
	t        *testing.T
	net      *memNet
	masters  *masters
	live     [3]atomic.Pointer[Cluster] // nil while a master is down
	history  history.History
	watches  history.Watchers
	happened map[string]int
}

func simulatedIP(name string) string { return "10.0.0." + name[len(name)-1:] }

// start starts the masters.
func (s *simulation) start(t *testing.T, change func(*Config)) {
	base, err := os.MkdirTemp("/dev/shm", "kontiki-sim") // its syncs cost nothing
	if err != nil {
		base = t.TempDir()
	}
	t.Cleanup(func() {
		time.Sleep(5 * time.Minute) // virtual: what ends by its timers has ended; whatever is left then is a leak, and fails the test
		os.RemoveAll(base)
	})
	s.masters = startMasters(t, 3, func(cfg *Config) {
		ip := simulatedIP(cfg.Name)
		cfg.Network, cfg.DataDir = s.net.host(ip), base+"/"+cfg.Name
		cfg.BindAddress, cfg.GossipBindAddress = ip+":6444", ip+":7946"
		cfg.DiskReserve = -1 // none of these disks is ever full
		change(cfg)
	})
	for i, n := range s.masters.nodes {
		s.live[i].Store(n.c)
	}
}

func (s *simulation) run(t *testing.T) {
	s.t, s.net = t, newMemNet(s.seed)
	s.start(t, func(cfg *Config) {
		cfg.Timings.SnapshotThreshold, cfg.Timings.TrailingLogs, cfg.Timings.SnapshotInterval = 40, 10, time.Second
	})
	ctx, stop := context.WithTimeout(context.Background(), simulatedLength)
	defer stop()
	var clients sync.WaitGroup
	for i := range 4 {
		r := rand.New(rand.NewSource(s.seed*100 + int64(i)))
		clients.Go(func() { s.client(ctx, i, r) })
	}
	s.watches.Start(ctx, &clients, 2, s.seed, func(r *rand.Rand) history.Source {
		if c := s.live[r.Intn(3)].Load(); c != nil {
			return history.InProcess{Master: c, Store: c.store}
		}
		return nil
	})
	s.inject(ctx, rand.New(rand.NewSource(s.seed)))
	clients.Wait()
	s.settle()
}

func (s *simulation) client(ctx context.Context, id int, r *rand.Rand) {
	var last history.Bank
	for ctx.Err() == nil {
		if c := s.live[r.Intn(3)].Load(); c != nil {
			one, cancel := context.WithTimeout(ctx, time.Duration(500+r.Intn(3000))*time.Millisecond)
			s.history.Ask(one, id, history.InProcess{Master: c, Store: c.store}, r, &last)
			cancel()
		}
		time.Sleep(time.Duration(r.Intn(300)) * time.Millisecond) // virtual: a client that thinks
	}
}

// faults are what is done to a simulated cluster, by name. Each goes on for a while, is undone, and answers whether it took effect.
var faults = map[string]func(s *simulation, r *rand.Rand, wait func()) bool{
	"kill": func(s *simulation, r *rand.Rand, wait func()) bool { return s.away(wait, killed, r.Intn(3)) },
	"kill the leader": func(s *simulation, _ *rand.Rand, wait func()) bool {
		i := s.leader()
		return i >= 0 && s.away(wait, killed, i)
	},
	"kill two": func(s *simulation, r *rand.Rand, wait func()) bool {
		i := r.Intn(3)
		return s.away(wait, killed, i, (i+1)%3)
	},
	"stop": func(s *simulation, r *rand.Rand, wait func()) bool { return s.away(wait, (*node).stop, r.Intn(3)) },
	"isolate": func(s *simulation, r *rand.Rand, wait func()) bool {
		return s.partition(wait, func() { s.isolate(r.Intn(3), true, true) })
	},
	"isolate the leader": func(s *simulation, _ *rand.Rand, wait func()) bool {
		i := s.leader()
		return i >= 0 && s.partition(wait, func() { s.isolate(i, true, true) }) && s.replaced(i)
	},
	"deafen": func(s *simulation, r *rand.Rand, wait func()) bool {
		return s.partition(wait, func() { s.isolate(r.Intn(3), true, false) })
	},
	"mute": func(s *simulation, r *rand.Rand, wait func()) bool {
		return s.partition(wait, func() { s.isolate(r.Intn(3), false, true) })
	},
	"cut one link": func(s *simulation, r *rand.Rand, wait func()) bool {
		return s.partition(wait, func() {
			i := r.Intn(3)
			a, b := simulatedIP(s.masters.nodes[i].cfg.Name), simulatedIP(s.masters.nodes[(i+1)%3].cfg.Name)
			s.net.link(a, b, true)
			s.net.link(b, a, r.Intn(2) == 0)
		})
	},
	"slow network": func(s *simulation, _ *rand.Rand, wait func()) bool {
		_, before := s.net.suffered()
		s.net.setDelay(120 * time.Millisecond)
		wait()
		s.net.setDelay(memDelay)
		_, after := s.net.suffered()
		return after > before
	},
	"transfer": func(s *simulation, _ *rand.Rand, wait func()) bool {
		i := s.leader()
		if i < 0 {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := s.live[i].Load().TransferLeadership(ctx, "") // it may be refused
		wait()
		return err == nil
	},
	"snapshot": func(s *simulation, r *rand.Rand, wait func()) bool {
		c := s.live[r.Intn(3)].Load()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err := c.consensus.Await(ctx, func() raft.Future { return c.consensus.Internals().Raft.Snapshot() }) // there may be nothing new
		wait()
		return err == nil
	},
}

var faultNames = []string{"kill", "kill the leader", "kill two", "stop", "isolate", "isolate the leader", "deafen", "mute", "cut one link", "slow network", "transfer", "snapshot"}

// inject does one fault after the other.
func (s *simulation) inject(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		name := faultNames[r.Intn(len(faultNames))]
		if faults[name](s, r, func() { time.Sleep(time.Duration(100+r.Intn(2500)) * time.Millisecond) }) { // virtual
			s.happened[name]++
		}
		time.Sleep(time.Duration(r.Intn(1500)) * time.Millisecond) // virtual
	}
}

// away takes masters away for a while.
func (s *simulation) away(wait func(), how func(*node), which ...int) bool {
	for _, i := range which {
		s.down(i, how)
	}
	wait()
	gone := true
	for _, i := range which {
		gone = gone && s.masters.nodes[i].c == nil
		s.up(i)
	}
	return gone
}

// partition cuts links for a while. It took effect if something was to go over them.
func (s *simulation) partition(wait, cut func()) bool {
	before, _ := s.net.suffered()
	cut()
	wait()
	after, _ := s.net.suffered()
	s.net.mend()
	return after > before
}

// replaced says whether another leads.
func (s *simulation) replaced(leader int) bool {
	for i := range s.live {
		if c := s.live[i].Load(); i != leader && c != nil && c.IsLeader() {
			return true
		}
	}
	return false
}

func (s *simulation) leader() int {
	for i := range s.live {
		if c := s.live[i].Load(); c != nil && c.IsLeader() {
			return i
		}
	}
	return -1
}

func (s *simulation) down(i int, how func(*node)) {
	s.live[i].Store(nil)
	how(s.masters.nodes[i])
}

// killed kills a master once raft has looked at what was proposed on it: what waits in its queue is never answered, and holds
// a goroutine that only the end of a process would end.
func killed(n *node) {
	n.c.consensus.Drain(20 * time.Millisecond) // virtual
	n.kill()
}

func (s *simulation) up(i int) {
	n := s.masters.nodes[i]
	n.start()
	s.live[i].Store(n.c)
}

func (s *simulation) isolate(i int, in, out bool) {
	own := simulatedIP(s.masters.nodes[i].cfg.Name)
	for j, n := range s.masters.nodes {
		if j != i {
			s.net.link(simulatedIP(n.cfg.Name), own, in)
			s.net.link(own, simulatedIP(n.cfg.Name), out)
		}
	}
}

// settle ends the faults, and checks that all masters come to one state that holds all that was acknowledged.
func (s *simulation) settle() {
	s.net.mend()
	for i, n := range s.masters.nodes {
		n.waitReady()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		call := s.history.Tick()
		view, err := n.c.Consistent(ctx)
		cancel()
		if err != nil {
			s.t.Errorf("%s does not answer after all faults have ended: %v", n.cfg.Name, err)
			continue
		}
		s.history.Add(100+i, call, history.Asked{Client: 100 + i}, history.Told{Read: history.BankOf(view)})
	}
	s.equal()
	var sources []history.Source
	for _, n := range s.masters.nodes {
		sources = append(sources, history.InProcess{Master: n.c, Store: n.c.store})
	}
	if err := s.watches.Settle(&s.history, sources); err != nil {
		s.t.Error(err)
	}
	s.watches.Counts(s.happened)
}

// equal waits until all masters hold the same state, to the byte.
func (s *simulation) equal() {
	await.That(s.t, "equal states", func() error {
		var first []byte
		for _, n := range s.masters.nodes {
			var b bytes.Buffer
			if _, err := n.c.store.Snapshot().WriteTo(&b); err != nil {
				return err
			}
			if first == nil {
				first = b.Bytes()
			} else if !bytes.Equal(first, b.Bytes()) {
				return history.ErrDiverged
			}
		}
		return nil
	})
}
