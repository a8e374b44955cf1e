package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

// childAsk and childTold are one operation of a history on a master in a process of its own.
type childAsk struct {
	Ops   []kv.Op // nil for a read
	Bound time.Duration
}

type childTold struct {
	Values    [historyKeys]string
	Revisions [historyKeys]uint64
	Result    kv.Result
	Refused   bool // certainly not done
}

func (c *Cluster) serveAsk(ctx context.Context, text string, a *childAnswer) error {
	var ask childAsk
	if err := json.Unmarshal([]byte(text), &ask); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ask.Bound)
	defer cancel()
	var out childTold
	if ask.Ops == nil {
		b, err := inProcess{c}.read(ctx)
		if err != nil {
			return err
		}
		for i, have := range b {
			out.Values[i], out.Revisions[i] = have.value, have.revision
		}
	} else {
		var err error
		out.Result, err = inProcess{c}.transact(ctx, ask.Ops)
		if out.Refused = errors.Is(err, kv.ErrNoLeader) || errors.Is(err, kv.ErrDiskFull); err != nil && !out.Refused {
			return err
		}
	}
	data, err := json.Marshal(out)
	a.Value = string(data)
	return err
}

// inChild is a master of another process.
type inChild struct{ c *child }

func (p inChild) ask(ctx context.Context, ops []kv.Op) (out childTold, err error) {
	bound := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		bound = time.Until(deadline)
	}
	text, err := json.Marshal(childAsk{Ops: ops, Bound: bound})
	if err != nil {
		return out, err
	}
	done, exited := p.c.begin("ask", "", string(text))
	select {
	case a := <-done:
		if a.Error != "" {
			return out, errors.New(a.Error)
		}
		return out, json.Unmarshal([]byte(a.Value), &out)
	case <-exited:
		return out, errors.New("the process is gone")
	case <-ctx.Done(): // it stands still, or its disk does
		return out, ctx.Err()
	}
}

func (p inChild) read(ctx context.Context) (b bank, err error) {
	out, err := p.ask(ctx, nil)
	for i := range b {
		b[i] = cell{out.Values[i], out.Revisions[i]}
	}
	return b, err
}

func (p inChild) transact(ctx context.Context, ops []kv.Op) (kv.Result, error) {
	out, err := p.ask(ctx, ops)
	if err == nil && out.Refused {
		err = kv.ErrNoLeader
	}
	return out.Result, err
}

// machines are masters as processes, each on a disk of its own.
type machines struct {
	t        *testing.T
	children []*child
	disks    []*faultfs.Disk
	down     [3]atomic.Bool
}

func (m *machines) leader() int {
	for i, c := range m.children {
		if m.down[i].Load() {
			continue
		}
		done, exited := c.begin("leads", "", "")
		select {
		case a := <-done:
			if a.Value == "true" {
				return i
			}
		case <-exited:
		case <-time.After(time.Second):
		}
	}
	return 0
}

func (m *machines) kill(i int) {
	m.down[i].Store(true)
	m.children[i].kill()
}

func (m *machines) start(i int) {
	m.children[i].start()
	m.down[i].Store(false)
}

// powerLoss takes the power from some machines at once: what their disks have not synced is gone.
func (m *machines) powerLoss(r *rand.Rand, wait func(), which ...int) {
	for _, i := range which { // so that there is something that is not synced
		m.disks[i].Stall(faultfs.Sync)
	}
	wait()
	for _, i := range which {
		m.disks[i].PowerLoss(r.Uint64())
		m.disks[i].Resume(faultfs.Sync)
	}
	for _, i := range which {
		m.kill(i)
	}
	wait()
	for _, i := range which {
		m.disks[i].PowerOn()
		m.start(i)
	}
}

