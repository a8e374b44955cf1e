package rest_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/flow/flowtest"
	"github.com/kontiki/kontiki/test/harness"
)

// anything is an authorizer that allows everything.
type anything struct{}

func (anything) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// stalled is a request whose body arrives only when the test sends it.
type stalled struct {
	writer *io.PipeWriter
	answer chan answer
}

type answer struct {
	code int
	body string
	err  error
}

func stall(t *testing.T, config *clientrest.Config, path string) *stalled {
	t.Helper()
	client, err := clientrest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r, err := http.NewRequestWithContext(ctx, "POST", config.Host+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	s := &stalled{writer, make(chan answer, 1)}
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		writer.Close()
		<-done
	})
	go func() {
		defer close(done)
		response, err := client.Do(r)
		if err != nil {
			s.answer <- answer{err: err}
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		s.answer <- answer{response.StatusCode, string(body), err}
	}()
	return s
}

// send sends some of the body, and so waits until the request has reached the server's transport.
func (s *stalled) send(t *testing.T, text string) {
	t.Helper()
	if _, err := s.writer.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

const configMapsPath = "/api/v1/namespaces/default/configmaps"

func openHarness(t *testing.T, change func(*apiserver.Config)) *harness.Harness {
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Limits = flowtest.Queuing(1, 10)
		change(c)
	})
	h.REST.Authorizer = anything{}
	return h
}

// A request whose body does not arrive takes no place from others.
func TestASlowBodyHoldsNoPlace(t *testing.T) {
	h := openHarness(t, func(*apiserver.Config) {})
	slow := stall(t, h.Config("joe"), configMapsPath)
	slow.send(t, `{"metadata":`)
	code, body := raw(t, h.Config("ann"), "POST", configMapsPath, "application/json", []byte(`{"metadata":{"name":"a"}}`))
	if code != 201 {
		t.Fatalf("beside a slow body: %d %s", code, body)
	}
	slow.send(t, `{"name":"b"}}`)
	slow.writer.Close()
	if got := <-slow.answer; got.code != 201 {
		t.Errorf("the slow one: %+v", got)
	}
}

func TestSlowBodiesAreFew(t *testing.T) {
	// Places are many: here only bodies are few, however many requests arrive at the same moment.
	h := openHarness(t, func(c *apiserver.Config) { c.Limits = flowtest.Rejecting(200) })
	answers := make(chan answer, 20)
	for range 20 {
		s := stall(t, h.Config("joe"), configMapsPath)
		go func() { answers <- <-s.answer }()
	}
	for range 4 { // 16 of one user may be slow
		if got := <-answers; got.code != 429 || !strings.Contains(got.body, "Too many request bodies are on the way") {
			t.Errorf("answered %+v", got)
		}
	}
	if code, body := raw(t, h.Config("joe"), "POST", configMapsPath, "application/json", []byte(`{"metadata":{"name":"a"}}`)); code != 201 {
		t.Errorf("a body that comes at once: %d %s", code, body)
	}
}

func TestABodyMustComeInTime(t *testing.T) {
	h := openHarness(t, func(c *apiserver.Config) { c.RequestTimeout = 100 * time.Millisecond })
	s := stall(t, h.Config("joe"), configMapsPath)
	if got := <-s.answer; got.code != 400 || !strings.Contains(got.body, "the body could not be read") {
		t.Errorf("answered %+v", got)
	}
}

// A user who may change nothing is refused before the transaction is read.
func TestATransactionIsReadOfThoseWhoMayChangeSomething(t *testing.T) {
	h := harness.New(t)
	s := stall(t, h.Config("nobody"), "/kontiki/v1/transactions")
	if got := <-s.answer; got.code != 403 {
		t.Errorf("answered %+v", got)
	}
}
