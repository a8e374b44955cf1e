package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// everybody waits until all masters, and the workers given, have a generation and nothing is under way.
func (m *masters) everybody(generation uint64, workers ...*runningWorker) {
	m.t.Helper()
	await.That(m.t, fmt.Sprintf("everybody to have generation %d", generation), func() error {
		for _, n := range m.nodes {
			if n.c == nil {
				continue
			}
			id := n.c.Identity()
			if id.Generation < generation || id.NextCA != nil || id.GossipStep != "" || id.NextSecretKey != "" {
				return fmt.Errorf("%s has generation %d, next CA %v, gossip keys %q, next secret key %q", n.cfg.Name, id.Generation, id.NextCA != nil, id.GossipStep, id.NextSecretKey)
			}
			for _, w := range workers {
				if state := w.Document(); state.Generation < id.Generation || w.Issuer() != id.CA.Pin() || state.Renewal < id.Renewals {
					return fmt.Errorf("the worker %s has generation %d of %d, issuer %s of %s, renewal %d of %d",
						w.Name, state.Generation, id.Generation, join.ShortPin(w.Issuer()), join.ShortPin(id.CA.Pin()), state.Renewal, id.Renewals)
				}
			}
		}
		return nil
	})
}

func (m *masters) change(action IdentityChange) uint64 {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	generation, err := m.followers()[0].c.ChangeIdentity(ctx, action, false) // which asks the leader
	if err != nil {
		m.t.Fatalf("%v: %v", action, err)
	}
	return generation
}

