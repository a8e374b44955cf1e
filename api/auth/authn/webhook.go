package authn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/internal/logline"
)

// Limits of the requests to a webhook.
const (
	webhookRequest    = 10 * time.Second // one attempt
	webhookTime       = 30 * time.Second // all attempts for a token
	webhookConcurrent = 64
	maxReview         = 1 << 20
)

// DefaultBackoff is upstream's, between attempts of the same review.
var DefaultBackoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}

// WebhookConfig says where tokens are reviewed.
type WebhookConfig struct {
	// File is a kubeconfig whose current context names the server; reviews are posted to exactly its URL.
	File string
	// Version is that of the TokenReviews, v1 or v1beta1.
	Version string
	// TTL is how long answers are cached; 0 means not at all.
	TTL time.Duration
	// Audiences are the API server's own, for servers that know nothing of audiences.
	Audiences authenticator.Audiences
	Backoff   wait.Backoff
	Log       *slog.Logger
}

// webhook asks a server about tokens, by TokenReviews.
type webhook struct {
	WebhookConfig
	url    string
	client *http.Client
	slots  chan struct{} // has an element for each running request
	noise  *logline.Limited
}

// NewWebhook returns an authenticator that asks a server, and remembers the answers.
func NewWebhook(c WebhookConfig) (authenticator.Token, error) {
	if c.Version != "v1" && c.Version != "v1beta1" {
		return nil, fmt.Errorf("unsupported authentication webhook version %q, supported versions are %q, %q", c.Version, "v1", "v1beta1")
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.File}, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.Timeout = webhookRequest
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // tokens go nowhere else
	url, _, err := rest.DefaultServerURL(config.Host, "", schema.GroupVersion{}, config.TLSClientConfig.CAData != nil || config.TLSClientConfig.CAFile != "" || config.Insecure)
	if err != nil {
		return nil, err
	}
	return newCache(&webhook{WebhookConfig: c, url: url.String(), client: client, slots: make(chan struct{}, webhookConcurrent), noise: logline.NewLimited(c.Log)}, c.TTL), nil
}

// AuthenticateToken implements authenticator.Token.
func (w *webhook) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	asked, limited := authenticator.AudiencesFrom(ctx)
	status, err := w.review(ctx, token, asked)
	if err != nil {
		w.noise.Warn("failed to make webhook authenticator request", "part", "api", "error", err)
		return nil, false, err
	}
	var audiences authenticator.Audiences
	if limited {
		valid := w.Audiences
		if len(status.Audiences) > 0 {
			valid = status.Audiences
		}
		if audiences = asked.Intersect(valid); len(audiences) == 0 {
			return nil, false, nil
		}
	}
	if !status.Authenticated {
		if status.Error != "" {
			return nil, false, errors.New(status.Error)
		}
		return nil, false, nil
	}
	info := &user.DefaultInfo{Name: status.User.Username, UID: status.User.UID, Groups: status.User.Groups}
	if info.Name == "" {
		return nil, false, errors.New("the webhook authenticated a user without a name")
	}
	for key, values := range status.User.Extra {
		if info.Extra == nil {
			info.Extra = map[string][]string{}
		}
		info.Extra[key] = values
	}
	return &authenticator.Response{User: info, Audiences: audiences}, true, nil
}

// review asks the server, several times if what fails may pass.
func (w *webhook) review(ctx context.Context, token string, audiences []string) (*authenticationv1.TokenReviewStatus, error) {
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	meta := metav1.TypeMeta{APIVersion: authenticationv1.GroupName + "/" + w.Version, Kind: "TokenReview"}
	// Both versions have the same fields.
	body, err := json.Marshal(authenticationv1.TokenReview{TypeMeta: meta, Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}})
	if err != nil {
		return nil, err
	}
	var status *authenticationv1.TokenReviewStatus
	var last error
	err = wait.ExponentialBackoffWithContext(ctx, w.Backoff, func(ctx context.Context) (bool, error) {
		status, last = w.post(ctx, body, meta)
		if last != nil && mayPass(last) {
			return false, nil
		}
		return last == nil, last
	})
	if last != nil {
		return nil, last
	}
	if err != nil {
		return nil, fmt.Errorf("webhook call failed: %w", err)
	}
	return status, nil
}

func (w *webhook) post(ctx context.Context, body []byte, meta metav1.TypeMeta) (*authenticationv1.TokenReviewStatus, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, */*")
	response, err := w.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxReview+1))
	if err != nil {
		return nil, err
	}
	if len(answer) > maxReview {
		return nil, fmt.Errorf("the webhook's answer is larger than %d bytes", maxReview)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		retryAfter, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return nil, fmt.Errorf("the webhook answered %s: %w", response.Status,
			apierrors.NewGenericServerResponse(response.StatusCode, "post", schema.GroupResource{}, "", "", retryAfter, true))
	}
	var review authenticationv1.TokenReview
	if err := json.Unmarshal(answer, &review); err != nil {
		return nil, fmt.Errorf("decode the webhook's answer: %w", err)
	}
	if review.TypeMeta != meta {
		return nil, fmt.Errorf("the webhook answered with %s %s, expected %s %s", review.APIVersion, review.Kind, meta.APIVersion, meta.Kind)
	}
	return &review.Status, nil
}

// mayPass says whether another attempt may have another result, as upstream decides it.
func mayPass(err error) bool {
	if utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err) || apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) {
		return true
	}
	_, delayed := apierrors.SuggestsClientDelay(err)
	return delayed
}
