package cluster

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/network/nettest"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/robustness/faultfs"
	"github.com/kontiki/kontiki/test/robustness/history"
)

// machines are masters as processes, each on a disk of its own and in a network namespace of its own, all on one Ethernet.
type machines struct {
	t        *testing.T
	hosts    []*nettest.Machine // none without root: all share this machine's loopback, and nothing can be cut
	children []*child
	disks    []*faultfs.Disk
	down     [3]atomic.Bool
}

func machineIP(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) }

func startMachines(t *testing.T) *machines {
	m := &machines{t: t}
	if os.Geteuid() == 0 {
		m.hosts = nettest.Hosts(t, machineIP(0)+"/24", machineIP(1)+"/24", machineIP(2)+"/24")
		for _, h := range m.hosts {
			h.Sh("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0 ; }")
		}
	}
	token := ""
	for i := range 3 {
		m.disks = append(m.disks, faultfs.Start(t))
		cfg := childConfig{
			Name: "master-" + strconv.Itoa(i+1), DataDir: filepath.Join(m.disks[i].Dir, "data"),
			Address: "127.0.0.1:0", Gossip: "127.0.0.1:0", SmallDisk: true, Token: token,
		}
		var host *nettest.Machine
		if m.hosts != nil {
			host, cfg.Address, cfg.Gossip = m.hosts[i], machineIP(i)+":6444", machineIP(i)+":7946"
		}
		if i > 0 {
			cfg.Join = []string{m.children[0].cfg.Address}
		}
		c := startChildOn(t, host, cfg)
		if answer := c.ready(); i == 0 {
			token = answer.Value
		}
		m.children = append(m.children, c)
	}
	return m
}

// await waits for something to be true, but not for long.
func (m *machines) await(what func() bool) bool {
	// The kernel and other processes tell nobody when a fault has taken effect.
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if what() {
			return true
		}
	}
	return false
}

// leader answers who leads, of all but one; -1 if nobody says so in time.
func (m *machines) leader(not int) int {
	leads := -1
	m.await(func() bool {
		for i, c := range m.children {
			if i == not || m.down[i].Load() {
				continue
			}
			done, exited := c.begin("leads", "", "")
			select {
			case a := <-done:
				if a.Value == "true" {
					leads = i
					return true
				}
			case <-exited:
			case <-time.After(time.Second):
			}
		}
		return false
	})
	return leads
}

func (m *machines) kill(i int) {
	m.down[i].Store(true)
	m.children[i].kill()
}

func (m *machines) start(i int) {
	m.children[i].start()
	m.down[i].Store(false)
}

// source is a master that can be watched; nil while it is down.
func (m *machines) source(r *rand.Rand) history.Source {
	if i := r.Intn(3); !m.down[i].Load() {
		return inChild{m.children[i]}
	}
	return nil
}

// stalledSyncs and lostPages count what disks did to some machines.
func (m *machines) stalledSyncs(which ...int) (n int64) {
	for _, i := range which {
		n += m.disks[i].Counts()["stalled sync"]
	}
	return n
}

func lostPages(disks ...*faultfs.Disk) (n int64) {
	for _, d := range disks {
		counts := d.Counts()
		n += counts["pages lost"] + counts["pages torn"]
	}
	return n
}

// powerLoss takes the power from some machines at once: what their disks have not synced is gone.
func (m *machines) powerLoss(wait func(), r *rand.Rand, which ...int) bool {
	syncs, lost := m.stalledSyncs(which...), lostPages(m.disks...)
	for _, i := range which { // so that there is something that is not synced
		m.disks[i].Stall(faultfs.Sync)
	}
	m.await(func() bool { return m.stalledSyncs(which...) > syncs })
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
	return lostPages(m.disks...) > lost
}

// pause lets a process stand still for a while.
func (m *machines) pause(i int, wait func() bool) bool {
	c := m.children[i]
	c.signal(syscall.SIGSTOP)
	stands := m.await(func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
		return err == nil && regexp.MustCompile(`\) T `).Match(stat)
	})
	done := wait()
	c.signal(syscall.SIGCONT)
	return stands && done
}

