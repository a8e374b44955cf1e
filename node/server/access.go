package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kontiki/kontiki/internal/newcomers"
	"github.com/kontiki/kontiki/internal/recent"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Who may call is decided as by a kubelet. A request with a client certificate of the cluster is from a master or an administrator, or
// refused. One with a bearer token is allowed if the masters say so: the token is the API's, and its owner may do to a subresource of this
// node what the request does (KEP-2862 names the subresources). Anonymous requests are refused. Other workers may fetch images
// (/kontiki/peers/), if a master says that their certificates are not revoked.

// ErrForbidden means that a caller is authenticated but not allowed to call.
var ErrForbidden = errors.New("forbidden")

// AllowMasters returns a Verify function that allows administrators (organization system:masters) and the given common names, which
// should be those of masters' certificates.
func AllowMasters(commonNames ...string) func(*x509.Certificate) error {
	return func(c *x509.Certificate) error {
		if slices.Contains(c.Subject.Organization, "system:masters") || slices.Contains(commonNames, c.Subject.CommonName) {
			return nil
		}
		return fmt.Errorf("%w: %s may not use this node's port", ErrForbidden, c.Subject.CommonName)
	}
}

const (
	// maxToken limits the length of a bearer token.
	maxToken = 16 << 10
	// questionsAtOnce limits how many questions about tokens are put to the masters at a time.
	questionsAtOnce = 8
	// An answer of the masters is used again for allowedFor (a kubelet's authentication cache) or refusedFor.
	allowedFor, refusedFor = 2 * time.Minute, 30 * time.Second
	// answersKept limits how many answers are kept.
	answersKept = 1024
)

// question is what the masters were asked; the token is kept as a hash only.
type question struct {
	token              [sha256.Size]byte
	verb, subresources string
}

// answer is what they answered.
type answer struct {
	user, reason string
	allowed      bool
	until        time.Time
}

// tokens asks the masters about the owners of tokens, and remembers the answers for a time.
type tokens struct {
	ask     func(context.Context, *nodev1.AuthorizeCallerRequest) (*nodev1.AuthorizeCallerResponse, error)
	now     func() time.Time
	asking  chan struct{}
	answers recent.Cache[question, answer]
	// unknown has the answers about tokens that are nobody's. Anybody can make up any number of them, so they are kept apart and take
	// nobody's answer away.
	unknown recent.Cache[question, answer]
}

func newTokens(ask func(context.Context, *nodev1.AuthorizeCallerRequest) (*nodev1.AuthorizeCallerResponse, error)) *tokens {
	return &tokens{ask: ask, now: time.Now, asking: make(chan struct{}, questionsAtOnce),
		answers: recent.Cache[question, answer]{Limit: answersKept}, unknown: recent.Cache[question, answer]{Limit: answersKept}}
}

// check returns what the masters say about a request with a token.
func (t *tokens) check(ctx context.Context, token string, r *http.Request) (answer, error) {
	verb, subresources := action(r)
	q := question{sha256.Sum256([]byte(token)), verb, strings.Join(subresources, ",")}
	for _, cache := range []*recent.Cache[question, answer]{&t.answers, &t.unknown} {
		if known, ok := cache.Get(q); ok && t.now().Before(known.until) {
			return known, nil
		}
	}
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	response, err := t.ask(ctx, &nodev1.AuthorizeCallerRequest{Token: token, Verb: verb, Subresources: subresources, Path: r.URL.Path})
	if err != nil {
		return answer{}, err
	}
	a := answer{user: response.User, reason: response.Reason, allowed: response.Allowed && response.User != "", until: t.now().Add(refusedFor)}
	if a.allowed {
		a.until = t.now().Add(allowedFor)
	}
	if a.user == "" {
		t.unknown.Put(q, a, 1)
	} else {
		t.answers.Put(q, a, 1)
	}
	return a, nil
}