// TestCertificatesAreRenewedInProcess lets certificates live for three seconds, and sees three generations of a master's
// and a worker's while one stream stays open, writes go on, and new connections are made with what is new.
func TestCertificatesAreRenewedInProcess(t *testing.T) {
	short := func(cfg *Config) { cfg.Timings.Certificate = 3 * time.Second }
	m := startMasters(t, 2, short)
	n := m.nodes[0]
	n.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	c, err := Open(ctx, n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := health.NewServer()
	c.RegisterNode(func(r grpc.ServiceRegistrar) { healthv1.RegisterHealthServer(r, served) })
	n.run(c)
	n.waitReady()

	w := joinWorker(t, joinConfig(t, "worker-1", workerToken(t, m), m))
	w.run()
	conn, err := w.Connect(c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	statuses := []healthv1.HealthCheckResponse_ServingStatus{healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING}
	talk := func(i int) {
		t.Helper()
		served.SetServingStatus("", statuses[i%2])
		answer, err := stream.Recv()
		if err != nil || answer.Status != statuses[i%2] {
			t.Fatalf("the stream that was opened before the renewals: %v, %v", answer, err)
		}
	}
	talk(0)
	m.nodes[1].put("/t/a/b/before", "x") // raft's connections are from before the renewals, too

	var masterSerials, workerSerials, servingSerials []string
	see := func(list *[]string, cert *tls.Certificate) {
		serial := cert.Leaf.SerialNumber.String()
		if len(*list) == 0 || (*list)[len(*list)-1] != serial {
			*list = append(*list, serial)
		}
		if time.Now().After(cert.Leaf.NotAfter) {
			t.Errorf("a certificate is in use that expired at %s", cert.Leaf.NotAfter)
		}
	}
	await.That(t, "three renewals of everything", func() error {
		for _, get := range []func() (*tls.Certificate, error){c.certificates.Get, c.APICertificate, c.AgentClientCertificate} {
			if _, err := get(); err != nil {
				return err
			}
		}
		own, err := c.certificates.Get()
		if err != nil {
			return err
		}
		see(&masterSerials, own)
		see(&workerSerials, w.Client())
		see(&servingSerials, w.Serving())
		if len(masterSerials) < 4 || len(workerSerials) < 4 || len(servingSerials) < 4 {
			return fmt.Errorf("seen %d, %d and %d certificates", len(masterSerials), len(workerSerials), len(servingSerials))
		}
		return nil
	})
	for i := range 5 {
		talk(i + 1)
		m.nodes[1].put(fmt.Sprintf("/t/a/b/after-%d", i), "x")
	}
	// Every certificate of the beginning has expired: a new connection takes new ones on both sides.
	fresh, err := w.Connect(c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if _, err := healthv1.NewHealthClient(fresh).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("a new connection after the renewals: %v", err)
	}
	// What is used is on disk.
	again, err := worker.Load(w.cfg.Dir)
	if err != nil || !bytes.Equal(again.Client, w.Document().Client) {
		t.Errorf("the worker's disk holds another certificate than it uses: %v", err)
	}
	// All at once, on demand.
	before, _ := c.certificates.Get()
	ofWorker := w.Client()
	m.everybody(m.change(RenewCertificates), w)
	if after, err := c.certificates.Get(); err != nil || after.Leaf.SerialNumber.Cmp(before.Leaf.SerialNumber) == 0 {
		t.Errorf("the master's certificate was not renewed on demand: %v", err)
	}
	if w.Client().Leaf.SerialNumber.Cmp(ofWorker.Leaf.SerialNumber) == 0 {
		t.Error("the worker's certificate was not renewed on demand")
	}
}

// refusedBy says whether a master's port lets the holder of a certificate speak a protocol.
func refusedBy(t *testing.T, address string, d *mtls.Dialer, proto string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := d.Dial(ctx, address, proto)
	if err != nil {
		return err
	}
	defer conn.NetConn().Close()
	_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err = conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // it waits for us to speak
	}
	return err
}

func TestRotationOfTheCA(t *testing.T) {
	m := startMasters(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	token := workerToken(t, m)
	masterToken := m.token()
	w := joinWorker(t, joinConfig(t, "worker-1", token, m))
	w.run()
	asleep := joinWorker(t, joinConfig(t, "worker-2", token, m)) // not connected while the CA changes
	asleep.run()
	m.everybody(0, w, asleep)
	asleep.stop()

	stolen := m.nodes[0].c.Identity()
	thief := identity.NewLive(stolen, 0)
	stolenFile, err := os.ReadFile(filepath.Join(m.nodes[2].cfg.DataDir, identity.File))
	if err != nil {
		t.Fatal(err)
	}
	asThief := func(name string) *mtls.Dialer {
		// The thief trusts whoever answers.
		return &mtls.Dialer{Roots: m.leader().c.Roots, Certificate: identity.NewCertificates(thief, name, nil).Get}
	}
	if err := refusedBy(t, m.nodes[1].c.Address(), asThief("master-9"), mtls.ProtoCluster); err != nil {
		t.Fatalf("a certificate of the CA before its rotation: %v", err)
	}
	standing, err := asThief("master-9").Dial(ctx, m.nodes[1].c.Address(), mtls.ProtoCluster) // stays open, below
	if err != nil {
		t.Fatal(err)
	}
	defer standing.NetConn().Close()

	// Nothing begins while a master is away: it could not follow.
	down := m.nodes[2]
	down.stop()
	if _, err := m.nodes[0].c.ChangeIdentity(ctx, RotateCA, false); !errors.Is(err, identity.ErrNotMoved) || !strings.Contains(err.Error(), "master-3") {
		t.Fatalf("rotated while a master was away: %v", err)
	}
	if _, err := m.nodes[0].c.ChangeIdentity(ctx, FinishCA, false); err == nil {
		t.Fatal("finished what was not begun")
	}
	down.start()
	down.waitReady()

	generation := m.change(RotateCA)
	m.everybody(generation+1, w) // introduced, then used
	now := m.leader().c.Identity()
	if now.CA.Pin() == stolen.CA.Pin() || now.PreviousCA == nil || now.PreviousCA.Pin() != stolen.CA.Pin() {
		t.Fatalf("the CA did not change: %s, before %v", now.CA.Pin(), now.PreviousCA)
	}
	if issuer := w.Issuer(); issuer != now.CA.Pin() {
		t.Errorf("the worker's certificate is of %s", issuer)
	}
	for _, n := range m.nodes {
		n.put("/t/a/b/"+n.cfg.Name, "x")
	}
	if _, err := m.nodes[0].c.ChangeIdentity(ctx, RotateCA, false); !errors.Is(err, identity.ErrRotating) {
		t.Errorf("a second rotation before the end of the first: %v", err)
	}

	// Between the two, whoever knows only the old CA is welcome: with an old token, ...
	late := joinWorker(t, joinConfig(t, "worker-3", token, m))
	late.run()
	if issuer := late.Issuer(); issuer != now.CA.Pin() {
		t.Errorf("the worker that joined with the old token has a certificate of %s", issuer)
	}
	joined := m.join("master-4", func(cfg *Config) { cfg.Token = masterToken })
	if joined.c.Identity().CA.Pin() != now.CA.Pin() {
		t.Error("the master that joined with the old token has another CA")
	}
	// ... as a master that missed everything, ...
	down.stop()
	if err := os.WriteFile(filepath.Join(down.cfg.DataDir, identity.File), stolenFile, 0o600); err != nil {
		t.Fatal(err)
	}
	down.start()
	down.waitReady()
	m.everybody(now.Generation)
	if saved, err := identity.Load(down.cfg.DataDir); err != nil || saved.CA.Pin() != now.CA.Pin() {
		t.Errorf("the master that caught up has not kept it: %v", err)
	}
	// ... or as a worker that did: until it is back, the old CA is not dropped.
	for _, n := range m.nodes { // what a master heard from a worker itself may be lost by now
		n.c.SetKnownWorkers(func() []string { return []string{"worker-1", "worker-2"} })
	}
	_, err = m.nodes[0].c.ChangeIdentity(ctx, FinishCA, false)
	if !errors.Is(err, identity.ErrNotMoved) || !strings.Contains(err.Error(), "worker-2") {
		t.Fatalf("finished while a worker needs the old CA: %v", err)
	}
	asleep = joinWorker(t, asleep.cfg)
	asleep.run()
	m.everybody(now.Generation, w, asleep, late)

	await.That(t, "the end of the rotation", func() error {
		_, err := m.nodes[0].c.ChangeIdentity(ctx, FinishCA, false)
		return err
	})
	m.everybody(now.Generation+1, w, asleep, late)
	for _, n := range m.nodes {
		n.put("/t/a/b/"+n.cfg.Name, "y")
		for _, proto := range []string{mtls.ProtoRaft, mtls.ProtoCluster, mtls.ProtoNode} {
			if err := refusedBy(t, n.c.Address(), asThief("master-1"), proto); err == nil {
				t.Errorf("%s speaks %s with a certificate of the dropped CA", n.cfg.Name, proto)
			}
		}
	}
	_ = standing.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, standing); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection from before goes on after its CA was dropped")
	}
	if _, err := worker.Join(ctx, joinConfig(t, "worker-4", token, m)); !errors.Is(err, errclass.ErrToken) {
		t.Errorf("a token of the dropped CA: %v", err)
	}
	if _, err := worker.Join(ctx, w.cfg); err != nil {
		t.Errorf("a worker whose configuration still names its old token: %v", err)
	}
	again := joined.cfg
	joined.stop()
	joined.cfg = again
	joined.start()
	joined.waitReady()
	noKeyInTheClear(t, m, now)
}

