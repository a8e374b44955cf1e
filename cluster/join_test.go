package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cluster/worker"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"github.com/kontiki/kontiki/test/await"
)

func TestTokensThatDoNotAdmit(t *testing.T) {
	m := startMasters(t, 1)
	n := m.nodes[0]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	master, worker, err := initialTokensOf(n.c)
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := n.c.CreateToken(ctx, mtls.RoleMaster, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.c.RevokeToken(ctx, revoked); err != nil {
		t.Fatal(err)
	}
	if err := n.c.RevokeToken(ctx, revoked); !errors.Is(err, errclass.ErrTokenNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	expired, err := join.NewToken(n.c.Identity().CA, mtls.RoleMaster)
	if err != nil {
		t.Fatal(err)
	}
	stored := storedOf(expired, time.Hour, "")
	stored.ExpiresAt = time.Now().Add(-time.Minute)
	if _, err := n.c.storeToken(ctx, stored); err != nil {
		t.Fatal(err)
	}
	// The role in a token's text is only its holder's word: what was stored counts.
	relabelled := strings.Replace(worker, "::worker:", "::master:", 1)
	wrongSecret := master[:len(master)-8] + "00000000"
	otherPin := "K10" + strings.Repeat("ab", 32) + master[strings.Index(master, "::"):]

	for _, test := range []struct{ name, token, want string }{
		{"malformed", "secret", "malformed"},
		{"cut short", master[:len(master)-1], "malformed"},
		{"for workers", worker, "for the role worker"},
		{"for workers, relabelled", relabelled, "for the role worker"},
		{"revoked", revoked, "revoked"},
		{"expired", expired.String(), "expired"},
		{"wrong secret", wrongSecret, "secret is wrong"},
		{"another cluster's", otherPin, "another cluster"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := testConfig(t, "master-2")
			cfg.Join, cfg.Token = []string{n.c.Address()}, test.token
			_, err := Open(ctx, cfg)
			if !errors.Is(err, errclass.ErrToken) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "kontiki token create") {
				t.Errorf("joined with %v, want %q", err, test.want)
			}
			if entries, _ := os.ReadDir(cfg.DataDir); len(entries) != 0 {
				t.Errorf("a refused master left %v behind", entries)
			}
		})
	}
	if err := n.c.deleteExpiredTokens(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	tokens, err := n.c.Tokens(ctx)
	if err != nil || len(tokens) != 2 { // those that the cluster began with
		t.Errorf("after the expired one was deleted: %+v, %v", tokens, err)
	}
	if _, err := Open(ctx, testConfig(t, "master-2")); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("a master with nothing to be: %v", err)
	}
}

func TestNamesAndAddressesInUse(t *testing.T) {
	m := startMasters(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := testConfig(t, "master-2")
	cfg.Join, cfg.Token = []string{m.nodes[0].c.Address()}, m.token()
	if _, err := Open(ctx, cfg); !errors.Is(err, errclass.ErrNameTaken) || !strings.Contains(err.Error(), "kontiki cluster remove master-2") {
		t.Fatalf("joined under a living master's name: %v", err)
	}

	// Once that one is dead, a new host takes its place, at another address and with an empty disk.
	m.nodes[0].put("/t/a/b/c", "x")
	m.nodes[1].kill()
	replacement := &node{t: t, cfg: cfg}
	replacement.start()
	m.nodes[1] = replacement
	replacement.waitReady()
	if got := replacement.get("/t/a/b/c"); got != "x" {
		t.Fatalf("the replacement reads %q", got)
	}
	status, err := m.nodes[0].c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Members) != 3 || status.Members[1].Address != replacement.c.Address() || status.Members[1].Role == StatusNonvoter {
		t.Fatalf("members after the replacement: %+v", status.Members)
	}
}

func TestAMasterJoinsByAFollowerAndWaitsForALeader(t *testing.T) {
	m := startMasters(t, 2)
	follower := m.followers()[0]
	n := m.join("master-3", func(cfg *Config) { cfg.Join = []string{"127.0.0.1:1", follower.c.Address()} })
	n.put("/t/a/b/c", "x")
	if got := follower.get("/t/a/b/c"); got != "x" {
		t.Fatalf("read %q", got)
	}
	if _, _, err := initialTokensOf(n.c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a joined master has initial tokens: %v", err)
	}
}

