package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFaultSchedules runs schedules of faults by the thousand: the consensus and the state of three masters (Propose, Consistent,
// leadership, transfers, the watch of the disk, raft and the state machine: the product's code) over a network and disks in
// memory, in virtual time, while clients read and write on all of them and watchers watch. KONTIKI_SCHEDULES=FROM-TO runs other
// seeds. A seed gives the same faults at the same times; raft's own timeouts and the order of goroutines are not ours to seed.
func TestFaultSchedules(t *testing.T) {
	from, to := int64(1), int64(1500)
	if text := os.Getenv("KONTIKI_SCHEDULES"); text != "" {
		if _, err := fmt.Sscanf(text, "%d-%d", &from, &to); err != nil {
			t.Fatalf("KONTIKI_SCHEDULES=%q is not FROM-TO", text)
		}
	}
	if testing.Short() {
		to = min(to, from+99)
	}
	var mu sync.Mutex
	happened := map[string]int{}
	operations := 0
	next := atomic.Int64{}
	next.Store(from)
	// Little lives at a time, and much is thrown away.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	begin := time.Now()
	t.Run("run", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1) - 1; seed <= to && !t.Failed(); seed = next.Add(1) - 1 {
					s := newSchedule(seed, simBugs{})
					if err := s.check(t); err != nil {
						t.Errorf("KONTIKI_SCHEDULES=%d-%d: %v\n%s", seed, seed, err, s.story())
					}
					mu.Lock()
					for name, n := range s.happened {
						happened[name] += n
					}
					operations += len(s.history.done)
					mu.Unlock()
				}
			})
		}
	})
	took := time.Since(begin)
	t.Logf("%d schedules, %d operations in %v: %.0f schedules a second", to-from+1, operations, took.Round(time.Millisecond), float64(to-from+1)/took.Seconds())
	for _, name := range slices.Sorted(maps.Keys(happened)) {
		t.Logf("%6d %s", happened[name], name)
	}
	if to-from < 500 {
		return
	}
	for _, name := range slices.Concat(scheduleFaultNames, scheduleEvents) {
		if happened[name] == 0 {
			t.Errorf("%q never happened", name)
		}
	}
}

// schedule is one run of three masters, their clients, and a few faults.
type schedule struct {
	seed    int64
	bugs    simBugs
	log     *slog.Logger
	begun   time.Time
	net     *simNet
	masters []*simMaster
	history history
	watches []*watched
	ending  sync.WaitGroup // processes that were killed

	mu       sync.Mutex
	happened map[string]int
	told     []string
	errs     []error
}

func newSchedule(seed int64, bugs simBugs) *schedule {
	s := &schedule{seed: seed, bugs: bugs, happened: map[string]int{}}
	s.log = slog.New(simLog{s})
	return s
}

// check runs the schedule, and checks all that happened.
func (s *schedule) check(t *testing.T) error {
	synctest.Test(t, func(*testing.T) { s.run() })
	return errors.Join(append(s.errs, s.history.linearizable())...)
}

func (s *schedule) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) < 10 { // a watch that is wrong stays wrong
		s.errs = append(s.errs, err)
	}
}

// count notes that something took effect.
func (s *schedule) count(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happened[name]++
}

// tell notes what is done, for who looks for the reason of a failure.
func (s *schedule) tell(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, fmt.Sprintf("%7.3f s: %s", time.Since(s.begun).Seconds(), what))
}

func (s *schedule) story() string { return strings.Join(s.told, "\n") }

func (s *schedule) run() {
	s.net, s.begun = newSimNet(s.seed), time.Now()
	for i := range 3 {
		s.masters = append(s.masters, &simMaster{s: s, turn: make(turn, 1), name: fmt.Sprintf("master-%d", i+1), address: fmt.Sprintf("10.0.0.%d:6444", i+1)})
	}
	boot := simBoot(s.masters)
	for _, m := range s.masters {
		m.platter = boot
		m.start()
	}
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range 4 {
		r := rand.New(rand.NewSource(s.seed*100 + int64(i)))
		clients.Go(func() { s.client(ctx, i, r) })
	}
	for i := range 2 {
		w := &watched{state: map[string]string{}}
		s.watches = append(s.watches, w)
		r := rand.New(rand.NewSource(s.seed*100 + 50 + int64(i)))
		clients.Go(func() { s.watch(ctx, w, r) })
	}
	s.inject(rand.New(rand.NewSource(s.seed)))
	s.mendAll()
	time.Sleep(200 * time.Millisecond) // virtual
	stop()
	clients.Wait()
	s.settle()
	for _, m := range s.masters {
		m.kill(false)
	}
	s.ending.Wait()
	time.Sleep(time.Minute) // virtual: what ends by its timers has ended; what is left is a leak, and ends the test
	if s.net.late > 0 {
		s.happened["a call arrived late"]++
	}
}

func (s *schedule) client(ctx context.Context, id int, r *rand.Rand) {
	var last bank
	for ctx.Err() == nil {
		if life := s.masters[r.Intn(3)].life.Load(); life != nil {
			one, cancel := context.WithTimeout(ctx, time.Duration(500+r.Intn(3000))*time.Millisecond)
			s.history.ask(one, id, s.bugs.asker(life), r, &last)
			cancel()
		}
		time.Sleep(time.Duration(r.Intn(250)) * time.Millisecond) // virtual: a client that thinks
	}
}

func (s *schedule) watch(ctx context.Context, w *watched, r *rand.Rand) {
	for ctx.Err() == nil {
		if life := s.masters[r.Intn(3)].life.Load(); life != nil {
			one, cancel := context.WithTimeout(ctx, time.Duration(300+r.Intn(3000))*time.Millisecond)
			stop := context.AfterFunc(life.c.life, cancel)
			if err := w.follow(one, life.c); err != nil {
				s.fail(err)
			}
			stop()
			cancel()
		}
		time.Sleep(10 * time.Millisecond) // virtual
	}
}

// settle checks that all masters come to one state that holds all that was acknowledged.
func (s *schedule) settle() {
	for i, m := range s.masters {
		life := m.life.Load()
		if life == nil {
			return // it could not start
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		call := s.history.tick()
		read, err := life.read(ctx)
		cancel()
		if err != nil {
			s.fail(fmt.Errorf("%s does not answer after all faults have ended: %w", m.name, err))
			continue
		}
		s.history.add(100+i, call, asked{client: 100 + i}, told{read: read})
	}
	end := time.Now().Add(patience)
	for err := s.diverged(); err != nil; err = s.diverged() {
		if time.Now().After(end) {
			s.fail(err)
			break
		}
		time.Sleep(10 * time.Millisecond) // virtual
	}
	for _, w := range s.watches {
		if err := w.same(s.watches[0]); err != nil {
			s.fail(err)
		}
	}
}

// diverged compares what the masters hold, to the byte.
func (s *schedule) diverged() error {
	var first []byte
	for _, m := range s.masters {
		var b bytes.Buffer
		if _, err := m.life.Load().c.store.Snapshot().WriteTo(&b); err != nil {
			return err
		}
		if first == nil {
			first = b.Bytes()
		} else if !bytes.Equal(first, b.Bytes()) {
			return errDiverged
		}
	}
	return nil
}
