package main

import (
	"bytes"
	"context"
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
	} {
		if got := resourceOf(key); got != want {
			t.Errorf("%s is of %q, want %q", key, got, want)
		}
	}
}

// TestASnapshotThatBreaksOffIsNotKept: an answer that is cut or that is an error leaves no file, and not the old one damaged.
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
		}, "no undamaged backup"},
		"empty": {func(http.ResponseWriter) {}, "no undamaged backup"},
		"error": {func(w http.ResponseWriter) { answerError(w, cluster.ErrNotMember) }, "no such master"},
		"text":  {func(w http.ResponseWriter) { http.Error(w, "a proxy's page", http.StatusBadGateway) }, "a proxy's page"},
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
	var out bytes.Buffer
	s := &cluster.Status{ClusterID: "abc", Leader: "m1", FailuresTolerated: 1, Members: []cluster.MemberStatus{
		{Name: "m1", Role: cluster.StatusLeader, Health: cluster.HealthOK, DiskFree: 1, DiskTotal: 4, CertificateExpires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
		{Name: "m2", Role: cluster.StatusVoter, Health: cluster.HealthUnreachable},
	}}
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"leader m1", "1 more master may fail", "25%", "2030-01-02", "unreachable"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

func TestRecoveryIsExplained(t *testing.T) {
	var out bytes.Buffer
	printRecovery(&out, &cluster.Recovery{Name: "m2", LastIndex: 77, Left: []raft.Server{{ID: "m1", Address: "10.0.0.1:6444"}}})
	for _, want := range []string{"m2 becomes the only master", "index 77", "WARNING", "m1 at 10.0.0.1:6444"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}
