package rest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/api/apiserver"
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
		if code, body := raw(t, h.Config("x"), "GET", c.path, "", nil); code != c.code || body != c.body {
			t.Errorf("%s with %v: %d %q, want %d %q", c.path, c.ready, code, body, c.code, c.body)
		}
	}
	h := harness.New(t)
	if code, body := raw(t, h.Config("x"), "GET", "/livez/nothing", "", nil); code != 404 || !strings.Contains(body, "404 page not found") {
		t.Errorf("a check that is not there: %d %s", code, body)
	}
}