func TestAJoinedMasterCatchesUpBySnapshot(t *testing.T) {
	small := func(cfg *Config) { cfg.Timings.SnapshotThreshold, cfg.Timings.TrailingLogs = 50, 10 }
	m := startMasters(t, 1, small)
	n := m.nodes[0]
	for i := range 500 {
		n.put(fmt.Sprintf("/t/things/default/%d", i%100), fmt.Sprint(i))
	}
	await.That(t, "a snapshot that covers most of the log", func() error {
		first, err := n.c.consensus.Internals().Disk.FirstIndex()
		if err != nil || first < 300 {
			return fmt.Errorf("the log begins at %d, %v", first, err)
		}
		return nil
	})
	joined := m.join("master-2", small)
	if first, err := joined.c.consensus.Internals().Disk.FirstIndex(); err != nil || (first != 0 && first < 300) {
		t.Errorf("the joined master's log begins at %d: it was not sent a snapshot (%v)", first, err)
	}
	view, err := joined.c.Consistent(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if v, ok := view.Get(fmt.Sprintf("/t/things/default/%d", i)); !ok || string(v.Value) != fmt.Sprint(400+i) {
			t.Fatalf("key %d is %v", i, v)
		}
	}
	joined.stop()
	joined.start()
	joined.waitReady()
	if got := joined.get("/t/things/default/7"); got != "407" {
		t.Fatalf("after a restart from the snapshot: %q", got)
	}
}

func TestDataOfAnotherIsRefused(t *testing.T) {
	m := startMasters(t, 1)
	n := m.nodes[0]
	dir := n.cfg.DataDir
	if _, err := Open(context.Background(), Config{Name: "master-1", DataDir: dir, BindAddress: "127.0.0.1:0", GossipBindAddress: "127.0.0.1:0", Logger: testLog(t)}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	n.stop()
	cfg := n.cfg
	cfg.Name = "other"
	if _, err := Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), `"master-1"`) {
		t.Errorf("opened under another name: %v", err)
	}
}

func TestIdentityFileIsPrivate(t *testing.T) {
	m := startMasters(t, 2)
	for _, n := range m.nodes {
		for _, file := range []string{identity.File, memberFile} {
			info, err := os.Stat(filepath.Join(n.cfg.DataDir, file))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s of %s: %v, %v", file, n.cfg.Name, info, err)
			}
		}
	}
	a, b := m.nodes[0].c.Identity(), m.nodes[1].c.Identity()
	if a.ClusterID != b.ClusterID || a.CA.Pin() != b.CA.Pin() || a.CurrentSecretKey != b.CurrentSecretKey ||
		string(a.SecretKeys[a.CurrentSecretKey]) != string(b.SecretKeys[b.CurrentSecretKey]) || string(a.GossipKeys[0]) != string(b.GossipKeys[0]) {
		t.Error("two masters of one cluster hold different identities")
	}
	if s := fmt.Sprintf("%v %+v", a, a); strings.Contains(s, string(a.GossipKeys[0])) || !strings.Contains(s, a.ClusterID) {
		t.Errorf("an identity prints as %s", s)
	}
}

