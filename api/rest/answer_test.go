package rest_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// panicking is a store whose watches panic, at once or when they wait for the next event.
type panicking struct {
	objects.Store
	atOnce bool
}

func (s *panicking) Watch(prefix string, after uint64) (kv.Watcher, error) {
	if s.atOnce {
		panic("at once") // what is tested: nothing of the response has been sent
	}
	w, err := s.Store.Watch(prefix, after)
	return panickingWatcher{w}, err
}

type panickingWatcher struct{ kv.Watcher }

func (panickingWatcher) Next(context.Context) ([]*kv.Event, uint64, error) {
	panic("in the middle") // what is tested: the response has begun
}

// TestAResponseThatBreaksOffIsCut: no error is appended to a response that has begun, and the client sees that it is incomplete.
func TestAResponseThatBreaksOffIsCut(t *testing.T) {
	store := &panicking{}
	h := harness.NewOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	proxied, agent := withAgent(t)
	agent.cut = true
	for _, protocol := range []string{"http/1.1", "h2"} {
		get := func(t *testing.T, h *harness.Harness, path string) (code int, body string, err error) {
			t.Helper()
			config := h.Config("admin", "system:masters")
			config.NextProtos = []string{protocol}
			client, err := clientrest.HTTPClientFor(config)
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Get(config.Host + path)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if major := map[string]int{"http/1.1": 1, "h2": 2}[protocol]; response.ProtoMajor != major {
				t.Fatalf("the protocol is %s", response.Proto)
			}
			all, err := io.ReadAll(response.Body)
			return response.StatusCode, string(all), err
		}
		t.Run("a panic before the response, "+protocol, func(t *testing.T) {
			store.atOnce = true
			code, body, err := get(t, h, "/api/v1/configmaps?watch=1")
			if code != http.StatusInternalServerError || !strings.Contains(body, "this request caused apiserver to panic") || err != nil {
				t.Errorf("%d %s %v", code, body, err)
			}
		})
		t.Run("a panic in the middle, "+protocol, func(t *testing.T) {
			store.atOnce = false
			code, body, err := get(t, h, "/api/v1/configmaps?watch=1")
			if code != http.StatusOK || strings.Contains(body, "panic") || err == nil {
				t.Errorf("%d %s %v", code, body, err)
			}
		})
		t.Run("an agent that breaks off, "+protocol, func(t *testing.T) {
			code, body, err := get(t, proxied, "/api/v1/nodes/w1/proxy/some/path")
			if code != http.StatusOK || body != "half of it" || err == nil {
				t.Errorf("%d %s %v", code, body, err)
			}
		})
	}
}
