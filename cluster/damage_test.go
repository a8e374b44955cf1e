package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/test/await"
)

// logBook keeps what a master logs.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) contains(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.text.String(), text)
}

func (b *logBook) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}

// compacting makes a master take snapshots all the time.
func compacting(cfg *Config) {
	cfg.Timings.SnapshotThreshold, cfg.Timings.TrailingLogs, cfg.Timings.SnapshotInterval = 40, 20, 20*time.Millisecond
}

// withLog lets masters log into one book.
func withLog(b *logBook) func(*Config) {
	return func(cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
}

const marker = "a value that is easy to find"

// fill writes until there are snapshots that the log does not reach behind.
func (m *masters) fill() {
	m.t.Helper()
	n := m.leader()
	for i := range 150 {
		n.put(fmt.Sprintf("/t/things/default/%d", i), marker)
	}
	for _, n := range m.nodes {
		if n.c == nil {
			continue
		}
		await.That(m.t, "a snapshot on "+n.cfg.Name, func() error {
			first, err := n.c.consensus.Internals().Disk.FirstIndex()
			if err != nil || first < 2 {
				return fmt.Errorf("the log begins at %d, %v", first, err)
			}
			return nil
		})
	}
}

// holdsAll says whether a master's state is what fill wrote.
func (n *node) holdsAll() {
	n.t.Helper()
	view, err := n.c.Consistent(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	if got := view.Count("/t/things/", "/t/things0"); got != 150 {
		n.t.Fatalf("%s holds %d keys of 150", n.cfg.Name, got)
	}
}

func (n *node) raftDir() string { return filepath.Join(n.cfg.DataDir, "raft") }

// flipAll flips a bit a little behind every place where a file holds a text, and says that there was one.
func flipAll(t testing.TB, path, text string, behind int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := 0; ; found++ {
		next := bytes.Index(data[at:], []byte(text))
		if next < 0 {
			break
		}
		at += next + len(text)
		data[at+behind] ^= 0x20
	}
	if found == 0 {
		t.Fatalf("%s does not hold %q", path, text)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// snapshotFiles are a master's snapshots.
func snapshotFiles(t testing.TB, n *node) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(n.raftDir(), "snapshots", "*", "state.bin"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s has no snapshots, %v", n.cfg.Name, err)
	}
	return names
}

// damages are ways in which a disk fails a master that is stopped.
var damages = []struct {
	name string
	do   func(t testing.TB, n *node)
	gone bool // nothing is left to set aside
}{
	{name: "flipped bit in the log", do: func(t testing.TB, n *node) {
		flipAll(t, filepath.Join(n.raftDir(), "raft.db"), marker, -3)
	}},
	{name: "torn log", do: func(t testing.TB, n *node) {
		path := filepath.Join(n.raftDir(), "raft.db")
		info, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, info.Size()/3)
		}
		if err != nil {
			t.Fatal(err)
		}
	}},
	{name: "flipped bit in a stable value", do: func(t testing.TB, n *node) {
		flipAll(t, filepath.Join(n.raftDir(), "raft.db"), "CurrentTerm", 12)
	}},
	{name: "flipped bit in the snapshots", do: func(t testing.TB, n *node) {
		for _, name := range snapshotFiles(t, n) { // the older one too: the log may reach behind it
			flipAll(t, name, marker, -3)
		}
	}},
	{name: "torn snapshots", do: func(t testing.TB, n *node) {
		for _, name := range snapshotFiles(t, n) {
			if err := os.Truncate(name, 100); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{name: "lost snapshots", do: func(t testing.TB, n *node) {
		if err := os.RemoveAll(filepath.Join(n.raftDir(), "snapshots")); err != nil {
			t.Fatal(err)
		}
	}},
	{name: "lost log", do: func(t testing.TB, n *node) {
		if err := os.Remove(filepath.Join(n.raftDir(), "raft.db")); err != nil {
			t.Fatal(err)
		}
	}},
	{name: "lost directory", gone: true, do: func(t testing.TB, n *node) {
		if err := os.RemoveAll(n.raftDir()); err != nil {
			t.Fatal(err)
		}
	}},
}

func (n *node) setAside() []string {
	names, _ := filepath.Glob(n.raftDir() + ".damaged-*")
	return names
}

func TestADamagedMasterSyncsAgainFromTheLeader(t *testing.T) {
	t.Parallel()
	book := &logBook{}
	m := startMasters(t, 3, compacting, withLog(book))
	m.fill()
	for i, damage := range damages {
		n := m.nodes[i%3] // the first one too, which bootstrapped
		aside := len(n.setAside())
		n.kill()
		damage.do(t, n)
		book.clear()
		n.start()
		n.waitReady()
		n.holdsAll()
		n.put("/t/a/b/c", damage.name)
		if got := m.leader().get("/t/a/b/c"); got != damage.name {
			t.Errorf("%s: the leader reads %q", damage.name, got)
		}
		if !book.contains("raft data are damaged") || !book.contains("it has no vote until they are sent to it again") {
			t.Errorf("%s: the log does not say so:\n%s", damage.name, book.text.String())
		}
		if now := len(n.setAside()); now-aside == 0 != damage.gone {
			t.Errorf("%s: %d directories were set aside", damage.name, now-aside)
		}
		if member, err := loadMember(n.cfg.DataDir); err != nil || !member.Complete || member.Bootstrap {
			t.Errorf("%s: afterwards the member is %+v, %v", damage.name, member, err)
		}
		for _, s := range m.leader().c.consensus.Servers() {
			if s.Suffrage != raft.Voter {
				t.Errorf("%s: %s has no vote afterwards", damage.name, s.ID)
			}
		}
	}
}

// tree is what lies under a directory, with sizes.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestADamagedLastCopyRefusesToStart(t *testing.T) {
	t.Parallel()
	for _, damage := range damages {
		m := startMasters(t, 1, compacting)
		m.fill()
		n := m.nodes[0]
		n.stop()
		damage.do(t, n)
		before := tree(t, n.cfg.DataDir)
		c, err := Open(context.Background(), n.cfg)
		if err == nil {
			c.Close()
			t.Fatalf("%s: it starts", damage.name)
		}
		for _, text := range []string{n.raftDir(), "may hold the last copy", "no other master is known", "Nothing was changed", "kontiki cluster recover", "kontiki snapshot restore"} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error does not say %q: %v", damage.name, text, err)
			}
		}
		if !errors.Is(err, storage.ErrDamaged) {
			t.Errorf("%s: %v", damage.name, err)
		}
		if after := tree(t, n.cfg.DataDir); after != before {
			t.Errorf("%s: something was changed", damage.name)
		}
	}
}

func TestADamagedMasterWithoutAQuorumRefusesAndStartsOnceThereIsOne(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 3, compacting)
	m.fill()
	for _, n := range m.nodes {
		n.stop()
	}
	n := m.nodes[2]
	damages[0].do(t, n)
	cfg := n.cfg
	cfg.Timings.Readmit = 300 * time.Millisecond
	alone := m.nodes[0]
	alone.start() // it cannot lead alone
	before := tree(t, n.cfg.DataDir)
	if c, err := Open(context.Background(), cfg); err == nil {
		c.Close()
		t.Fatal("it starts without a quorum of others")
	} else if !strings.Contains(err.Error(), "no leader has answered for 300ms") || !strings.Contains(err.Error(), alone.cfg.BindAddress) {
		t.Errorf("the error does not say who was asked: %v", err)
	}
	if after := tree(t, n.cfg.DataDir); after != before {
		t.Error("something was changed")
	}
	opened := make(chan struct{})
	go func() { // it waits for a leader
		defer close(opened)
		n.start()
	}()
	m.nodes[1].start()
	<-opened
	for _, n := range m.nodes {
		n.waitReady()
		n.holdsAll()
	}
}

