package rpc

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Config is what a Server is made of.
type Config struct {
	Objects       *objects.Service
	Authenticator *auth.Authenticator
	Authorizer    auth.Authorizer
	Agents        *agents.Agents
	// Cluster administers the cluster; nil answers UNIMPLEMENTED.
	Cluster kontikiv1.ClusterServer
	// Ready says why this master cannot serve; nil when it can.
	Ready func(context.Context) error
	Log   *slog.Logger
}

// Server is the HTTP handler of gRPC requests. It is safe for concurrent use.
type Server struct {
	Config
	grpc   *grpc.Server
	limits limits
	// unaryMethods are those of which an answer is one message.
	unaryMethods map[string]bool
}

// New makes a Server.
func New(c Config) *Server {
	s := &Server{Config: c, limits: defaultLimits, unaryMethods: map[string]bool{}}
	if s.Log == nil {
		s.Log = slog.Default()
	}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(objects.MaxBodyBytes),
		grpc.ChainUnaryInterceptor(s.unary), grpc.ChainStreamInterceptor(s.streaming),
	)
	kontikiv1.RegisterObjectsServer(s.grpc, &objectsServer{Server: s})
	kontikiv1.RegisterPodsServer(s.grpc, &podsServer{Server: s})
	if c.Cluster != nil {
		kontikiv1.RegisterClusterServer(s.grpc, c.Cluster)
	}
	healthv1.RegisterHealthServer(s.grpc, &health{ready: c.Ready, services: s.grpc.GetServiceInfo})
	reflection.Register(s.grpc)
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

// caller is who made a call, in its context.
type caller struct {
	user      user.Info
	userAgent string
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller { return ctx.Value(callerKey{}).(*caller) }

// ServeHTTP implements http.Handler. It authenticates as REST does, and authorizes what needs no look into the messages.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	st := newStream(w, r, s.limits)
	defer st.close()
	st.whole = s.unaryMethods[r.URL.Path]
	who, err := s.Authenticator.Authenticate(r)
	if err != nil {
		s.Log.Info("refused a credential", "remote", r.RemoteAddr, "path", r.URL.Path, "reason", err)
		st.finish(Status(apierrors.NewUnauthorized("Unauthorized")))
		return
	}
	as, err := auth.Impersonate(s.Authorizer, r.Header, who)
	if err == nil {
		err = s.allowed(as, r.URL.Path)
	}
	if err != nil {
		st.finish(Status(err))
		return
	}
	if as != who {
		s.Log.Info("impersonation", "user", who.GetName(), "as", as.GetName(), "groups", as.GetGroups())
	}
	s.grpc.ServeHTTP(st, st.request(context.WithValue(r.Context(), callerKey{}, &caller{as, r.UserAgent()})))
	if st := st.interrupted(); st != nil {
		s.Log.Info("ended a gRPC stream", "method", r.URL.Path, "user", as.GetName(), "reason", st.Message())
	}
}

// rules are what a caller must be allowed for methods that do not concern objects: the verb and path of what is the same in
// REST, by method or by service.
var rules = map[string]auth.Attributes{
	"/grpc.health.v1.Health":                    {Verb: "get", Path: "/healthz"},
	"/grpc.reflection.v1.ServerReflection":      {Verb: "get", Path: "/openapi"},
	"/grpc.reflection.v1alpha.ServerReflection": {Verb: "get", Path: "/openapi"},

	"/kontiki.v1.Cluster/Status":             {Verb: "get", Path: "/kontiki/v1/cluster"},
	"/kontiki.v1.Cluster/Members":            {Verb: "get", Path: "/kontiki/v1/cluster/members"},
	"/kontiki.v1.Cluster/RemoveMember":       {Verb: "delete", Path: "/kontiki/v1/cluster/members"},
	"/kontiki.v1.Cluster/TransferLeadership": {Verb: "post", Path: "/kontiki/v1/cluster/transfer"},
	"/kontiki.v1.Cluster/CreateToken":        {Verb: "post", Path: "/kontiki/v1/tokens"},
	"/kontiki.v1.Cluster/ListTokens":         {Verb: "get", Path: "/kontiki/v1/tokens"},
	"/kontiki.v1.Cluster/RevokeToken":        {Verb: "delete", Path: "/kontiki/v1/tokens"},
	"/kontiki.v1.Cluster/Snapshot":           {Verb: "get", Path: "/kontiki/v1/snapshot"},
}

// allowed decides what can be decided by the method alone. Objects and Pods authorize each object themselves, but nobody
// gets there without a credential.
func (s *Server) allowed(who user.Info, method string) error {
	rule, ok := rules[method]
	if !ok {
		service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
		rule, ok = rules["/"+service]
	}
	if ok {
		rule.User = who
		return auth.Check(s.Authorizer, rule)
	}
	if strings.HasPrefix(method, "/kontiki.v1.Cluster/") {
		// One that has no rule yet is for those who may do everything.
		return auth.Check(s.Authorizer, auth.Attributes{User: who, Verb: "post", Path: "/kontiki/v1/cluster"})
	}
	if who.GetName() == user.Anonymous {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	return nil
}

// unary bounds a call's time, and turns its error into a gRPC status.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	defer s.recovered(info.FullMethod, &err)
	ctx, cancel := context.WithTimeout(ctx, objects.RequestTimeout)
	defer cancel()
	if answer, err = handler(ctx, request); err != nil {
		return nil, Status(err).Err()
	}
	return answer, nil
}

func (s *Server) streaming(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer s.recovered(info.FullMethod, &err)
	if err := handler(server, stream); err != nil {
		return Status(err).Err()
	}
	return nil
}

// recovered answers INTERNAL for a call that panicked.
func (s *Server) recovered(method string, err *error) {
	if cause := recover(); cause != nil {
		s.Log.Error("call panicked", "method", method, "panic", cause, "stack", string(debug.Stack()))
		*err = Status(apierrors.NewInternalError(errPanicked)).Err()
	}
}
