package server

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/worker"
)

// The commands on a master's host, against a running master.
func TestTokenCommands(t *testing.T) {
	m := startMaster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func(args ...string) (string, error) {
		t.Helper()
		var err error
		out := captureStdout(t, func() {
			root := administration()
			root.SetArgs(append([]string{"token", "--data-dir", m.options.dataDir}, args...))
			err = root.ExecuteContext(ctx)
		})
		return strings.TrimSpace(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("token %v: %v", args, err)
		}
		return out
	}
	admit := func(name, token string) error {
		_, err := worker.Join(ctx, worker.Config{
			Name: name, Dir: t.TempDir(), Join: []string{m.cluster.Address()}, Token: token, Addresses: []string{"127.0.0.1"}, Logger: m.log,
		})
		return err
	}
	text := must("create", "--description", "rack 7", "--ttl", "1h")
	var made struct{ Token string }
	if err := json.Unmarshal([]byte(must("create", "--role", "master", "-o", "json")), &made); err != nil || !strings.Contains(made.Token, "::master:") {
		t.Fatalf("made %+v, %v", made, err)
	}
	if err := admit("worker-1", text); err != nil {
		t.Errorf("the token that was printed: %v", err)
	}
	var listed []cluster.Token
	if err := json.Unmarshal([]byte(must("list", "-o", "json")), &listed); err != nil || len(listed) != 4 { // two are the cluster's first
		t.Fatalf("listed %+v, %v", listed, err)
	}
	table := must("list")
	secret := text[strings.LastIndex(text, ".")+1:]
	id := strings.TrimSuffix(text[strings.LastIndex(text, ":")+1:], "."+secret)
	if !strings.Contains(table, "rack 7") || !strings.Contains(table, id) || !strings.Contains(table, "never") || strings.Contains(table, secret) {
		t.Errorf("the list is\n%s", table)
	}
	if out := must("revoke", id, "-o", "json"); !strings.Contains(out, `"`+id+`"`) {
		t.Errorf("revoked: %s", out)
	}
	if err := admit("worker-2", text); !errors.Is(err, errclass.ErrToken) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("joined with a revoked token: %v", err)
	}
	if _, err := run("revoke", id); err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := run("list", "-o", "yaml"); err == nil {
		t.Error("an unknown output")
	}
	if _, err := run("create", "--role", "janitor"); err == nil || !strings.Contains(err.Error(), "master or worker") {
		t.Errorf("a token for another role: %v", err)
	}
}
