package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/await"
)

// fast are timings for masters in one process on loopback.
var fast = Timings{
	Timings: consensus.Timings{
		Heartbeat: 200 * time.Millisecond, Election: 200 * time.Millisecond, Lease: 150 * time.Millisecond, Commit: 10 * time.Millisecond,
		SnapshotInterval: 100 * time.Millisecond, SnapshotThreshold: 100000, TrailingLogs: 10240,
		Transport: time.Second, Propose: 20 * time.Second, Shutdown: time.Second, DiskStall: 300 * time.Millisecond,
	},
	Handshake: time.Second, Readmit: patience,
	Gossip: gossip.Local,
}

const patience = 20 * time.Second

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("KONTIKI_TEST_LOG") == "" {
		return slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// node is one master of a test, which can be stopped, killed and started again with its data.
type node struct {
	t       testing.TB
	cfg     Config
	c       *Cluster
	cancel  context.CancelFunc
	stopped chan error
}

func testConfig(t testing.TB, name string) Config {
	return Config{
		Name: name, DataDir: t.TempDir(), BindAddress: "127.0.0.1:0", GossipBindAddress: "127.0.0.1:0",
		APIAddress: "127.0.0.1:6443", Version: "test", Timings: fast, Logger: testLog(t),
	}
}

func (n *node) start() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := Open(ctx, n.cfg)
	if err != nil {
		n.t.Fatalf("open %s: %v", n.cfg.Name, err)
	}
	n.run(c)
}

func (n *node) run(c *Cluster) {
	n.c = c
	n.cfg.BindAddress, n.cfg.GossipBindAddress = c.Address(), c.GossipAddress()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.stopped = cancel, make(chan error, 1)
	go func(stopped chan error) { stopped <- c.Run(ctx) }(n.stopped)
}

func (n *node) waitReady() {
	n.t.Helper()
	select {
	case <-n.c.Ready():
	case err := <-n.stopped:
		n.t.Fatalf("%s ended before it was ready: %v", n.cfg.Name, err)
	case <-time.After(patience):
		n.t.Fatalf("%s is not ready", n.cfg.Name)
	}
}

// stop ends a master cleanly.
func (n *node) stop() {
	n.t.Helper()
	if n.c == nil {
		return
	}
	n.cancel()
	select {
	case err := <-n.stopped:
		if err != nil {
			n.t.Errorf("%s stopped with: %v", n.cfg.Name, err)
		}
	case <-time.After(patience):
		n.t.Fatalf("%s does not stop", n.cfg.Name)
	}
	n.c = nil
}

// kill ends a master as a crash would: nothing is handed over, nobody is told.
func (n *node) kill() {
	n.t.Helper()
	n.c.closer.Do(func() { n.c.closed = n.c.shutdown(false) })
	n.cancel()
	select {
	case <-n.stopped:
	case <-time.After(patience):
		n.t.Fatalf("%s does not die", n.cfg.Name)
	}
	n.c = nil
}

// masters is a whole cluster in this process.
type masters struct {
	t     testing.TB
	nodes []*node
}

// startMasters bootstraps one master and lets the others join with its token.
func startMasters(t testing.TB, count int, change ...func(*Config)) *masters {
	t.Helper()
	m := &masters{t: t}
	t.TempDir() // registers its removal before, and so to be done after, the masters' end
	t.Cleanup(func() {
		for _, n := range m.nodes {
			n.stop()
		}
	})
	first := testConfig(t, "master-1")
	first.Bootstrap = true
	for _, f := range change {
		f(&first)
	}
	n := &node{t: t, cfg: first}
	n.start()
	m.nodes = append(m.nodes, n)
	n.waitReady()
	for i := 2; i <= count; i++ {
		m.join(fmt.Sprintf("master-%d", i), change...)
	}
	return m
}

func (m *masters) join(name string, change ...func(*Config)) *node {
	m.t.Helper()
	cfg := testConfig(m.t, name)
	cfg.Join = []string{m.nodes[0].cfg.BindAddress}
	cfg.Token = m.token()
	for _, f := range change {
		f(&cfg)
	}
	n := &node{t: m.t, cfg: cfg}
	n.start()
	m.nodes = append(m.nodes, n)
	n.waitReady()
	return n
}

func (m *masters) token() string {
	m.t.Helper()
	for _, n := range m.nodes {
		if n.c != nil {
			if token, _, err := initialTokensOf(n.c); err == nil {
				return token
			}
		}
	}
	m.t.Fatal("no master holds the initial tokens")
	return ""
}

// leader waits until a master leads and is ready to.
func (m *masters) leader() *node {
	m.t.Helper()
	var leader *node
	await.That(m.t, "a leader", func() error {
		for _, n := range m.nodes {
			if n.c != nil && n.c.IsLeader() {
				leader = n
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return leader
}

// lead hands leadership to a master, once it can take it: one that has just started may not have heard from the leader.
func (m *masters) lead(n *node) {
	m.t.Helper()
	await.That(m.t, n.cfg.Name+" to lead", func() error {
		if n.c.IsLeader() {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := n.c.TransferLeadership(ctx, n.cfg.Name); err != nil {
			return err
		}
		return errors.New("it does not lead yet")
	})
}

func (m *masters) followers() []*node {
	leader := m.leader()
	var followers []*node
	for _, n := range m.nodes {
		if n != leader && n.c != nil {
			followers = append(followers, n)
		}
	}
	return followers
}

func put(key, value string) *kv.Command {
	return &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Value: []byte(value)}}}
}

func (n *node) put(key, value string) kv.Result {
	n.t.Helper()
	result, err := n.c.Propose(context.Background(), put(key, value))
	if err != nil {
		n.t.Fatalf("put %s on %s: %v", key, n.cfg.Name, err)
	}
	return result
}

// get reads consistently.
func (n *node) get(key string) string {
	n.t.Helper()
	view, err := n.c.Consistent(context.Background())
	if err != nil {
		n.t.Fatalf("read %s on %s: %v", key, n.cfg.Name, err)
	}
	v, ok := view.Get(key)
	if !ok {
		return ""
	}
	return string(v.Value)
}

// initialTokensOf are the join tokens that the first master made, for masters and for workers; fs.ErrNotExist on the
// other masters. They do not expire, but can be revoked.
func initialTokensOf(c *Cluster) (master, worker string, err error) {
	texts := map[pki.Role]string{}
	for role, file := range initialTokens {
		data, err := os.ReadFile(filepath.Join(c.cfg.DataDir, file))
		if errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("this master did not start the cluster: %w", err)
		}
		if err != nil {
			return "", "", err
		}
		texts[role] = strings.TrimSpace(string(data))
	}
	return texts[pki.RoleMaster], texts[pki.RoleWorker], nil
}
