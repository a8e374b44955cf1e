package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/runtime/fake"
)

func TestImportsAreBounded(t *testing.T) {
	s := New(Config{Pods: &podSet{}, Runtime: fake.New()})
	s.maxImport, s.importIdle = 100, 100*time.Millisecond
	web := httptest.NewServer(http.HandlerFunc(s.importImage))
	defer web.Close()
	post := func(body io.Reader) (int, string) {
		t.Helper()
		resp, err := http.Post(web.URL, "application/x-tar", body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, text := post(strings.NewReader("docker.io/test/new:1")); code != http.StatusOK {
		t.Errorf("one that fits: %d %s", code, text)
	}
	if code, text := post(strings.NewReader(strings.Repeat("x", 101))); code != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d %s", code, text)
	}
	stalled, writer := io.Pipe()
	defer writer.Close()
	go func() { _, _ = writer.Write([]byte("docker")) }()
	if code, text := post(stalled); code != http.StatusBadRequest || !strings.Contains(text, "timeout") {
		t.Errorf("a body that stalls: %d %s", code, text)
	}
	for range maxImports {
		s.imports <- struct{}{}
	}
	if code, _ := post(strings.NewReader("docker.io/test/new:2")); code != http.StatusTooManyRequests {
		t.Errorf("one too many: %d", code)
	}
}
