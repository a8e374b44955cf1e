package authn_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/auth/authn"
	"github.com/kontiki/kontiki/test/harness"
)

// reviewer is a server that reviews tokens.
type reviewer struct {
	*httptest.Server
	asked  atomic.Int64
	mu     sync.Mutex
	seen   []authenticationv1.TokenReview
	answer func(w http.ResponseWriter, review *authenticationv1.TokenReview) bool // true: review is the answer
}

func newReviewer(t *testing.T, answer func(http.ResponseWriter, *authenticationv1.TokenReview) bool) *reviewer {
	t.Helper()
	r := &reviewer{answer: answer}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.asked.Add(1)
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(request.Body).Decode(&review); err != nil || request.URL.Path != "/review" || request.Method != http.MethodPost {
			http.Error(w, "not a review", http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		r.seen = append(r.seen, review)
		r.mu.Unlock()
		if r.answer(w, &review) {
			json.NewEncoder(w).Encode(review)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// open returns an authenticator that asks the server.
func (r *reviewer) open(t *testing.T, change ...func(*authn.WebhookConfig)) authenticator.Token {
	t.Helper()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
	file := filepath.Join(t.TempDir(), "webhook.kubeconfig")
	if err := os.WriteFile(file, []byte(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: s, user: u}}], users: [{name: u, user: {}}],
		clusters: [{name: s, cluster: {server: "`+r.URL+`/review", certificate-authority-data: `+ca+`}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c := authn.WebhookConfig{
		File: file, Version: "v1", TTL: time.Hour, Audiences: authenticator.Audiences{"api"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Backoff: wait.Backoff{Duration: time.Millisecond, Steps: 5},
	}
	for _, f := range change {
		f(&c)
	}
	w, err := authn.NewWebhook(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// known authenticates the token good.
func known(_ http.ResponseWriter, review *authenticationv1.TokenReview) bool {
	if review.Status.Authenticated = review.Spec.Token == "good"; review.Status.Authenticated {
		review.Status.User = authenticationv1.UserInfo{Username: "jane", UID: "7", Groups: []string{"devs"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}
	}
	return true
}

func askWebhook(w authenticator.Token, token string, audiences ...string) string {
	ctx := context.Background()
	if audiences != nil {
		ctx = authenticator.WithAudiences(ctx, audiences)
	}
	response, ok, err := w.AuthenticateToken(ctx, token)
	if err != nil {
		return err.Error()
	}
	if !ok {
		return "refused"
	}
	u := response.User
	return fmt.Sprint(u.GetName()+u.GetUID(), u.GetGroups(), u.GetExtra(), response.Audiences)
}

func TestAWebhookReviewsTokens(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1"} {
		r := newReviewer(t, known)
		w := r.open(t, func(c *authn.WebhookConfig) { c.Version = version })
		for range 3 { // the answers are cached
			if got := askWebhook(w, "good", "api", "x"); got != "jane7[devs] map[k:[v]] [api]" {
				t.Error(got)
			}
			if got := askWebhook(w, "bad", "api"); got != "refused" {
				t.Error(got)
			}
		}
		if got := r.asked.Load(); got != 2 {
			t.Errorf("asked %d times about 2 tokens", got)
		}
		want := metav1.TypeMeta{Kind: "TokenReview", APIVersion: "authentication.k8s.io/" + version}
		if got := r.seen[0]; got.TypeMeta != want || strings.Join(got.Spec.Audiences, " ") != "api x" {
			t.Errorf("it was asked %+v", got)
		}
		if got := askWebhook(w, "good", "other"); got != "refused" {
			t.Errorf("for an audience that is not the API server's, by a server that knows nothing of audiences: %s", got)
		}
	}
}

func TestAWebhooksAudiences(t *testing.T) {
	r := newReviewer(t, func(w http.ResponseWriter, review *authenticationv1.TokenReview) bool {
		review.Status.Audiences = []string{"vault", "x"}
		return known(w, review)
	})
	w := r.open(t)
	if got := askWebhook(w, "good", "vault"); got != "jane7[devs] map[k:[v]] [vault]" {
		t.Error(got)
	}
	if got := askWebhook(w, "good", "api"); got != "refused" {
		t.Errorf("a token for others: %s", got)
	}
}

// TestAWebhookThatFails is asked again if that may help, and its errors are not remembered.
func TestAWebhookThatFails(t *testing.T) {
	status := func(code int, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for _, h := range header {
				w.Header().Set(h, "0")
			}
			w.WriteHeader(code)
		}
	}
	write := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { io.WriteString(w, text) }
	}
	for name, c := range map[string]struct {
		fail  func(http.ResponseWriter)
		asked int64
		want  string
	}{
		"500":              {status(500), 5, "500 Internal Server Error"},
		"429":              {status(429), 5, "429 Too Many Requests"},
		"504":              {status(504), 5, "504 Gateway Timeout"},
		"403":              {status(403), 1, "403 Forbidden"},
		"404":              {status(404), 1, "404 Not Found"},
		"no JSON":          {write("x"), 1, "decode the webhook's answer"},
		"another kind":     {write(`{"kind": "Pod", "apiVersion": "v1"}`), 1, "the webhook answered with v1 Pod"},
		"another version":  {write(`{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1beta1"}`), 1, "expected authentication.k8s.io/v1"},
		"too large":        {func(w http.ResponseWriter) { w.Write(bytes.Repeat([]byte(" "), 2<<20)) }, 1, "larger than"},
		"an error":         {write(`{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": {"error": "no such session"}}`), 1, "no such session"},
		"nobody":           {write(`{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": {"authenticated": true}}`), 1, "without a name"},
		"a cut connection": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 1, "EOF"},
		"another URL":      {func(w http.ResponseWriter) { w.Header().Set("Location", "/other"); w.WriteHeader(307) }, 1, "307"},
	} {
		t.Run(name, func(t *testing.T) {
			var healthy atomic.Bool
			r := newReviewer(t, func(w http.ResponseWriter, review *authenticationv1.TokenReview) bool {
				if healthy.Load() {
					return known(w, review)
				}
				c.fail(w)
				return false
			})
			r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			w := r.open(t)
			if got := askWebhook(w, "good", "api"); !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := r.asked.Load(); got != c.asked {
				t.Errorf("asked %d times, want %d", got, c.asked)
			}
			healthy.Store(true)
			if got := askWebhook(w, "good", "api"); !strings.HasPrefix(got, "jane") {
				t.Errorf("when it works again: %s", got)
			}
		})
	}
}

// TestOneReviewForManyRequests with the same token at a time, none of which can end it for the others.
func TestOneReviewForManyRequests(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	r := newReviewer(t, func(w http.ResponseWriter, review *authenticationv1.TokenReview) bool {
		close(asked) // a second time would panic
		<-release
		return known(w, review)
	})
	w := r.open(t)
	first, end := context.WithCancel(context.Background())
	gaveUp := make(chan error, 1)
	go func() {
		_, _, err := w.AuthenticateToken(first, "good")
		gaveUp <- err
	}()
	<-asked
	end()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("the request that ended: %v", err)
	}
	var others sync.WaitGroup
	for range 20 {
		others.Go(func() {
			if got := askWebhook(w, "good"); got != "jane7[devs] map[k:[v]] []" {
				t.Error(got)
			}
		})
	}
	close(release)
	others.Wait()
	if got := r.asked.Load(); got != 1 {
		t.Errorf("asked %d times", got)
	}
}

// TestStrangersTokensDisplaceNoUser: the cache is bounded, and refusals do not count against users.
func TestStrangersTokensDisplaceNoUser(t *testing.T) {
	r := newReviewer(t, known)
	w := r.open(t)
	askWebhook(w, "good")
	for i := range 5000 {
		if got := askWebhook(w, fmt.Sprint("bad", i)); got != "refused" {
			t.Fatal(got)
		}
	}
	before := r.asked.Load()
	askWebhook(w, "good")
	if r.asked.Load() != before {
		t.Error("the user's token was forgotten")
	}
	askWebhook(w, "bad0")
	if r.asked.Load() != before+1 {
		t.Error("all refusals are remembered: the cache has no bound")
	}
}

// TestAWebhookOnlyHearsOfForeignTokens, through the API.
func TestAWebhookOnlyHearsOfForeignTokens(t *testing.T) {
	r := newReviewer(t, known)
	w := r.open(t, func(c *authn.WebhookConfig) { c.Audiences = authenticator.Audiences{apiserver.Issuer} })
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Tokens = []authenticator.Token{w} })
	ctx := context.Background()
	own, err := h.Clientset().CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	review := func(token string) string {
		review, err := h.Clientset().AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return review.Status.User.Username
	}
	if got := review(own.Status.Token); got != "system:serviceaccount:default:default" || r.asked.Load() != 0 {
		t.Errorf("%q, and the webhook was asked %d times", got, r.asked.Load())
	}
	if got := review("good"); got != "jane" {
		t.Errorf("%q", got)
	}
	if got := review("bad"); got != "" {
		t.Errorf("%q", got)
	}
}