// cut lets nothing pass from one machine to another.
func (m *machines) cut(from, to int) {
	m.hosts[to].Sh("nft", "add rule inet cut in ip saddr "+machineIP(from)+" counter drop")
}

// partition cuts links for a while. It took effect if packets were dropped.
func (m *machines) partition(wait func() bool, links ...[2]int) bool {
	for _, l := range links {
		m.cut(l[0], l[1])
	}
	done := wait()
	dropped := m.await(func() bool { return m.dropped() > 0 })
	for _, h := range m.hosts {
		h.Sh("nft", "flush chain inet cut in")
	}
	return done && dropped
}

var droppedPackets = regexp.MustCompile(`packets (\d+)`)

// dropped counts packets that came to a link that is cut.
func (m *machines) dropped() (n int) {
	for _, h := range m.hosts {
		for _, found := range droppedPackets.FindAllStringSubmatch(h.Sh("nft", "list", "chain", "inet", "cut", "in"), -1) {
			packets, err := strconv.Atoi(found[1])
			if err != nil {
				m.t.Fatal(err)
			}
			n += packets
		}
	}
	return n
}

func linksTo(i int) [][2]int   { return [][2]int{{(i + 1) % 3, i}, {(i + 2) % 3, i}} }
func linksFrom(i int) [][2]int { return [][2]int{{i, (i + 1) % 3}, {i, (i + 2) % 3}} }

// machineFault is something that is done to machines for a while, is undone, and answers whether it took effect.
type machineFault struct {
	name string
	do   func(m *machines, r *rand.Rand, wait func()) bool
}

var machineFaults = []machineFault{
	{"power loss of all", func(m *machines, r *rand.Rand, wait func()) bool { return m.powerLoss(wait, r, 0, 1, 2) }},
	{"pause the leader", func(m *machines, _ *rand.Rand, wait func()) bool {
		i := m.leader(-1)
		return i >= 0 && m.pause(i, func() bool { wait(); return m.leader(i) >= 0 })
	}},
	{"full disk", func(m *machines, _ *rand.Rand, wait func()) bool {
		i := m.leader(-1)
		if i < 0 {
			return false
		}
		before := m.disks[i].Counts()["no space"]
		m.disks[i].Capacity(1)
		felt := m.await(func() bool { return m.disks[i].Counts()["no space"] > before || m.leader(i) >= 0 })
		wait()
		m.disks[i].Capacity(0)
		return felt
	}},
	{"kill -9", func(m *machines, r *rand.Rand, wait func()) bool {
		i := r.Intn(3)
		m.kill(i)
		wait()
		m.start(i)
		return true // kill has waited for the process to be gone
	}},
	{"stalled disk", func(m *machines, _ *rand.Rand, wait func()) bool {
		i := m.leader(-1)
		if i < 0 {
			return false
		}
		before := m.stalledSyncs(i)
		m.disks[i].Stall(faultfs.Sync)
		felt := m.await(func() bool { return m.stalledSyncs(i) > before })
		wait()
		m.disks[i].Resume(faultfs.Sync)
		return felt
	}},
	{"power loss of one", func(m *machines, r *rand.Rand, wait func()) bool { return m.powerLoss(wait, r, r.Intn(3)) }},
	{"pause", func(m *machines, r *rand.Rand, wait func()) bool {
		return m.pause(r.Intn(3), func() bool { wait(); return true })
	}},
}

