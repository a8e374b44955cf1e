package consensus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/robustness/history"
)

// TestFaultSchedules runs schedules of faults by the thousand: the consensus and the state of three masters (Propose, Consistent,
// leadership, transfers, the watch of the disk, raft and the state machine: the product's code) over a network and disks in
// memory, in virtual time, while clients read and write on all of them and watchers watch. KONTIKI_SCHEDULES=FROM-TO runs other
// seeds. A seed gives the same faults at the same times; raft's own timeouts and the order of goroutines are not ours to seed.
func TestFaultSchedules(t *testing.T) {
	if text := os.Getenv(scheduleVariable); text != "" {
		serveSchedules(t, text)
		return
	}
	from, to := int64(1), int64(1500)
	if text := os.Getenv("KONTIKI_SCHEDULES"); text != "" {
		if _, err := fmt.Sscanf(text, "%d-%d", &from, &to); err != nil {
			t.Fatalf("KONTIKI_SCHEDULES=%q is not FROM-TO", text)
		}
	}
	count := to - from + 1
	begin := time.Now()
	var all tally
	if count <= 100 || testing.CoverMode() != "" { // in this process, for a debugger or a profile
		all = runSchedules(t, from, to, 1, func(int64) {})
	} else {
		all = spreadSchedules(t, from, to)
	}
	took := time.Since(begin)
	t.Logf("%d schedules, %d operations, %v of virtual time in %v: %.0f schedules a second",
		all.Schedules, all.Operations, all.Lived.Round(time.Second), took.Round(time.Millisecond), float64(all.Schedules)/took.Seconds())
	for _, name := range slices.Sorted(maps.Keys(all.Happened)) {
		t.Logf("%8d %s", all.Happened[name], name)
	}
	if count < 1000 || t.Failed() {
		return
	}
	for _, name := range slices.Concat(scheduleFaultNames, scheduleEvents) {
		if all.Happened[name] == 0 {
			t.Errorf("%q never took effect", name)
		}
	}
}

// tally is the result of a number of schedules.
type tally struct {
	Schedules, Operations int
	Lived                 time.Duration // virtual
	Happened              map[string]int
	Failures              []string
}

func (a *tally) add(b tally) {
	a.Schedules += b.Schedules
	a.Operations += b.Operations
	a.Lived += b.Lived
	a.Failures = append(a.Failures, b.Failures...)
	if a.Happened == nil {
		a.Happened = map[string]int{}
	}
	for name, n := range b.Happened {
		a.Happened[name] += n
	}
}

// runSchedules runs every step-th schedule in this process, until one fails.
func runSchedules(t *testing.T, from, to, step int64, starts func(seed int64)) (all tally) {
	// There is little live memory at any time, and much garbage.
	defer debug.SetGCPercent(debug.SetGCPercent(2000))
	for seed := from; seed <= to; seed += step {
		starts(seed)
		s := newSchedule(seed, simBugs{})
		err := s.check(t)
		one := tally{Schedules: 1, Operations: len(s.history.Done), Lived: s.lived, Happened: s.happened}
		if err != nil {
			one.Failures = []string{fmt.Sprintf("KONTIKI_SCHEDULES=%d-%d: %v\n%s", seed, seed, err, s.story())}
		}
		all.add(one)
		if err != nil {
			t.Error(one.Failures[0])
			if errors.Is(err, history.ErrNotLinearizable) {
				s.history.Check(t) // draws it
			}
			break
		}
	}
	return all
}

// scheduleVariable makes a process of this test binary run schedules on behalf of another: FROM-TO+STEP.
const scheduleVariable = "KONTIKI_SCHEDULES_CHILD"

// spreadSchedules runs schedules in one process per core. A process with one thread is faster than half a process with two: the
// goroutines of a schedule wake each other all the time, and rarely run in parallel.
func spreadSchedules(t *testing.T, from, to int64) (all tally) {
	var mu sync.Mutex
	var children sync.WaitGroup
	n := int64(runtime.GOMAXPROCS(0))
	for i := range n {
		children.Go(func() {
			one, err := spawnSchedules(t, from+i, to, n)
			mu.Lock()
			defer mu.Unlock()
			all.add(one)
			if err != nil {
				t.Error(err)
			}
		})
	}
	children.Wait()
	return all
}

func spawnSchedules(t *testing.T, from, to, step int64) (one tally, err error) {
	results, theirs, err := os.Pipe()
	if err != nil {
		return one, err
	}
	defer results.Close()
	var output bytes.Buffer
	limit := time.Duration(0) // none
	if end, ok := t.Deadline(); ok {
		limit = time.Until(end) // a process that hangs is not to outlive this one
	}
	child := exec.Command(os.Args[0], "-test.run=^TestFaultSchedules$", fmt.Sprint("-test.timeout=", limit))
	child.Env = append(os.Environ(), "GOMAXPROCS=1", fmt.Sprintf("%s=%d-%d+%d", scheduleVariable, from, to, step))
	child.Stdout, child.Stderr, child.ExtraFiles = &output, &output, []*os.File{theirs}
	err = child.Start()
	theirs.Close()
	if err != nil {
		return one, err
	}
	var last scheduleReport
	for reports := json.NewDecoder(results); err == nil; {
		err = reports.Decode(&last)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, child.Wait()); err != nil && last.All == nil {
		err = fmt.Errorf("KONTIKI_SCHEDULES=%d-%d: the process crashed: %w", last.Seed, last.Seed, err)
	}
	if last.All != nil {
		one = *last.All
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, output.Bytes())
	}
	return one, err
}

// scheduleReport is the output of such a process: each seed before its schedule begins, and in the end the tally.
type scheduleReport struct {
	Seed int64
	All  *tally `json:",omitempty"`
}

// serveSchedules is such a process.
func serveSchedules(t *testing.T, text string) {
	var from, to, step int64
	if _, err := fmt.Sscanf(text, "%d-%d+%d", &from, &to, &step); err != nil {
		t.Fatalf("%s=%q: %v", scheduleVariable, text, err)
	}
	results := os.NewFile(3, "results")
	defer results.Close()
	reports := json.NewEncoder(results)
	report := func(r scheduleReport) {
		if err := reports.Encode(r); err != nil {
			t.Error(err)
		}
	}
	all := runSchedules(t, from, to, step, func(seed int64) { report(scheduleReport{Seed: seed}) })
	report(scheduleReport{All: &all})
}
