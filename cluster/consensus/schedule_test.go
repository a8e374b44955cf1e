package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/turn"
	"github.com/kontiki/kontiki/test/robustness/history"
)

// schedule is one run of three masters, their clients, and a few faults.
type schedule struct {
	seed    int64
	bugs    simBugs
	log     *slog.Logger
	begun   time.Time
	lived   time.Duration
	net     *simNet
	masters []*simMaster
	history history.History
	watches history.Watchers
	ending  sync.WaitGroup // processes that were killed

	mu       sync.Mutex
	happened map[string]int
	told     []slog.Record // what was done, and what the masters warned of, for who looks for the reason of a failure
	errs     []error
}

func newSchedule(seed int64, bugs simBugs) *schedule {
	s := &schedule{seed: seed, bugs: bugs, happened: map[string]int{}}
	s.log = slog.New(simLog{s: s})
	return s
}

// check runs the schedule, and checks the history of what happened.
func (s *schedule) check(t *testing.T) error {
	synctest.Test(t, func(*testing.T) { s.run() })
	return errors.Join(append(s.errs, s.history.Linearizable())...)
}

func (s *schedule) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) < 10 { // a watch that is wrong stays wrong
		s.errs = append(s.errs, err)
	}
}

// count records that something took effect.
func (s *schedule) count(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happened[name]++
}

// tell records what is done.
func (s *schedule) tell(what string) {
	s.note(slog.NewRecord(time.Now(), slog.LevelInfo, "FAULT: "+what, 0))
}

func (s *schedule) note(r slog.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, r)
}

func (s *schedule) story() string {
	var b strings.Builder
	for _, r := range s.told {
		fmt.Fprintf(&b, "%8.4f s %s", r.Time.Sub(s.begun).Seconds(), r.Message)
		r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s", a); return true })
		b.WriteByte('\n')
	}
	return b.String()
}

// assemble starts three masters of a new cluster.
func (s *schedule) assemble() {
	s.net, s.begun = newSimNet(s.seed), time.Now()
	for i := range 3 {
		s.masters = append(s.masters, &simMaster{s: s, turn: make(turn.Turn, 1), name: fmt.Sprintf("master-%d", i+1), address: fmt.Sprintf("10.0.0.%d:6444", i+1)})
	}
	level := fsm.CommandVersion
	if s.bugs.undated {
		level = 2
	}
	boot := simBoot(s.masters, level)
	for _, m := range s.masters {
		m.platter = boot
		m.start()
	}
}

// disassemble stops everything.
func (s *schedule) disassemble() {
	for _, m := range s.masters {
		m.kill(false)
	}
	s.ending.Wait()
	time.Sleep(time.Minute) // virtual: what ends by its timers has ended; what is left is a leak, and ends the test
}

func (s *schedule) run() {
	s.assemble()
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range 4 {
		r := rand.New(rand.NewSource(s.seed*100 + int64(i)))
		clients.Go(func() { s.client(ctx, i, r) })
	}
	s.watches.Start(ctx, &clients, 2, s.seed, s.watchable)
	s.inject(rand.New(rand.NewSource(s.seed)))
	s.mendAll()
	time.Sleep(200 * time.Millisecond) // virtual
	stop()
	clients.Wait()
	s.settle()
	s.lived = time.Since(s.begun)
	s.disassemble()
	if s.net.late > 0 {
		s.happened["a call arrived late"]++
	}
}

func (s *schedule) client(ctx context.Context, id int, r *rand.Rand) {
	var last history.Bank
	for ctx.Err() == nil {
		if life := s.masters[r.Intn(3)].life.Load(); life != nil {
			one, cancel := context.WithTimeout(ctx, time.Duration(500+r.Intn(3000))*time.Millisecond)
			s.history.Ask(one, id, s.bugs.asker(life), r, &last)
			cancel()
		}
		time.Sleep(time.Duration(r.Intn(250)) * time.Millisecond) // virtual: a client that thinks
	}
}

// watchable returns a master that is up.
func (s *schedule) watchable(r *rand.Rand) history.Source {
	if life := s.masters[r.Intn(3)].life.Load(); life != nil {
		return s.bugs.watchSource(life)
	}
	return nil
}

// settle checks that all masters reach the same state, which has everything that was acknowledged.
func (s *schedule) settle() {
	for i, m := range s.masters {
		life := m.life.Load()
		if life == nil {
			return // it could not start
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		call := s.history.Tick()
		read, err := life.Read(ctx)
		cancel()
		if err != nil {
			s.fail(fmt.Errorf("%s does not answer after all faults have ended: %w", m.name, err))
			continue
		}
		s.history.Add(100+i, call, history.Asked{Client: 100 + i}, history.Told{Read: read})
	}
	end := time.Now().Add(patience)
	for err := s.diverged(); err != nil; err = s.diverged() {
		if time.Now().After(end) {
			s.fail(err)
			break
		}
		time.Sleep(10 * time.Millisecond) // virtual
	}
	var sources []history.Source
	for _, m := range s.masters {
		sources = append(sources, s.bugs.watchSource(m.life.Load()))
	}
	if err := s.watches.Settle(&s.history, sources); err != nil {
		s.fail(err)
	}
	s.watches.Counts(s.happened)
}

// diverged compares the masters' states byte by byte.
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
			return fmt.Errorf("%w: %s", history.ErrDiverged, s.standing())
		}
	}
	return nil
}

// standing describes how far each master has applied the log.
func (s *schedule) standing() string {
	var b strings.Builder
	for _, m := range s.masters {
		c := m.life.Load().c
		r := c.node.raft
		fmt.Fprintf(&b, "%s: %s, term %d, last index %d, commit index %d, applied %d, revision %d; ",
			m.name, r.State(), r.CurrentTerm(), r.LastIndex(), r.CommitIndex(), c.store.AppliedIndex(), c.store.View().Revision())
	}
	return b.String()
}
