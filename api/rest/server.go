package rest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/extension/aggregation"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/journal"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/openapi"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/usage/history"
	"github.com/kontiki/kontiki/internal/logline"
	"github.com/kontiki/kontiki/internal/newcomers"
	"github.com/kontiki/kontiki/internal/stack"
	"github.com/kontiki/kontiki/internal/tracing"
)

// Config has what a Server is made of.
type Config struct {
	Objects       *objects.Service
	Authenticator *auth.Authenticator
	Authorizer    auth.Authorizer
	Tokens        *auth.Tokens
	Agents        *agents.Agents
	// Aggregated are the group versions that extension API servers serve; nil for none.
	Aggregated *aggregation.Services
	// CatchUp makes the table of kinds contain what every acknowledged write has added to it, if that is possible; nil if it never changes.
	CatchUp func(ctx context.Context)
	// Metrics counts requests; nil counts nothing.
	Metrics *measure.API
	// Tracer makes the spans of requests; nil makes none.
	Tracer *tracing.Tracer
	// Timeline returns what is known of a pod's start; nil for nothing.
	Timeline func(ctx context.Context, pod *corev1.Pod) any
	// Advice returns which requests are advised for the workloads of a namespace, "" for all; nil if there is no advice.
	Advice func(namespace string) any
	// Audit records requests, and Limits decides which are served at once; nil disables either.
	Audit  *audit.Auditor
	Limits *flow.Control
	// RequestTimeout limits requests that are not long-running; 0 means objects.DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Ready returns why this master cannot serve, or nil.
	Ready func(ctx context.Context) error
	// Checks are further checks of readiness.
	Checks  []Check
	Version version.Info
	Log     *slog.Logger
	// Journal is this master's journal; nil if it keeps none.
	Journal *journal.Journal
	// UsageHistory is what was used in the last day; nil if it is not recorded.
	UsageHistory *history.Keeper
	// Extra serves further paths ("/metrics", "/kontiki/..."), behind authentication and authorization. One that ends in a slash
	// stands for all paths that begin with it, any other for itself alone.
	Extra map[string]http.Handler
}

// Server is the HTTP handler of the API port. It is safe for concurrent use.
type Server struct {
	Config
	discovery derived[discovery]
	openapi   derived[openapi.Documents]
	merged    atomic.Pointer[merged]
	tables    *tables
	// clients logs what clients can cause without a credential.
	clients *logline.Limited
	// stall is how long a response waits for its client to read some of it.
	stall time.Duration
}

// New creates a Server.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, tables: newTables(), stall: flow.Stall}
	if s.Log == nil {
		s.Log = slog.Default()
	}
	s.clients = logline.NewLimited(s.Log)
	if s.RequestTimeout == 0 {
		s.RequestTimeout = objects.DefaultRequestTimeout
	}
	s.discovery.from, s.openapi.from = newDiscovery, openAPIOf
	if _, err := s.discovery.of(c.Objects.Kinds()); err != nil {
		return nil, err
	}
	if _, err := s.openapi.of(c.Objects.Kinds()); err != nil {
		return nil, err
	}
	return s, nil
}

// call is one request being served.
type call struct {
	*Server
	answer answer
	w      http.ResponseWriter // the answer
	r      *http.Request
	user   user.Info
	// sender is who sent the request, and as the user whom the sender acts as, nil if it acts as itself.
	sender user.Info
	as     *auth.Impersonated
	target target
	// asked is the request as authorizers and audit policies see it.
	asked authorizer.AttributesRecord
	// isResource means that the path names a resource; if that is not in the table, kind is nil.
	isResource bool
	kind       *registry.Kind
	verb       string
	warned     objects.Warnings
	// record is the request's record in the audit log, nil if there is none.
	record *audit.Record
	// seat is what the request holds in its priority level. It has been given back while its client is slow.
	seat     atomic.Pointer[flow.Seat]
	measured measuring
	span     tracing.Span
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	stack.Grow()
	c := &call{Server: s, r: r, answer: answer{ResponseWriter: w}}
	c.w = c.answer.writer()
	c.measured.began = time.Now()
	defer c.endMeasuring() // after end, which answers a request that panicked
	defer c.endTrace()
	defer c.end()
	c.target, c.isResource = parsePath(r.URL.Path)
	if c.isResource {
		c.kind, _ = s.Objects.Kinds().ByResource(c.target.group, c.target.version, c.target.resource)
		c.verb = c.target.verb(r)
	} else {
		c.verb = strings.ToLower(r.Method)
	}
	c.asked = c.attributes()
	c.beginMeasuring()
	c.answer.open(r, s.stall, c.leave, c.verb != "watch" && objects.LongRunning(c.verb, c.target.subresource))
	defer c.answer.close()
	sender, err := s.Authenticator.Authenticate(r, r.URL.Path)
	s.Metrics.Authenticated(err == nil)
	if err != nil {
		s.clients.Info("refused a credential", "remote", r.RemoteAddr, "path", r.URL.Path, "reason", err)
		c.unauthenticated()
		return
	}
	if sender != auth.Anonymous {
		newcomers.KnownRequest(r.Context())
	}
	if s.Audit != nil {
		c.beginRecord(sender)
	}
	if s.Tracer != nil {
		c.beginTrace(sender)
	}
	if c.as, err = auth.Impersonate(c.r.Context(), s.Authorizer, r.Header, sender, &c.asked); err != nil {
		c.fail(err)
		return
	}
	if c.sender, c.user = sender, sender; c.as != nil {
		c.user = c.as.User
		s.Log.Info("impersonation", "user", sender.GetName(), "as", c.user.GetName(), "groups", c.user.GetGroups())
		c.record.Impersonated(c.as)
	}
	if err := c.enter(); err != nil {
		c.fail(err)
		return
	}
	defer c.leave()
	c.serve()
}