// noKeyInTheClear looks for the CA's key in all that raft keeps.
func noKeyInTheClear(t *testing.T, m *masters, id *identity.Identity) {
	t.Helper()
	key, err := id.CA.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	needle := bytes.Split(key, []byte("\n"))[1] // a line of the key's own base64
	twice := []byte(base64.StdEncoding.EncodeToString(key))
	for _, n := range m.nodes {
		files := 0
		err := filepath.WalkDir(filepath.Join(n.cfg.DataDir, "raft"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			if bytes.Contains(data, needle) || bytes.Contains(data, twice) {
				t.Errorf("%s holds the CA's key in the clear", path)
			}
			return nil
		})
		if err != nil || files == 0 {
			t.Errorf("looked into %d files: %v", files, err)
		}
	}
	saved, err := os.ReadFile(filepath.Join(m.nodes[0].cfg.DataDir, identity.File))
	if err != nil || !bytes.Contains(saved, twice) {
		t.Errorf("the test does not look for what identity.json holds: %v", err)
	}
}

func TestRotationOfGossipAndSecretKeys(t *testing.T) {
	m := startMasters(t, 3)
	w := joinWorker(t, joinConfig(t, "worker-1", workerToken(t, m), m))
	w.run()
	peers := []mtls.Peer{{Role: mtls.RoleMaster, Name: "master-1"}, {Role: mtls.RoleMaster, Name: "master-2"}, {Role: mtls.RoleMaster, Name: "master-3"}, {Role: mtls.RoleWorker, Name: "worker-1"}}
	for _, n := range m.nodes {
		for _, p := range peers {
			n.expectMember(p.Role, p.Name, gossip.Alive)
		}
	}
	m.everybody(0, w)
	before := m.nodes[0].c.Identity()
	events := make([]*gossip.Events, len(m.nodes))
	for i, n := range m.nodes {
		events[i] = n.c.MemberEvents()
		defer events[i].Close()
	}
	generation := m.change(RotateGossipKey)
	m.everybody(generation+2, w)
	m.everybody(m.change(RotateSecretKey)+1, w)
	now := m.nodes[0].c.Identity()
	if len(now.GossipKeys) != 1 || bytes.Equal(now.GossipKeys[0], before.GossipKeys[0]) {
		t.Errorf("the gossip key did not change: %d keys", len(now.GossipKeys))
	}
	if now.CurrentSecretKey == before.CurrentSecretKey || len(now.SecretKeys) != 2 ||
		!bytes.Equal(now.SecretKeys[before.CurrentSecretKey], before.SecretKeys[before.CurrentSecretKey]) {
		t.Errorf("secret keys after their rotation: current %s, %d keys", now.CurrentSecretKey, len(now.SecretKeys))
	}
	for i, n := range m.nodes {
		if keys := n.c.gossip.Keys(); len(keys) != 1 || !bytes.Equal(keys[0], now.GossipKeys[0]) {
			t.Errorf("%s gossips with %d keys", n.cfg.Name, len(keys))
		}
		// A host that comes now finds the others by the new key; news by it shows that gossip works.
		for _, p := range peers {
			n.expectMember(p.Role, p.Name, gossip.Alive)
		}
		drain, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		for {
			member, err := events[i].Next(drain)
			if err != nil {
				break
			}
			if member.State == gossip.Dead || member.State == gossip.Left {
				t.Errorf("%s saw %s %s as %s during the rotation", n.cfg.Name, member.Role, member.Name, member.State)
			}
		}
		cancel()
	}
	newcomer := startGossip(t, "worker-9", now.GossipKeys[0], m.nodes[0].c.GossipAddress())
	expectMember(t, newcomer, peers[3].Role, peers[3].Name, gossip.Alive)
	outsider := startGossip(t, "worker-8", before.GossipKeys[0], m.nodes[0].c.GossipAddress())
	m.nodes[1].expectMember(mtls.RoleWorker, "worker-9", gossip.Alive)
	for _, member := range append(m.nodes[0].c.Members(), outsider.Members()...) {
		if member.Name == "worker-8" && member.Gossip != outsider.Address() || member.Name == "master-1" && member.Gossip == "" {
			t.Errorf("unexpected member %+v", member)
		}
	}
	if len(outsider.Members()) != 1 {
		t.Errorf("a host with the old key sees %+v", outsider.Members())
	}
}

