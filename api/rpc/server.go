package rpc

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/extension/aggregation"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/logline"
	"github.com/kontiki/kontiki/internal/newcomers"
	"github.com/kontiki/kontiki/internal/tracing"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Config has what a Server is made of.
type Config struct {
	Objects       *objects.Service
	Authenticator *auth.Authenticator
	Authorizer    auth.Authorizer
	Agents        *agents.Agents
	// Aggregated are the group versions that extension API servers serve, which calls do not reach; nil for none.
	Aggregated *aggregation.Services
	// Cluster administers the cluster; if it is nil, these calls get UNIMPLEMENTED.
	Cluster kontikiv1.ClusterServer
	// CatchUp makes the table of kinds contain what every acknowledged write has added to it, if that is possible; nil if it never changes.
	CatchUp func(context.Context)
	// Metrics counts calls; nil counts nothing.
	Metrics *measure.API
	// Tracer makes the spans of calls; nil makes none.
	Tracer *tracing.Tracer
	// Audit records calls, and Limits decides which are served at once; nil disables either.
	Audit  *audit.Auditor
	Limits *flow.Control
	// RequestTimeout limits calls that are not long-running; 0 means objects.DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Ready returns why this master cannot serve, or nil.
	Ready func(context.Context) error
	Log   *slog.Logger
}

// Server is the HTTP handler of gRPC requests. It is safe for concurrent use.
type Server struct {
	Config
	grpc   *grpc.Server
	limits limits
	// unaryMethods are those whose response is a single message.
	unaryMethods map[string]bool
	// clients logs what clients can cause without a credential.
	clients *logline.Limited
}

// New creates a Server.
func New(c Config) *Server {
	s := &Server{Config: c, limits: defaultLimits, unaryMethods: map[string]bool{}}
	if s.Log == nil {
		s.Log = slog.Default()
	}
	s.clients = logline.NewLimited(s.Log)
	if s.RequestTimeout == 0 {
		s.RequestTimeout = objects.DefaultRequestTimeout
	}
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(newCodec()), grpc.MaxRecvMsgSize(objects.MaxBodyBytes),
		grpc.ChainUnaryInterceptor(s.unary), grpc.ChainStreamInterceptor(s.streaming),
	)
	services := registrar{s.grpc}
	kontikiv1.RegisterObjectsServer(services, &objectsServer{Server: s})
	kontikiv1.RegisterPodsServer(services, &podsServer{Server: s})
	if c.Cluster != nil {
		kontikiv1.RegisterClusterServer(services, c.Cluster)
	}
	healthv1.RegisterHealthServer(services, newHealth(c.Ready, s.grpc.GetServiceInfo, func() time.Duration { return s.limits.watch }))
	reflection.Register(services)
	for service, info := range s.grpc.GetServiceInfo() {
		for _, method := range info.Methods {
			s.unaryMethods["/"+service+"/"+method.Name] = !method.IsServerStream && !method.IsClientStream
		}
	}
	return s
}

