package rest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/test/harness"
)

func TestHealth(t *testing.T) {
	for _, c := range []struct {
		path  string
		ready error
		code  int
		body  string
	}{
		{"/livez", nil, 200, "ok"},
		{"/livez?verbose", nil, 200, "[+]ping ok\nlivez check passed\n"},
		{"/readyz?verbose", nil, 200, "[+]ping ok\n[+]quorum ok\nreadyz check passed\n"},
		{"/healthz?verbose=1", nil, 200, "[+]ping ok\n[+]quorum ok\nhealthz check passed\n"},
		{"/readyz?verbose&exclude=quorum&exclude=etcd", nil, 200, "[+]ping ok\n[+]quorum excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"etcd\"\nreadyz check passed\n"},
		{"/livez/ping", nil, 200, "ok"},
		{"/livez", errors.New("lost"), 200, "ok"},
		{"/readyz", errors.New("lost"), 500, "[+]ping ok\n[-]quorum failed: reason withheld\nreadyz check failed\n"},
		{"/readyz?exclude=quorum", errors.New("lost"), 200, "ok"},
		{"/readyz/quorum", errors.New("lost"), 500, "internal server error: lost\n"},
		{"/readyz/quorum", nil, 200, "ok"},
	} {
		h := harness.NewConfigured(t, func(config *apiserver.Config) { config.Ready = func(context.Context) error { return c.ready } })
		h.Roles()
		if code, body := raw(t, h.Config("x", "system:monitoring"), "GET", c.path, "", nil); code != c.code || body != c.body {
			t.Errorf("%s with %v: %d %q, want %d %q", c.path, c.ready, code, body, c.code, c.body)
		}
	}
	h := harness.NewConfigured(t, func(config *apiserver.Config) {
		config.Checks = []apiserver.Check{{Name: "poststarthook/rbac/bootstrap-roles", New: func(o *objects.Service) func(context.Context) error {
			return rbac.Ready(client.New(o, "system:apiserver", "kube-apiserver"))
		}}}
	})
	// Before there are roles, everybody sees that the master is not ready, and only members of system:masters why.
	if code, body := raw(t, h.Config("x"), "GET", "/readyz", "", nil); code != 500 || !strings.Contains(body, "[-]poststarthook/rbac/bootstrap-roles failed: reason withheld") {
		t.Errorf("without roles: %d %s", code, body)
	}
	if code, _ := raw(t, h.Config("x"), "GET", "/livez", "", nil); code != 200 {
		t.Errorf("without roles, alive: %d", code)
	}
	const hook = "/readyz/poststarthook/rbac/bootstrap-roles"
	if code, body := raw(t, h.Config("admin", "system:masters"), "GET", hook, "", nil); code != 500 || body != "internal server error: not finished\n" {
		t.Errorf("%s without roles: %d %s", hook, code, body)
	}
	if code, _ := raw(t, h.Config("x", "system:monitoring"), "GET", hook, "", nil); code != 403 {
		t.Errorf("%s of others without roles: %d", hook, code)
	}
	h.Roles()
	if code, body := raw(t, h.Config("x"), "GET", "/readyz", "", nil); code != 200 || body != "ok" {
		t.Errorf("with roles: %d %s", code, body)
	}
	if code, body := raw(t, h.Config("x", "system:monitoring"), "GET", "/livez/nothing", "", nil); code != 404 || !strings.Contains(body, "404 page not found") {
		t.Errorf("a check that is not there: %d %s", code, body)
	}
}