func TestWorkers(t *testing.T) {
	m := startMasters(t, 1)
	n := m.nodes[0]
	n.stop()
	// A service for workers is registered before Run.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := Open(ctx, n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	callers := make(chan mtls.Peer, 8)
	c.RegisterNode(func(r grpc.ServiceRegistrar) {
		healthv1.RegisterHealthServer(r, recordingHealth{Server: health.NewServer(), callers: callers})
	})
	n.run(c)
	n.waitReady()

	master, token, err := initialTokensOf(c)
	if err != nil {
		t.Fatal(err)
	}
	cfg := worker.Config{Name: "worker-1", Dir: t.TempDir(), Join: []string{c.Address()}, Token: token, Addresses: []string{"127.0.0.1"}, Logger: testLog(t)}
	wrong := cfg
	wrong.Token = master
	if _, err := worker.Join(ctx, wrong); !errors.Is(err, errclass.ErrToken) || !strings.Contains(err.Error(), "--role worker") {
		t.Errorf("a worker with a master's token: %v", err)
	}
	wrong = cfg
	wrong.Addresses = []string{"kubernetes.default.svc"}
	if _, err := worker.Join(ctx, wrong); !errors.Is(err, errclass.ErrRefused) {
		t.Errorf("a worker that asks for a certificate for another name: %v", err)
	}

	w, err := worker.Join(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	checkWorkerCertificates(t, w, c.Identity().CA)
	conn, err := w.Connect(w.Masters()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Fatalf("a worker's call: %v", err)
	}
	if caller := <-callers; caller != (mtls.Peer{Role: mtls.RoleWorker, Name: "worker-1"}) {
		t.Errorf("the call came from %+v", caller)
	}

	// The next start needs neither token nor master; other addresses need a renewal, under the same key.
	cfg.Token = ""
	again, err := worker.Join(ctx, cfg)
	if err != nil || string(again.Client().Certificate[0]) != string(w.Client().Certificate[0]) {
		t.Fatalf("the identity was not reused: %v", err)
	}
	cfg.Addresses = []string{"127.0.0.1", "127.0.0.2"}
	renewed, err := worker.Join(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if string(renewed.Serving().Certificate[0]) == string(w.Serving().Certificate[0]) || len(renewed.Serving().Leaf.IPAddresses) != 2 {
		t.Errorf("the certificates were not renewed: %v", renewed.Serving().Leaf.IPAddresses)
	}
	if key, ok := renewed.Serving().Leaf.PublicKey.(*ecdsa.PublicKey); !ok || !key.Equal(w.Serving().Leaf.PublicKey) {
		t.Error("the renewed certificates are for another key")
	}

	// A worker's certificate opens nothing of the masters'.
	for _, proto := range []string{mtls.ProtoRaft, mtls.ProtoCluster} {
		d := w.Dialer()
		raw, err := d.Dial(ctx, c.Address(), proto)
		if err != nil {
			continue // refused in the handshake
		}
		_ = raw.SetDeadline(time.Now().Add(patience))
		if _, err := raw.Read(make([]byte, 1)); err == nil {
			t.Errorf("a worker may speak %s", proto)
		}
		raw.NetConn().Close()
	}
}

type recordingHealth struct {
	*health.Server
	callers chan mtls.Peer
}

func (r recordingHealth) Check(ctx context.Context, request *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	peer, _ := mtls.PeerFromContext(ctx)
	r.callers <- peer
	return r.Server.Check(ctx, request)
}

func checkWorkerCertificates(t *testing.T, w *worker.Identity, ca *pki.Authority) {
	t.Helper()
	client, serving := w.Client().Leaf, w.Serving().Leaf
	if client.Subject.CommonName != "system:node:worker-1" || client.Subject.Organization[0] != "system:nodes" {
		t.Errorf("the client certificate is for %v", client.Subject)
	}
	for _, test := range []struct {
		cert  *x509.Certificate
		usage x509.ExtKeyUsage
		ok    bool
	}{
		{client, x509.ExtKeyUsageClientAuth, true}, {client, x509.ExtKeyUsageServerAuth, false},
		{serving, x509.ExtKeyUsageServerAuth, true}, {serving, x509.ExtKeyUsageClientAuth, false},
	} {
		_, err := test.cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{test.usage}})
		if (err == nil) != test.ok {
			t.Errorf("usage %v of %v: %v", test.usage, test.cert.Subject, err)
		}
	}
	if err := serving.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	if err := serving.VerifyHostname("worker-1"); err != nil {
		t.Error(err)
	}
}