// serve serves a request whose sender has been authenticated.
func (c *call) serve() {
	if err := c.checkTimeout(); err != nil {
		c.fail(err)
		return
	}
	if !c.isResource {
		c.serveOther()
		return
	}
	if !c.authorized() {
		return
	}
	if extension := c.Aggregated.Now().Of(c.target.group, c.target.version); extension != nil {
		c.extended(extension)
		return
	}
	if c.kind == nil {
		c.catchUp()
		if c.kind, _ = c.Objects.Kinds().ByResource(c.target.group, c.target.version, c.target.resource); c.kind == nil {
			c.fail(noSuchPath(c.r))
			return
		}
	}
	if err := c.serveResource(); err != nil {
		c.fail(err)
	}
}

// end finishes the request's record, and responds to a request that panicked. It must be deferred.
func (c *call) end() {
	cause := recover()
	if cause == nil || cause == http.ErrAbortHandler {
		c.record.Complete()
		if cause != nil {
			panic(cause) // net/http cuts the response off
		}
		return
	}
	c.Metrics.Panicked()
	c.Log.Error("request panicked", "method", c.r.Method, "path", logline.Cut(c.r.URL.Path), "panic", cause, "stack", string(debug.Stack()))
	c.record.Panicked(cause)
	c.fail(apierrors.NewInternalError(fmt.Errorf("this request caused apiserver to panic. Look in the logs for details")))
}

// catchUp makes sure that a kind which is not found does not exist, or that discovery is complete.
func (c *call) catchUp() {
	if c.CatchUp != nil {
		c.CatchUp(c.r.Context())
	}
}

func noSuchPath(r *http.Request) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, strings.ToLower(r.Method), schema.GroupResource{}, "", "404 page not found", 0, true)
}

func (c *call) authorized() bool {
	c.asked.User = c.user
	err := audit.Authorize(c.r.Context(), c.Authorizer, &c.asked)
	if err != nil {
		c.fail(err)
	}
	return err == nil
}

// serveOther serves paths that do not name a resource.
func (c *call) serveOther() {
	path := c.r.URL.Path
	if path == TransactionsPath {
		if err := c.transact(); err != nil {
			c.fail(err)
		}
		return
	}
	if strings.HasPrefix(path, TimelinePath) {
		if err := c.serveTimeline(); err != nil {
			c.fail(err)
		}
		return
	}
	if path == AdvicePath {
		if err := c.serveAdvice(); err != nil {
			c.fail(err)
		}
		return
	}
	if path == objects.DeletedPath || strings.HasPrefix(path, objects.DeletedPath+"/") {
		if err := c.serveDeleted(); err != nil {
			c.fail(err)
		}
		return
	}
	if path == journal.Path {
		if err := c.serveJournal(); err != nil {
			c.fail(err)
		}
		return
	}
	if path == history.Path {
		if err := c.serveUsage(); err != nil {
			c.fail(err)
		}
		return
	}
	if !c.authorized() {
		return
	}
	switch {
	case objects.HealthPath(path):
		c.serveHealth()
	case path == "/version" || path == "/version/":
		writeJSON(c.w, http.StatusOK, c.Version)
	case path == "/.well-known/openid-configuration":
		c.serveDocument(c.Tokens.Discovery, typeJSON)
	case path == "/openid/v1/jwks":
		c.serveDocument(c.Tokens.JWKS, "application/jwk-set+json")
	case c.Limits != nil && strings.HasPrefix(path, flow.Dumps+"/"):
		c.Limits.ServeHTTP(c.w, c.r)
	case path == "/openapi/v2":
		c.catchUp()
		c.serveOpenAPIv2()
	case c.servedByExtension():
	case path == "/openapi/v3" || strings.HasPrefix(path, "/openapi/v3/"):
		c.catchUp()
		c.serveOpenAPI()
	case c.serveDiscovery():
	default:
		for at, handler := range c.Extra {
			if path == at || strings.HasSuffix(at, "/") && strings.HasPrefix(path, at) {
				handler.ServeHTTP(c.w, c.r)
				return
			}
		}
		c.fail(noSuchPath(c.r))
	}
}

