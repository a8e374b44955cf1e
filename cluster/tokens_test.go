package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/worker"
	"github.com/kontiki/kontiki/internal/kv"
)

func TestTokensOfWorkersThatDoNotAdmit(t *testing.T) {
	m := startMasters(t, 1)
	c := m.nodes[0].c
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	good := workerToken(t, m)
	revoked := workerToken(t, m)
	id, err := join.ParseToken(revoked)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.RevokeToken(ctx, id.ID); err != nil { // by its id; whole is tested with masters
		t.Fatal(err)
	}
	expired, err := join.NewToken(c.Identity().CA, mtls.RoleWorker)
	if err != nil {
		t.Fatal(err)
	}
	stored := storedOf(expired, time.Hour, "")
	stored.ExpiresAt = time.Now().Add(-time.Second)
	if _, err := c.storeToken(ctx, stored); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, token, want string }{
		{"none", "", "none is given"},
		{"for masters", m.token(), "for the role master"},
		{"for masters, relabelled", strings.Replace(m.token(), "::master:", "::worker:", 1), "for the role master"},
		{"revoked", revoked, "revoked"},
		{"expired", expired.String(), "expired"},
		{"wrong secret", good[:len(good)-8] + "00000000", "secret is wrong"},
		{"another cluster's", "K10" + strings.Repeat("ab", 32) + good[strings.Index(good, "::"):], "another cluster"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := joinConfig(t, "worker-1", test.token, m)
			_, err := worker.Join(ctx, cfg)
			if !errors.Is(err, errclass.ErrToken) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "kontiki token create") {
				t.Errorf("joined with %v, want %q", err, test.want)
			}
			if entries, _ := os.ReadDir(cfg.Dir); len(entries) != 0 {
				t.Errorf("a refused worker left %v behind", entries)
			}
		})
	}
	if _, err := worker.Join(ctx, joinConfig(t, "worker-1", good, m)); err != nil {
		t.Errorf("a good token: %v", err)
	}
	if _, err := c.CreateToken(ctx, "janitor", 0, ""); err == nil || !strings.Contains(err.Error(), "master or worker") {
		t.Errorf("made a token for another role: %v", err)
	}
	if _, err := c.CreateToken(ctx, mtls.RoleWorker, -time.Second, ""); err == nil {
		t.Error("made a token with a negative life")
	}
}

func TestTokensAreKeptAsHashes(t *testing.T) {
	m := startMasters(t, 1)
	c := m.nodes[0].c
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := c.CreateToken(ctx, mtls.RoleWorker, time.Hour, "for the test")
	if err != nil {
		t.Fatal(err)
	}
	token, err := join.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := c.Tokens(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, listed := range tokens {
		found = found || listed.ID == token.ID && listed.Role == mtls.RoleWorker && listed.Description == "for the test" && time.Until(listed.ExpiresAt) > 50*time.Minute
	}
	shown, err := json.Marshal(tokens)
	if err != nil || !found || strings.Contains(string(shown), token.Secret) || strings.Contains(string(shown), "ecretHash") {
		t.Errorf("tokens are listed as %s, %v", shown, err)
	}
	view, keys := c.View(), 0
	view.Range("", "", func(v *kv.Version) bool {
		keys++
		if strings.Contains(v.Key+string(v.Value), token.Secret) {
			t.Errorf("%s holds the secret of a token", v.Key)
		}
		return true
	})
	if _, ok := view.Get(tokenPrefix + token.ID); !ok || keys < 3 {
		t.Errorf("the token is not among %d keys", keys)
	}
}