// Is says whether a request is for this front.
func Is(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// caller is the user of a call, and what is known of the call, in its context.
type caller struct {
	*Server
	r         *http.Request
	method    method
	user      user.Info
	userAgent string
	// as is the user whom the sender acts as, nil if the call is the sender's own.
	as *auth.Impersonated
	// seat is what the call holds in its priority level. It has been given back while its client is slow.
	seat atomic.Pointer[flow.Seat]
	// about has the attributes of the call's message, once they are known.
	about    *authorizer.AttributesRecord
	w        http.ResponseWriter
	measured measured
	// The fields below are only for the audit log.
	sender   user.Info
	id       types.UID
	received time.Time
	record   *audit.Record
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller { return ctx.Value(callerKey{}).(*caller) }

// ServeHTTP implements http.Handler. It authenticates as REST does, and authorizes as far as possible without the messages.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &caller{Server: s, r: r, w: w, method: s.methodOf(r.URL.Path), userAgent: r.UserAgent()}
	leave := func() { c.seat.Load().Leave() }
	st := newStream(w, r, s.limits, leave)
	c.measured.began = time.Now()
	defer c.measure(st)
	defer st.close()
	st.whole = s.unaryMethods[r.URL.Path]
	if s.Audit != nil {
		c.id, c.received = s.Audit.ID(w, r), time.Now()
	}
	var err error
	if c.sender, err = s.Authenticator.Authenticate(r, c.method.equivalent(r.URL.Path)); err != nil {
		s.Metrics.Authenticated(false)
		s.clients.Info("refused a credential", "remote", r.RemoteAddr, "path", r.URL.Path, "reason", err)
		err = apierrors.NewUnauthorized("Unauthorized")
		c.ended(http.StatusUnauthorized)
		c.unauthenticated(err)
		st.finish(Status(err))
		return
	}
	s.Metrics.Authenticated(true)
	if c.sender != auth.Anonymous {
		newcomers.KnownRequest(r.Context())
	}
	if !c.method.named {
		c.begin(nil)
	}
	defer leave()
	if err := c.admit(); err != nil {
		c.refuse(err)
		st.finish(Status(err))
		return
	}
	request := st.request(context.WithValue(r.Context(), callerKey{}, c))
	st.await(c)
	s.grpc.ServeHTTP(st, request)
	interrupted := st.interrupted()
	if interrupted != nil {
		s.clients.Info("ended a gRPC stream", "method", r.URL.Path, "user", c.user.GetName(), "reason", interrupted.Message())
	}
	if s.Audit != nil {
		c.over(st)
	}
}

// admit determines the user that a call acts as, and whether the method alone allows it to continue.
func (c *caller) admit() (err error) {
	c.user = c.sender
	// What the call is about is known only from its messages, so a constraint is checked with each object.
	if c.as, err = auth.Impersonate(c.r.Context(), c.Authorizer, c.r.Header, c.sender, nil); err != nil {
		return err
	}
	if c.as != nil {
		c.user = c.as.User
		c.Log.Info("impersonation", "user", c.sender.GetName(), "as", c.user.GetName(), "groups", c.user.GetGroups())
		c.record.Impersonated(c.as)
	}
	if !c.method.named {
		if err = c.enter(nil); err != nil {
			return err
		}
	}
	return c.allowed()
}

// allowed authorizes as far as the method alone permits. Objects and Pods authorize each object themselves, but only for callers
// with a credential.
func (c *caller) allowed() error {
	if c.method.path != "" {
		a := &authorizer.AttributesRecord{User: c.user, Verb: c.method.verb, Path: c.method.path}
		if err := c.as.On(c.r.Context(), c.Authorizer, c.sender, a); err != nil {
			return err
		}
		return audit.Authorize(audit.With(c.r.Context(), c.record), c.Authorizer, a)
	}
	if auth.IsAnonymous(c.user) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	if c.r.URL.Path == kontikiv1.Objects_Transact_FullMethodName {
		return c.mayChange()
	}
	return nil
}

// mayChange refuses a changing call, before its message is read, if the caller may change nothing.
func (c *caller) mayChange() error {
	if !objects.Mutating(c.method.verb) {
		return nil
	}
	path := c.method.path
	if path == "" {
		path = c.r.URL.Path
	}
	if c.r.URL.Path == kontikiv1.Objects_Transact_FullMethodName {
		path = objects.TransactionsPath
	}
	err := auth.MayChange(c.r.Context(), c.Authorizer, &authorizer.AttributesRecord{User: c.user, Verb: c.method.verb, Path: path})
	if err != nil {
		c.record.Decided(false, err.Error())
	}
	return err
}

// unary limits a call's duration, and converts its error to a gRPC status.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	c := callerOf(ctx)
	if s.Audit != nil {
		c.begin(request)
		ctx = audit.With(ctx, c.record)
	}
	defer c.recovered(&err)
	if s.Tracer != nil {
		var span tracing.Span
		ctx, span = s.Tracer.Request(ctx, info.FullMethod, c.r.Header, auth.TrustedParent(c.sender), time.Now())
		defer func() { span.End(err) }()
	}
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	c.told(request)
	if err = c.enter(request); err == nil {
		answer, err = handler(ctx, request)
	}
	c.finish(answer, err)
	if err != nil {
		return nil, Status(err).Err()
	}
	return answer, nil
}

func (s *Server) streaming(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	c := callerOf(stream.Context())
	stream = &receiving{ServerStream: stream, caller: c}
	if s.Audit != nil {
		stream = c.recorded(stream)
	}
	defer c.recovered(&err)
	err = handler(server, stream)
	c.finish(nil, err)
	if err != nil {
		return Status(err).Err()
	}
	return nil
}

// recovered sets the error INTERNAL for a call that panicked.
func (c *caller) recovered(err *error) {
	if cause := recover(); cause != nil {
		c.record.Panicked(cause)
		c.Log.Error("call panicked", "method", logline.Cut(c.r.URL.Path), "panic", cause, "stack", string(debug.Stack()))
		c.Metrics.Panicked()
		c.ended(http.StatusInternalServerError)
		*err = Status(apierrors.NewInternalError(errPanicked)).Err()
	}
}