// machineFaults are what is done to machines, by name.
var machineFaults = map[string]func(m *machines, r *rand.Rand, wait func()){
	"kill -9": func(m *machines, r *rand.Rand, wait func()) {
		i := r.Intn(3)
		m.kill(i)
		wait()
		m.start(i)
	},
	"pause": func(m *machines, r *rand.Rand, wait func()) {
		c := m.children[r.Intn(3)]
		c.signal(syscall.SIGSTOP)
		wait()
		c.signal(syscall.SIGCONT)
	},
	"pause the leader": func(m *machines, _ *rand.Rand, wait func()) {
		c := m.children[m.leader()]
		c.signal(syscall.SIGSTOP)
		wait()
		c.signal(syscall.SIGCONT)
	},
	"power loss of one": func(m *machines, r *rand.Rand, wait func()) { m.powerLoss(r, wait, r.Intn(3)) },
	"power loss of all": func(m *machines, r *rand.Rand, wait func()) { m.powerLoss(r, wait, 0, 1, 2) },
	"full disk": func(m *machines, _ *rand.Rand, wait func()) {
		d := m.disks[m.leader()]
		d.Capacity(1)
		wait()
		d.Capacity(0)
	},
	"stalled disk": func(m *machines, _ *rand.Rand, wait func()) {
		d := m.disks[m.leader()]
		d.Stall(faultfs.Sync)
		wait()
		d.Resume(faultfs.Sync)
	},
}

var machineFaultNames = []string{"power loss of all", "pause the leader", "full disk", "kill -9", "stalled disk", "power loss of one", "pause"}

// TestHistoryOverMachines records what clients are told by masters that are real processes on disks of their own, while
// machines are killed and stand still, and disks fill up, stall and lose what was not synced. The history is checked to be
// linearizable. KONTIKI_MACHINES=SEED,SECONDS runs another round.
func TestHistoryOverMachines(t *testing.T) {
	t.Parallel()
	seed, length := int64(1), 8*time.Second
	if text := os.Getenv("KONTIKI_MACHINES"); text != "" {
		var seconds int
		if _, err := fmt.Sscanf(text, "%d,%d", &seed, &seconds); err != nil {
			t.Fatalf("KONTIKI_MACHINES=%q is not SEED,SECONDS", text)
		}
		length = time.Duration(seconds) * time.Second
	}
	m := &machines{t: t}
	token := ""
	for i := range 3 {
		m.disks = append(m.disks, faultfs.Start(t))
		name := "master-" + strconv.Itoa(i+1)
		cfg := childConfig{Name: name, DataDir: filepath.Join(m.disks[i].Dir, "data"), Address: "127.0.0.1:0", Gossip: "127.0.0.1:0", SmallDisk: true, Token: token}
		if i > 0 {
			cfg.Join = []string{m.children[0].cfg.Address}
		}
		c := startChild(t, cfg)
		if answer := c.ready(); i == 0 {
			token = answer.Value
		}
		m.children = append(m.children, c)
	}
	var h history
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var clients sync.WaitGroup
	for id := range 4 {
		r := rand.New(rand.NewSource(seed*100 + int64(id)))
		clients.Go(func() {
			var last bank
			for ctx.Err() == nil {
				if i := r.Intn(3); !m.down[i].Load() {
					one, cancel := context.WithTimeout(ctx, time.Duration(300+r.Intn(2000))*time.Millisecond)
					h.ask(one, id, inChild{m.children[i]}, r, &last)
					cancel()
				}
				select { // a client that thinks
				case <-ctx.Done():
				case <-time.After(time.Duration(r.Intn(40)) * time.Millisecond):
				}
			}
		})
	}
	r := rand.New(rand.NewSource(seed))
	happened := map[string]int{}
	for n := 0; ctx.Err() == nil; n++ {
		name := machineFaultNames[n%len(machineFaultNames)]
		if n >= len(machineFaultNames) {
			name = machineFaultNames[r.Intn(len(machineFaultNames))]
		}
		happened[name]++
		machineFaults[name](m, r, func() { time.Sleep(time.Duration(100+r.Intn(900)) * time.Millisecond) }) // how long the fault lasts
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(200+r.Intn(600)) * time.Millisecond):
		}
	}
	clients.Wait()
	for i, c := range m.children {
		c.ready()
		call := h.tick()
		var b bank
		eventually(t, c.cfg.Name+" to answer", func() (err error) {
			one, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			call = h.tick()
			b, err = inChild{c}.read(one)
			return err
		})
		h.add(100+i, call, asked{client: 100 + i}, told{read: b})
	}
	h.check(t)
	lost := int64(0)
	for _, d := range m.disks {
		lost += d.Counts()["pages lost"]
	}
	t.Logf("seed %d: %d operations; faults: %v; %d pages lost", seed, len(h.done), happened, lost)
	if len(h.done) < 50 || happened["power loss of all"] > 0 && lost == 0 {
		t.Errorf("%d operations, %d pages lost: the round shows nothing", len(h.done), lost)
	}
}