func (c *call) serveDocument(document func() ([]byte, error), contentType string) {
	body, err := document()
	if err != nil {
		c.fail(apierrors.NewInternalError(err))
		return
	}
	c.w.Header().Set("Content-Type", contentType)
	c.w.Write(body)
}

// request returns the call in the object service's form.
func (c *call) request(fieldManager string, dryRun []string) *objects.Request {
	if len(dryRun) > 0 {
		c.record.Annotate(audit.DryRunAnnotation, "true")
	}
	return &objects.Request{
		User: c.user, Kind: c.kind, Namespace: c.target.namespace, Name: c.target.name, Subresource: c.target.subresource,
		FieldManager: objects.FieldManager(fieldManager, c.r.UserAgent()), DryRun: len(dryRun) > 0,
		Warn: c.warn, Received: c.measured.began,
	}
}

// warn adds a warning to the response.
func (c *call) warn(text string) {
	if c.warned.Add(text) {
		c.w.Header().Add("Warning", `299 - `+quoteWarning(text))
	}
}

var warningEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ", "\r", " ")

func quoteWarning(text string) string { return `"` + warningEscapes.Replace(text) + `"` }

// timeout returns the timeout that the request asks for, at most the one for all requests.
func (c *call) timeout() time.Duration {
	if asked, err := time.ParseDuration(c.r.URL.Query().Get("timeout")); err == nil && asked > 0 {
		return min(asked, c.RequestTimeout)
	}
	return c.RequestTimeout
}

// checkTimeout refuses a timeout that cannot be read, rather than serving the request with another one.
func (c *call) checkTimeout() error {
	asked := c.r.URL.Query().Get("timeout")
	if asked == "" || objects.LongRunning(c.verb, c.target.subresource) {
		return nil
	}
	if _, err := time.ParseDuration(asked); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err))
	}
	return nil
}

// serveResource serves a request for a resource in the table.
func (c *call) serveResource() error {
	switch {
	case c.target.special == "proxy",
		c.target.subresource != "proxy" && strings.Trim(c.target.rest, "/") != "": // only proxies have paths below them
		return noSuchPath(c.r)
	case c.target.special == "watch" && c.r.Method != http.MethodGet && c.r.Method != http.MethodHead,
		c.verb == "" && !(c.target.subresource == "proxy" && c.r.Method == http.MethodOptions):
		return apierrors.NewMethodNotSupported(c.kind.GroupResource(), strings.ToLower(c.r.Method))
	}
	if c.kind.Namespaced && c.target.namespace == "" && c.target.name != "" {
		return noSuchPath(c.r)
	}
	if !c.kind.Namespaced && c.target.namespace != "" {
		return noSuchPath(c.r)
	}
	if text := c.kind.Deprecated(); text != "" {
		c.warn(text)
	}
	if !objects.LongRunning(c.verb, c.target.subresource) {
		ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
		defer cancel()
		c.r = c.r.WithContext(ctx)
	}
	if c.kind.GroupResource() == corev1.Resource("bindings") && c.verb == "create" {
		return c.bind()
	}
	if c.target.subresource != "" {
		if special, ok := specialSubresources[schema.GroupResource{Group: c.kind.Group, Resource: c.kind.Resource + "/" + c.target.subresource}]; ok {
			if !special.accepts(c.r.Method, c.verb) {
				return apierrors.NewMethodNotSupported(c.kind.GroupResource(), strings.ToLower(c.r.Method))
			}
			return special.serve(c)
		}
		if c.target.subresource == "scale" && c.kind.Scale != nil {
			return c.serveScale()
		}
		if _, ok := c.kind.StrategyFor(c.target.subresource); !ok {
			return noSuchPath(c.r)
		}
		switch c.verb {
		case "get", "update", "patch":
		default:
			return apierrors.NewMethodNotSupported(c.kind.GroupResource(), c.verb)
		}
	}
	if c.target.subresource == "" && !c.kind.Serves(c.verb) {
		return apierrors.NewMethodNotSupported(c.kind.GroupResource(), c.verb)
	}
	switch c.verb {
	case "get":
		return c.get()
	case "list":
		return c.list()
	case "watch":
		return c.watch()
	case "create":
		return c.create()
	case "update":
		return c.update()
	case "patch":
		return c.patch()
	case "delete":
		return c.delete()
	case "deletecollection":
		return c.deleteCollection()
	}
	return apierrors.NewMethodNotSupported(c.kind.GroupResource(), c.verb)
}