func TestARevokedWorkerIsRefused(t *testing.T) {
	m := startMasters(t, 2)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := joinWorker(t, joinConfig(t, "worker-1", workerToken(t, m), m))
	thief, err := w.Dialer().Dial(ctx, m.nodes[1].c.Address(), mtls.ProtoNode)
	if err != nil {
		t.Fatal(err)
	}
	defer thief.NetConn().Close()
	if err := m.nodes[0].c.RevokeWorker(ctx, "worker-1"); err != nil {
		t.Fatal(err)
	}
	_ = thief.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, thief); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection goes on after its certificate was revoked")
	}
	for _, n := range m.nodes {
		await.That(t, "a refusal", func() error {
			if refusedBy(t, n.c.Address(), w.Dialer(), mtls.ProtoNode) == nil {
				return errors.New("it may speak")
			}
			return nil
		})
	}
	if err := w.RenewAnywhere(ctx); err == nil {
		t.Error("a revoked certificate was renewed")
	}
	// The host itself joins anew, under its own name, and may then be revoked again.
	for range 2 {
		cfg := joinConfig(t, "worker-1", workerToken(t, m), m)
		cfg.Dir = t.TempDir()
		back, err := worker.Join(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := refusedBy(t, m.nodes[0].c.Address(), back.Dialer(), mtls.ProtoNode); err != nil {
			t.Errorf("the host that joined again: %v", err)
		}
		if err := m.nodes[1].c.RevokeWorker(ctx, "worker-1"); err != nil {
			t.Fatal(err)
		}
		await.That(t, "a refusal", func() error {
			if refusedBy(t, m.nodes[1].c.Address(), back.Dialer(), mtls.ProtoNode) == nil {
				return errors.New("it may speak")
			}
			return nil
		})
	}
}

// TestARevocationHoldsOnAMasterThatHasNotSeenIt: a master that lags behind, or whose clock is ahead, issues nothing for a certificate that
// was revoked elsewhere.
func TestARevocationHoldsOnAMasterThatHasNotSeenIt(t *testing.T) {
	m := startMasters(t, 2)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := joinWorker(t, joinConfig(t, "worker-1", workerToken(t, m), m))
	leaf, err := x509.ParseCertificate(w.Client().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	thief, err := pki.ParsePeer(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.nodes[0].c.RevokeWorker(ctx, "worker-1"); err != nil {
		t.Fatal(err)
	}
	lagging := m.nodes[1].c
	lagging.trust.set(false, nil) // as if it had not applied the revocation yet
	call := peer.NewContext(ctx, &peer.Peer{AuthInfo: mtls.AuthInfo(thief)})
	_, err = workerService{c: lagging}.Renew(call, &clusterv1.RenewRequest{})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a renewal on the master that lags behind: %v", err)
	}
	// A time does not matter: one that was issued later, by a master whose clock is ahead, is of the same count.
	if err := (revocation{Count: 1, Since: time.Now().Add(-time.Hour)}).check(thief); err == nil {
		t.Error("a certificate of an earlier count is admitted because of its time")
	}
	if r := parseRevocation([]byte("2026-01-02T03:04:05Z")); r.Count != 1 || r.Since.Year() != 2026 {
		t.Errorf("what an earlier version stored is read as %+v", r)
	}
}
