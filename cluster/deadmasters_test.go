package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/test/await"
)

func TestWhichDeadMasterIsRemoved(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name, voters, others string
		dead                 string // oldest first
		want                 string
	}{
		{"nobody is dead", "abcde", "", "", ""},
		{"one of five", "abcde", "", "c", "c"},
		{"two of five, the oldest first", "abcde", "", "dc", "d"},
		{"three of five have no quorum", "abcde", "", "abc", ""},
		{"one of four", "abcd", "", "a", "a"},
		{"two of four have no quorum", "abcd", "", "ab", ""},
		{"one of three stays", "abc", "", "a", ""},
		{"one that does not vote goes", "abc", "x", "x", "x"},
		{"one that does not vote goes, while one that does stays", "abc", "x", "ax", "x"},
		{"one of two", "ab", "", "a", ""},
	} {
		var servers []raft.Server
		for _, id := range test.voters {
			servers = append(servers, raft.Server{ID: raft.ServerID(id), Suffrage: raft.Voter})
		}
		for _, id := range test.others {
			servers = append(servers, raft.Server{ID: raft.ServerID(id), Suffrage: raft.Nonvoter})
		}
		since := map[raft.ServerID]time.Time{}
		for i, id := range test.dead {
			since[raft.ServerID(id)] = now.Add(-time.Hour + time.Duration(i)*time.Minute)
		}
		got, ok := removable(servers, since, now.Add(-time.Minute))
		if string(got.ID) != test.want || ok != (test.want != "") {
			t.Errorf("%s: %q, want %q", test.name, got.ID, test.want)
		}
		if got, ok := removable(servers, since, now.Add(-2*time.Hour)); ok {
			t.Errorf("%s: %q is removed before its time", test.name, got.ID)
		}
	}
}

func (m *masters) members(of *node) []string {
	m.t.Helper()
	var names []string
	for _, s := range of.c.consensus.Servers() {
		names = append(names, string(s.ID))
	}
	return names
}

// TestADeadMasterIsRemovedAndComesBack: with its data, and by itself.
func TestADeadMasterIsRemovedAndComesBack(t *testing.T) {
	m := startMasters(t, 4, func(cfg *Config) { cfg.DeadAfter = 300 * time.Millisecond })
	victim := m.nodes[3]
	m.nodes[0].put("/t/a", "before")
	victim.get("/t/a")
	victim.kill()
	await.That(t, "the dead master to be removed", func() error {
		if names := m.members(m.nodes[0]); len(names) != 3 {
			return fmt.Errorf("members %v", names)
		}
		return nil
	})
	m.nodes[1].kill() // one of three: it stays a member, however long
	m.nodes[0].put("/t/a", "meanwhile")
	victim.start()
	victim.waitReady()
	if got := victim.get("/t/a"); got != "meanwhile" {
		t.Errorf("the master that came back reads %q", got)
	}
	await.That(t, "its vote", func() error {
		for _, s := range m.nodes[0].c.consensus.Servers() {
			if string(s.ID) == victim.cfg.Name && s.Suffrage == raft.Voter {
				return nil
			}
		}
		return errors.New("it has none")
	})
	if names := m.members(m.nodes[0]); len(names) != 4 && len(names) != 3 { // the second may go now: three others are there
		t.Errorf("members %v", names)
	}
}

// TestAMasterThatSomebodyRemovedStaysOut, until it joins with a token.
func TestAMasterThatSomebodyRemovedStaysOut(t *testing.T) {
	m := startMasters(t, 3)
	victim := m.followers()[0]
	victim.stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.leader().c.RemoveMember(ctx, victim.cfg.Name); err != nil {
		t.Fatal(err)
	}
	victim.start()
	select {
	case err := <-victim.stopped:
		if !errors.Is(err, errclass.ErrRemoved) || !strings.Contains(err.Error(), "start with a token") {
			t.Errorf("it ended with: %v", err)
		}
		victim.c = nil
	case <-time.After(patience):
		t.Fatal("it runs on")
	}
	victim.cfg.DataDir = t.TempDir()
	victim.cfg.Bootstrap, victim.cfg.Join = false, []string{m.leader().c.Address()}
	token, err := m.leader().c.CreateToken(ctx, mtls.RoleMaster, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	victim.cfg.Token = token
	victim.start()
	victim.waitReady()
	if names := m.members(m.leader()); len(names) != 3 {
		t.Errorf("members %v", names)
	}
}
