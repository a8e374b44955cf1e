package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/await"
)

func TestWritesOnAnyMasterAreReadOnEveryOther(t *testing.T) {
	m := startMasters(t, 3)
	for i := range 30 {
		writer, reader := m.nodes[i%3], m.nodes[(i+1+i/3%2)%3]
		key, value := fmt.Sprintf("/t/things/default/%d", i%5), fmt.Sprint(i)
		writer.put(key, value)
		if v, ok := writer.c.View().Get(key); !ok || string(v.Value) != value {
			t.Fatalf("%s does not show its own write %s=%s", writer.cfg.Name, key, value)
		}
		if got := reader.get(key); got != value {
			t.Fatalf("wrote %s=%s on %s, read %q on %s", key, value, writer.cfg.Name, got, reader.cfg.Name)
		}
	}
}

func TestFollowersGetConditionsAnswered(t *testing.T) {
	m := startMasters(t, 3)
	follower := m.followers()[0]
	first := follower.put("/t/a/b/c", "1")
	if len(first.Revisions) != 1 || first.Revisions[0] != first.Revision {
		t.Fatalf("a put answered %+v", first)
	}
	result, err := follower.c.Propose(context.Background(), &kv.Command{ID: random.CommandID(), Ops: []kv.Op{
		{Key: "/t/a/b/d", Value: []byte("x")},
		{Key: "/t/a/b/c", Value: []byte("2"), Cond: kv.AtRevision, Revision: first.Revision + 7},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if f := result.Failed; f == nil || f.Index != 1 || f.Cond != kv.AtRevision || f.Current != first.Revision {
		t.Fatalf("a conflict answered %+v", result.Failed)
	}
	if got := follower.get("/t/a/b/d"); got != "" {
		t.Fatalf("half of a command that failed is there: %q", got)
	}
}

func TestRestartWithData(t *testing.T) {
	m := startMasters(t, 3)
	m.nodes[1].put("/t/a/b/c", "kept")
	for _, n := range m.nodes {
		n.stop()
	}
	for _, n := range m.nodes {
		n.cfg.Join, n.cfg.Token, n.cfg.Bootstrap = nil, "", false
		n.start()
	}
	for _, n := range m.nodes {
		n.waitReady()
		if got := n.get("/t/a/b/c"); got != "kept" {
			t.Fatalf("%s reads %q after a restart", n.cfg.Name, got)
		}
	}
	m.nodes[2].put("/t/a/b/c", "more")
	if got := m.nodes[0].get("/t/a/b/c"); got != "more" {
		t.Fatalf("read %q", got)
	}
}

func TestOneMasterRestartsAlone(t *testing.T) {
	m := startMasters(t, 1)
	n := m.nodes[0]
	n.put("/t/a/b/c", "kept")
	n.stop()
	n.start() // with Bootstrap still set
	n.waitReady()
	if got := n.get("/t/a/b/c"); got != "kept" {
		t.Fatalf("read %q", got)
	}
}

func TestStatusAndTransfer(t *testing.T) {
	m := startMasters(t, 3)
	leader := m.leader()
	status, err := leader.c.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if status.Leader != leader.cfg.Name || len(status.Members) != 3 || status.Term == 0 || status.Revision == 0 {
		t.Fatalf("status: %+v", status)
	}
	for i, member := range status.Members {
		wantRole := StatusVoter
		if member.Name == status.Leader {
			wantRole = StatusLeader
		}
		if member.Name != fmt.Sprintf("master-%d", i+1) || member.Role != wantRole || member.Health != HealthOK || member.Version != "test" || member.AppliedIndex == 0 {
			t.Errorf("member %d: %+v", i, member)
		}
	}
	follower := m.followers()[0]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	now, err := m.followers()[1].c.TransferLeadership(ctx, follower.cfg.Name)
	if err != nil || now != follower.cfg.Name {
		t.Fatalf("transfer: %q, %v", now, err)
	}
	await.That(t, "the new leader", func() error {
		if !follower.c.IsLeader() {
			return fmt.Errorf("%s does not lead", follower.cfg.Name)
		}
		return nil
	})
	leader.put("/t/a/b/c", "after")
	if got := follower.get("/t/a/b/c"); got != "after" {
		t.Fatalf("read %q", got)
	}
}

func TestAdminFromAMastersHost(t *testing.T) {
	m := startMasters(t, 2)
	admin, err := DialAdmin(m.nodes[1].cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := admin.Status(ctx)
	if err != nil || len(status.Members) != 2 {
		t.Fatalf("status: %+v, %v", status, err)
	}
	if _, err := admin.CreateToken(ctx, mtls.RoleWorker, time.Hour, "for a test"); err != nil {
		t.Fatal(err)
	}
	tokens, err := admin.Tokens(ctx)
	if err != nil || len(tokens) != 3 {
		t.Fatalf("tokens: %+v, %v", tokens, err)
	}
	for _, token := range tokens {
		if (token.Description == "for a test") != !token.ExpiresAt.IsZero() {
			t.Errorf("token %+v", token)
		}
	}
	if err := admin.RemoveMember(ctx, m.leader().cfg.Name); err == nil {
		// The leader hands over and is removed by the other one.
		await.That(t, "one member", func() error {
			status, err := admin.Status(ctx)
			if err != nil || len(status.Members) != 1 {
				return fmt.Errorf("%+v, %v", status, err)
			}
			return nil
		})
	} else {
		t.Fatal(err)
	}
}
