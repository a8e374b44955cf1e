package rpc_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/test/harness"
)

func TestRefusedCredentialsCannotFillTheLog(t *testing.T) {
	var out bytes.Buffer
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Log = slog.New(slog.NewTextHandler(&out, nil)) })
	path := "/api/v1/" + strings.Repeat("x", 100<<10)
	for front, handler := range map[string]http.Handler{"REST": h.REST, "gRPC": h.RPC} {
		out.Reset()
		for range 50 {
			r := httptest.NewRequest(http.MethodPost, path, nil)
			r.Header.Set("Authorization", "Bearer "+strings.Repeat("y", 1000))
			handler.ServeHTTP(httptest.NewRecorder(), r)
		}
		if lines := strings.Count(out.String(), "refused a credential"); lines == 0 || out.Len() > 50<<10 {
			t.Errorf("%s: 50 refused credentials cause %d lines with %d bytes", front, lines, out.Len())
		}
	}
}
