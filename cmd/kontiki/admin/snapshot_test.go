package admin

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster"
)

func TestResourceOfAKey(t *testing.T) {
	for key, want := range map[string]string{
		"/core/pods/default/a": "pods", "/apps/deployments/default/a": "deployments.apps", "//nodes//n": "nodes",
		"/kontiki/tokens/x": "(the cluster's own: tokens)", "/odd": "(other)",
		"/deleted/00180000000a-uid": "(deleted objects)", "/quota/default/q/cpu": "(counters of quotas)",
	} {
		if got := resourceOf(key); got != want {
			t.Errorf("%s is of %q, want %q", key, got, want)
		}
	}
}

// TestASnapshotThatBreaksOffIsNotKept: an incomplete response or an error leaves no new file, and an existing one undamaged.
func TestASnapshotThatBreaksOffIsNotKept(t *testing.T) {
	answer := func(http.ResponseWriter) {}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
	defer server.Close()
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	config := "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: x, cluster: {server: " + server.URL + "}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n"
	if err := os.WriteFile(kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "state")
	if err := os.WriteFile(target, []byte("the last good one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		answer func(http.ResponseWriter)
		want   string
	}{
		"cut": {func(w http.ResponseWriter) {
			w.Write([]byte("KONTIKI-BACKUP 1\n"))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "undamaged backup"},
		"empty": {func(http.ResponseWriter) {}, "undamaged backup"},
		"error": {func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"kind": "Status", "message": "no such master"}`)
		}, "no such master"},
		"text": {func(w http.ResponseWriter) { http.Error(w, "a proxy's page", http.StatusBadGateway) }, "a proxy's page"},
	} {
		answer = x.answer
		if _, err := saveSnapshot(context.Background(), kubeconfig, target); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
		}
		if data, err := os.ReadFile(target); err != nil || string(data) != "the last good one" {
			t.Errorf("%s: the file is %q, %v", name, data, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".snapshot-*")); len(left) != 0 {
			t.Errorf("%s: left behind %v", name, left)
		}
	}
}

func TestStatusIsPrinted(t *testing.T) {
	for name, x := range map[string]struct {
		status cluster.Status
		want   string
	}{
		"an upgrade, one master away": {cluster.Status{
			ClusterID: "abc", Leader: "m1", Term: 3, Revision: 40, Epoch: 2, FeatureLevel: 1, FailuresTolerated: 1, Behind: []string{"m2", "m3"},
			Members: []cluster.MemberStatus{
				{Name: "m1", Role: cluster.StatusLeader, Address: "10.0.0.1:6444", Health: cluster.HealthOK, Gossip: "alive", LastContact: "0s", RoundTrip: "0s", LastIndex: 50, AppliedIndex: 49,
					DiskWrite: "1.5ms", DiskFree: 1, DiskTotal: 4, CertificateExpires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Version: "v2"},
				{Name: "m2", Role: cluster.StatusVoter, Address: "10.0.0.2:6444", Health: cluster.HealthUnreachable, Gossip: "dead", LastContact: "never"},
				{Name: "m3", Role: cluster.StatusNonvoter, Address: "10.0.0.3:6444", Health: cluster.HealthBehind, Gossip: "suspect", LastContact: "12ms", RoundTrip: "340µs", LastIndex: 8, AppliedIndex: 7,
					DiskWrite: "2ms", DiskFree: 3, DiskTotal: 4, CertificateExpires: time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC), Version: "v1"},
			},
		}, `
Cluster abc: leader m1, term 3, revision 40, epoch 2, feature level 1
1 more master may fail before writes stop.

The feature level rises once these masters are upgraded: m2, m3.

NAME   ROLE       ADDRESS         HEALTH        GOSSIP    LAST CONTACT   ROUND TRIP   LOG   APPLIED   DISK WRITE   DISK FREE   CERTIFICATE   VERSION
m1     leader     10.0.0.1:6444   ok            alive     0s             0s           50    49        1.5ms        25%         2030-01-02    v2
m2     voter      10.0.0.2:6444   unreachable   dead      never          -            0     0         -            -           -             -
m3     nonvoter   10.0.0.3:6444   behind        suspect   12ms           340µs        8     7         2ms          75%         2031-01-02    v1
`},
		"no leader": {cluster.Status{ClusterID: "abc", Term: 3, FailuresTolerated: -1, FeatureLevel: 2}, `
Cluster abc: leader none, term 3, revision 0, epoch 0, feature level 2
Writes have stopped: too few masters are healthy.

NAME   ROLE   ADDRESS   HEALTH   GOSSIP   LAST CONTACT   ROUND TRIP   LOG   APPLIED   DISK WRITE   DISK FREE   CERTIFICATE   VERSION
`},
		"an election": {cluster.Status{ClusterID: "abc", Term: 4, FailuresTolerated: -1, Members: []cluster.MemberStatus{
			{Name: "m1", Role: cluster.StatusVoter, Health: cluster.HealthUnreachable, Gossip: "dead", LastContact: "never"},
			{Name: "m2", Role: cluster.StatusVoter, Health: cluster.HealthNoLeader, Gossip: "alive", LastContact: "1s"},
			{Name: "m3", Role: cluster.StatusVoter, Health: cluster.HealthNoLeader, Gossip: "alive", LastContact: "1s"},
		}}, `
Cluster abc: leader none, term 4, revision 0, epoch 0, feature level 0
Writes wait: the masters elect a leader, which takes a second or two.

NAME   ROLE    ADDRESS   HEALTH        GOSSIP   LAST CONTACT   ROUND TRIP   LOG   APPLIED   DISK WRITE   DISK FREE   CERTIFICATE   VERSION
m1     voter             unreachable   dead     never          -            0     0         -            -           -             -
m2     voter             no-leader     alive    1s             -            0     0         -            -           -             -
m3     voter             no-leader     alive    1s             -            0     0         -            -           -             -
`},
		"five": {cluster.Status{ClusterID: "abc", Leader: "m1", FailuresTolerated: 2}, `
Cluster abc: leader m1, term 0, revision 0, epoch 0, feature level 0
2 more masters may fail before writes stop.

NAME   ROLE   ADDRESS   HEALTH   GOSSIP   LAST CONTACT   ROUND TRIP   LOG   APPLIED   DISK WRITE   DISK FREE   CERTIFICATE   VERSION
`},
	} {
		var out bytes.Buffer
		if err := printStatus(&out, &x.status); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + out.String(); got != x.want {
			t.Errorf("%s:%s\nwant:%s", name, got, x.want)
		}
	}
}

// TestInspectCountsWhatIsThere compares the output of inspecting a snapshot with the cluster's objects.
func TestRecoveryIsExplained(t *testing.T) {
	var out bytes.Buffer
	printRecovery(&out, &cluster.Recovery{Name: "m2", LastIndex: 77, Left: []raft.Server{{ID: "m1", Address: "10.0.0.1:6444"}}})
	for _, want := range []string{"m2 becomes the only master", "index 77", "WARNING", "m1 at 10.0.0.1:6444"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}