func TestRemovedMasterIsGone(t *testing.T) {
	m := startMasters(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	leader := m.leader()
	if err := m.followers()[0].c.RemoveMember(ctx, leader.cfg.Name); err != nil {
		t.Fatal(err)
	}
	survivor := m.nodes[0]
	if survivor == leader {
		survivor = m.nodes[1]
	}
	for _, s := range survivor.c.consensus.Servers() {
		if s.ID == raft.ServerID(leader.cfg.Name) {
			t.Errorf("%s still is a member", leader.cfg.Name)
		}
	}
	if err := survivor.c.RemoveMember(ctx, "nobody"); err == nil || !strings.Contains(err.Error(), "no such master") {
		t.Errorf("removed nobody: %v", err)
	}
	survivor.put("/t/a/b/c", "x")

	// The removed one notices, ends, and does not start again with its data.
	select {
	case err := <-leader.stopped:
		if !errors.Is(err, errclass.ErrRemoved) {
			t.Errorf("the removed master ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the removed master goes on")
	}
	leader.start()
	select {
	case err := <-leader.stopped:
		if !errors.Is(err, errclass.ErrRemoved) {
			t.Errorf("the removed master ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the removed master started again")
	}
	leader.c = nil
}

// TestAWorkerCannotPoseAsAMaster: whoever has a worker's token gets no serving certificate for a master's name or address, nor for the
// API's, unless the call comes from that master's own host.
func TestAWorkerCannotPoseAsAMaster(t *testing.T) {
	m := startMasters(t, 1, func(cfg *Config) {
		cfg.AdvertiseAddress, cfg.APIHosts = "10.9.0.1:6444", []string{"10.9.0.100", "api.example.com"}
	})
	c := m.nodes[0].c
	from := func(host string) context.Context {
		return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(host), Port: 40000}})
	}
	// What the API is called at another master, which has other flags.
	m.nodes[0].put(apiHostsPrefix+"master-2", `["10.9.0.200","other.example.com"]`)
	await.That(t, "this master's own names to be stored", func() error {
		if v, ok := c.View().Get(apiHostsPrefix + "master-1"); !ok || string(v.Value) != `["10.9.0.100","api.example.com"]` {
			return fmt.Errorf("%v", v)
		}
		return nil
	})
	// A worker that is there keeps its name, also if it calls from another address of its host.
	if err := c.mayBeNamed(from("10.9.0.7"), c.View(), "master-1"); err != nil {
		t.Errorf("the renewal of the worker on a master's host: %v", err)
	}
	for _, x := range []struct {
		from, name, address string
		allowed             bool
	}{
		{"10.9.0.2", "worker-1", "10.9.0.2", true},
		{"10.9.0.2", "worker-1", "10.9.0.3", true}, // a host may have several addresses
		{"10.9.0.2", "worker-1", "10.9.0.1", false},
		{"10.9.0.2", "worker-1", "10.9.0.100", false},
		{"10.9.0.2", "worker-1", "169.254.0.1", false},
		{"10.9.0.2", "master-1", "10.9.0.1", false},
		{"10.9.0.2", "master-1", "10.9.0.2", false},
		{"10.9.0.1", "master-1", "10.9.0.1", true},
		{"127.0.0.1", "master-1", "10.9.0.1", true}, // the worker of this master's own host
		{"10.9.0.2", "api.example.com", "10.9.0.2", false},
		{"10.9.0.2", "localhost", "10.9.0.2", false},
		{"10.9.0.2", "kubernetes.default", "10.9.0.2", false},
		{"10.9.0.2", "10.9.0.1", "10.9.0.2", false},   // a name that is a master's address
		{"10.9.0.2", "10.9.0.100", "10.9.0.2", false}, // or the API's
		{"10.9.0.2", "10.9.0.3", "10.9.0.2", false},   // or another host's
		{"10.9.0.2", "10.9.0.2", "10.9.0.2", true},
		{"10.9.0.2", "other.example.com", "10.9.0.2", false}, // the API at another master
		{"10.9.0.2", "worker-1", "10.9.0.200", false},
	} {
		err := c.mayBeNamed(from(x.from), c.View(), x.name)
		if err == nil {
			err = c.mayTakeName(from(x.from), x.name)
		}
		if err == nil {
			err = c.mayServeAt(from(x.from), c.View(), x.name, x.address)
		}
		if (err == nil) != x.allowed {
			t.Errorf("%s asks from %s for a certificate for %s: %v", x.name, x.from, x.address, err)
		}
	}
}

// TestATokenTakesOverNoLivingWorker: whoever has a worker's token does not become a worker that is alive by claiming its address.
func TestATokenTakesOverNoLivingWorker(t *testing.T) {
	for _, mode := range []string{"all", "masters"} {
		m := startMasters(t, 1, func(cfg *Config) { cfg.GossipMode = mode })
		c := m.nodes[0].c
		token := workerToken(t, m)
		w := joinWorker(t, joinConfig(t, "worker-1", token, m))
		w.run()
		await.That(t, "the worker to be known", func() error {
			if mode == "all" {
				for _, member := range c.Members() {
					if member.Name == "worker-1" && member.State == gossip.Alive {
						return nil
					}
				}
			} else if f := c.workers.all()["worker-1"]; !c.WorkersGossip() && f.streams > 0 {
				return nil
			}
			return errors.New("not yet")
		})
		_, csr, err := pki.NewRequest("worker-1")
		if err != nil {
			t.Fatal(err)
		}
		from := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP("10.9.0.66"), Port: 40000}})
		request := &clusterv1.JoinWorkerRequest{Token: token, Name: "worker-1", Csr: csr, Addresses: []string{"127.0.0.1"}}
		if _, err := (joinService{c: c}).JoinWorker(from, request); status.Code(err) != codes.AlreadyExists {
			t.Errorf("gossip mode %s: a stranger that claims the worker's address: %v", mode, err)
		}
	}
}

// TestInitialTokensWaitForTheStart: the files of the initial tokens are there before the cluster has stored them. Who joins meanwhile waits, and is
// not told that the token is not known.
func TestInitialTokensWaitForTheStart(t *testing.T) {
	cfg := testConfig(t, "master-1")
	cfg.Bootstrap = true
	n := &node{t: t, cfg: cfg}
	n.start()
	t.Cleanup(n.stop)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	master, worker, err := initialTokensOf(n.c)
	if err != nil {
		t.Fatal(err)
	}
	for role, token := range map[pki.Role]string{pki.RoleMaster: master, pki.RoleWorker: worker} {
		if _, err := n.c.checkToken(ctx, token, role); err != nil {
			t.Errorf("the token for a %s right after the start: %v", role, err)
		}
	}
}