// partitions are faults of the network between machines.
var partitions = []machineFault{
	{"isolate the leader", func(m *machines, _ *rand.Rand, wait func()) bool {
		i := m.leader(-1)
		return i >= 0 && m.partition(func() bool { wait(); return m.leader(i) >= 0 }, append(linksTo(i), linksFrom(i)...)...)
	}},
	{"deafen", func(m *machines, r *rand.Rand, wait func()) bool {
		return m.partition(func() bool { wait(); return true }, linksTo(r.Intn(3))...)
	}},
	{"mute", func(m *machines, r *rand.Rand, wait func()) bool {
		return m.partition(func() bool { wait(); return true }, linksFrom(r.Intn(3))...)
	}},
	{"cut one link", func(m *machines, r *rand.Rand, wait func()) bool {
		i := r.Intn(3)
		return m.partition(func() bool { wait(); return true }, [2]int{i, (i + 1) % 3}, [2]int{(i + 1) % 3, i})
	}},
}

// TestHistoryOverMachines records what clients and watchers are told by masters that are real processes on disks and networks of
// their own, while machines are killed, stand still and are cut off, and disks fill up, stall and lose what was not synced. The
// history is checked to be linearizable, the watches to be as promised. KONTIKI_MACHINES=SEED,SECONDS runs another round.
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
	m := startMachines(t)
	faults := machineFaults
	if m.hosts != nil {
		faults = append(faults[:len(faults):len(faults)], partitions...)
	} else {
		t.Log("no partitions: network namespaces need root")
	}
	var h history.History
	var ws history.Watchers
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for id := range 4 {
		r := rand.New(rand.NewSource(seed*100 + int64(id)))
		clients.Go(func() {
			var last history.Bank
			for ctx.Err() == nil {
				if i := r.Intn(3); !m.down[i].Load() {
					one, cancel := context.WithTimeout(ctx, time.Duration(300+r.Intn(2000))*time.Millisecond)
					h.Ask(one, id, inChild{m.children[i]}, r, &last)
					cancel()
				}
				select { // a client that thinks
				case <-ctx.Done():
				case <-time.After(time.Duration(r.Intn(40)) * time.Millisecond):
				}
			}
		})
	}
	ws.Start(ctx, &clients, 3, seed, m.source)
	happened := m.inject(faults, rand.New(rand.NewSource(seed)), time.Now().Add(length))
	stop()
	clients.Wait()
	var sources []history.Source
	for i, c := range m.children {
		c.ready()
		sources = append(sources, inChild{c})
		call := h.Tick()
		var b history.Bank
		await.That(t, c.cfg.Name+" to answer", func() (err error) {
			one, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			call = h.Tick()
			b, err = inChild{c}.Read(one)
			return err
		})
		h.Add(100+i, call, history.Asked{Client: 100 + i}, history.Told{Read: b})
	}
	h.Check(t)
	if err := ws.Settle(&h, sources); err != nil {
		t.Error(err)
	}
	ws.Counts(happened)
	t.Logf("seed %d: %d operations, %d pages lost or torn; what took effect: %v", seed, len(h.Done), lostPages(m.disks...), happened)
	for _, f := range faults {
		if happened[f.name] == 0 {
			t.Errorf("%q never took effect", f.name)
		}
	}
	for _, name := range history.WatchEvents[:2] {
		if happened[name] == 0 {
			t.Errorf("%q never happened", name)
		}
	}
	if len(h.Done) < 50 {
		t.Errorf("%d operations: the round shows nothing", len(h.Done))
	}
}

// inject does one fault after the other until the time is over, and each of them at least once. It counts those that took effect.
func (m *machines) inject(faults []machineFault, r *rand.Rand, end time.Time) (happened map[string]int) {
	happened = map[string]int{}
	try := func(f machineFault) {
		if f.do(m, r, func() { time.Sleep(time.Duration(100+r.Intn(900)) * time.Millisecond) }) { // how long the fault lasts
			happened[f.name]++
		}
		time.Sleep(time.Duration(200+r.Intn(600)) * time.Millisecond) // how long all is well
	}
	for _, f := range faults {
		for range 5 { // a loss of power may spare all that was not synced
			if try(f); happened[f.name] > 0 {
				break
			}
		}
	}
	for time.Now().Before(end) {
		try(faults[r.Intn(len(faults))])
	}
	return happened
}