// worker returns the user of another worker's certificate, "" with the reason if the masters do not accept it.
func (t *tokens) worker(ctx context.Context, cert *x509.Certificate) (user, reason string, err error) {
	q := question{token: sha256.Sum256(cert.Raw), subresources: "a worker's certificate"}
	if known, ok := t.answers.Get(q); ok && t.now().Before(known.until) {
		return known.user, known.reason, nil
	}
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
	response, err := t.ask(ctx, &nodev1.AuthorizeCallerRequest{WorkerCertificate: cert.Raw, Path: peersPath})
	if err != nil {
		return "", "", err
	}
	a := answer{reason: response.Reason, until: t.now().Add(refusedFor)}
	if response.Allowed {
		a.user, a.until = response.User, t.now().Add(allowedFor)
	}
	t.answers.Put(q, a, 1)
	return a.user, a.reason, nil
}

// peersPath is what other workers may use.
const peersPath = "/kontiki/peers/"

// workerPrefix begins the user names of workers.
const workerPrefix = "system:node:"

type callerKey struct{}

// callerOf returns the name of the worker that a request to peersPath comes from.
func callerOf(r *http.Request) string {
	name, _ := r.Context().Value(callerKey{}).(string)
	return name
}

// fromPeer serves another worker's request to peersPath. It returns false for other requests.
func (s *Server) fromPeer(w http.ResponseWriter, r *http.Request) bool {
	if s.peers == nil || s.tokens == nil || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || !strings.HasPrefix(r.URL.Path, peersPath) {
		return false
	}
	cert := r.TLS.PeerCertificates[0]
	if !slices.Contains(cert.Subject.Organization, "system:nodes") {
		return false
	}
	switch user, reason, err := s.tokens.worker(r.Context(), cert); {
	case err != nil:
		http.Error(w, "no master can be asked about the certificate: "+err.Error(), http.StatusServiceUnavailable)
	case user == "" || user != cert.Subject.CommonName:
		http.Error(w, "Forbidden: "+reason, http.StatusForbidden)
	default:
		newcomers.KnownRequest(r.Context())
		s.peers.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, strings.TrimPrefix(user, workerPrefix))))
	}
	return true
}

// verbs are the API's verbs for methods.
var verbs = map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}

// action returns what a request does to which subresources of the node; the right to one of them suffices. A WebSocket begins with a GET,
// but whoever opens a stream into a container creates something there. So does CONNECT, which opens a connection to a pod whatever its path is.
func action(r *http.Request) (verb string, subresources []string) {
	if r.Method == http.MethodConnect {
		return "create", []string{"proxy"}
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	verb = verbs[r.Method]
	switch first {
	case "pods", "runningpods":
		return verb, []string{"pods", "proxy"}
	case "healthz":
		return verb, []string{"healthz", "proxy"}
	case "configz":
		return verb, []string{"configz", "proxy"}
	case "stats", "metrics", "checkpoint":
		return verb, []string{first}
	case "logs":
		return verb, []string{"log"}
	case "exec", "attach", "portForward", "run":
		return "create", []string{"proxy"}
	}
	return verb, []string{"proxy"}
}

// authorized passes on the requests of those who may make them.
func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.fromPeer(w, r) {
			return
		}
		if code, why := s.refusal(r); why != "" {
			http.Error(w, why, code)
			return
		}
		newcomers.KnownRequest(r.Context())
		next.ServeHTTP(w, r)
	})
}

// refusal returns why a request is refused, "" if it is not.
func (s *Server) refusal(r *http.Request) (code int, why string) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if err := s.c.Verify(r.TLS.PeerCertificates[0]); err != nil {
			return http.StatusForbidden, err.Error()
		}
		return 0, ""
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if s.tokens == nil || r.TLS == nil || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return http.StatusUnauthorized, "Unauthorized"
	}
	switch a, err := s.tokens.check(r.Context(), token, r); {
	case err != nil:
		return http.StatusServiceUnavailable, "no master can be asked whose token it is: " + err.Error()
	case a.user == "":
		return http.StatusUnauthorized, "Unauthorized"
	case !a.allowed:
		verb, subresources := action(r)
		return http.StatusForbidden, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", a.user, verb, subresources)
	}
	return 0, ""
}