func TestARemovedMasterThatLostItsDataNeedsAToken(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 3)
	n := m.nodes[2]
	n.kill()
	if err := m.leader().c.RemoveMember(context.Background(), n.cfg.Name); err != nil {
		t.Fatal(err)
	}
	damages[len(damages)-1].do(t, n)
	if c, err := Open(context.Background(), n.cfg); !errors.Is(err, errclass.ErrRemoved) {
		if err == nil {
			c.Close()
		}
		t.Errorf("it was let in again: %v", err)
	}
}

// Crashes between the steps of coming back: its vote is taken, then it forgets that it is a member, then its data are set aside.
func TestAMasterThatComesBackMayCrashBetweenTheSteps(t *testing.T) {
	t.Parallel()
	book := &logBook{}
	m := startMasters(t, 3, compacting, withLog(book))
	m.fill()
	forget := func(n *node) {
		member, err := loadMember(n.cfg.DataDir)
		if err == nil {
			member.Complete, member.Bootstrap, member.Join = false, false, member.Masters
			err = member.save(n.cfg.DataDir)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n := m.nodes[1]
	for _, lost := range []bool{false, true} {
		n.kill()
		if forget(n); lost {
			// It is a voter in the others' eyes, and has nothing: as if it had lost its disk just when it had joined.
			damages[len(damages)-1].do(t, n)
		} else {
			damages[0].do(t, n)
		}
		book.clear()
		n.start()
		n.waitReady()
		n.holdsAll()
		if !book.contains("it has no vote until they are sent to it again") {
			t.Errorf("lost %v: it came back with its vote", lost)
		}
	}
}
