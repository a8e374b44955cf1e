package nodes

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/timeline"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Config has what a Server is made of.
type Config struct {
	Client *client.Client
	// Fence returns a client that writes until Fence is called with the same name again, on any master (objects.Service.Fence); nil
	// means that sessions write with Client.
	Fence   func(ctx context.Context, name string) (*client.Client, error)
	Tokens  *auth.Tokens
	Callers Callers
	// Caller returns the node in the certificate of a call.
	Caller func(ctx context.Context) (node string, ok bool)
	// Masters returns the addresses of all masters' mTLS ports.
	Masters func() []string
	// History identifies the history of which a view is: of two views with the same one, the revision says which is newer. If it is nil
	// or returns "", a new session is always sent a full set.
	History func(kv.View) string
	// Detached returns how long this master has been without a leader; nil means that it never is. A master without a leader for
	// too long sends its workers to others.
	Detached               func() time.Duration
	ClusterDomain          string
	ClusterDNS             []netip.Addr
	ServiceRange, PodRange netip.Prefix
	// Lease is how long the leases of workers are; 0 if workers are not fenced.
	Lease time.Duration
	// Usage takes what the workers report of what they use; nil means that they are not asked for it.
	Usage *usage.Local
	// Timeline keeps when pods were sent to their workers, and when their readiness was stored; nil keeps nothing.
	Timeline *timeline.Recorder
	Log      *slog.Logger
}

// Server serves NodeService on one master. It is safe for concurrent use.
type Server struct {
	nodev1.UnimplementedNodeServiceServer
	Config

	attendance  *attendance
	dispatcher  *dispatcher
	registering chan struct{} // has an element for each session that does its first write
	turns       *turns        // of full sets
	fresh       *fresh
	mirroring   sync.Map // a mutex for each node that has created mirror pods
}

// New creates a Server; Run must run while it serves.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Detached == nil {
		c.Detached = func() time.Duration { return 0 }
	}
	return &Server{Config: c, attendance: newAttendance(), dispatcher: newDispatcher(c.Client, c.Log),
		registering: make(chan struct{}, registering), turns: newTurns(fullSets, fullSetTurn), fresh: &fresh{read: c.Client.Consistent}}
}

// Run reads the cluster's changes for the sessions until the context ends. Sessions wait for it.
func (s *Server) Run(ctx context.Context) error { return s.dispatcher.run(ctx) }

// Session implements NodeService.
func (s *Server) Session(stream nodev1.NodeService_SessionServer) error {
	ctx := stream.Context()
	node, ok := s.Caller(ctx)
	if !ok {
		return status.Error(codes.PermissionDenied, "a session needs a worker's certificate")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a session must be hello")
	}
	if hello.NodeName != node {
		return status.Errorf(codes.PermissionDenied, "hello.node_name is %q, the certificate is of %q", hello.NodeName, node)
	}
	if away := s.Detached(); away > detachedLimit {
		return status.Errorf(codes.Unavailable, "this master has had no leader for %s", away.Round(time.Second))
	}
	session := &session{Server: s, node: node, stream: stream, log: s.Log.With("node", node), answers: hello.AnswersBeats, known: hello.Known,
		batches: make(chan *nodev1.StatusBatch, batchesAhead), begun: make(chan struct{}),
		events: rate.NewLimiter(eventsPerSecond, eventBurst), fences: hello.Fences, wantsLease: make(chan struct{}, 1)}
	return sessionError(session.run(ctx, hello.Node))
}

// sessionError converts an error to a gRPC status: Unavailable makes the worker try another master.
func sessionError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}

// podRequest is a request about a pod of the calling node.
type podRequest interface {
	GetNamespace() string
	GetPodName() string
	GetPodUid() string
}

// callersPod returns a consistent view, and in it the pod that a worker's request is about, which must be on that worker's node.
func (s *Server) callersPod(ctx context.Context, r podRequest) (client.View, *corev1.Pod, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return client.View{}, nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	view, err := s.Client.Consistent(ctx)
	if err != nil {
		return view, nil, status.Error(codes.Unavailable, err.Error())
	}
	pod, ok := client.Get[*corev1.Pod](view, r.GetNamespace(), r.GetPodName())
	if !ok || string(pod.UID) != r.GetPodUid() || pod.Spec.NodeName != node {
		return view, nil, status.Errorf(codes.PermissionDenied, "pod %s/%s with uid %s is not on node %s", r.GetNamespace(), r.GetPodName(), r.GetPodUid(), node)
	}
	return view, pod, nil
}

// CreateToken implements NodeService.
func (s *Server) CreateToken(ctx context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error) {
	view, pod, err := s.callersPod(ctx, r)
	if err != nil {
		return nil, err
	}
	node := pod.Spec.NodeName
	if pod.Spec.ServiceAccountName != r.ServiceAccount {
		return nil, status.Errorf(codes.PermissionDenied, "pod %s/%s does not run as service account %q", r.Namespace, r.PodName, r.ServiceAccount)
	}
	if err := mayAsk(pod, r.Audiences); err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	account, ok := client.Get[*corev1.ServiceAccount](view, r.Namespace, r.ServiceAccount)
	if !ok {
		return nil, status.Error(codes.NotFound, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), r.ServiceAccount).Error())
	}
	binding := auth.Binding{Namespace: r.Namespace, ServiceAccount: account.Name, ServiceAccountUID: string(account.UID),
		Pod: pod.Name, PodUID: string(pod.UID), Node: node}
	if n, ok := client.Get[*corev1.Node](view, "", node); ok {
		binding.NodeUID = string(n.UID)
	}
	audiences := r.Audiences
	if len(audiences) == 1 && audiences[0] == "" {
		audiences = nil // the API's own
	}
	token, expires, err := s.Tokens.Issue(binding, audiences, r.ExpirationSeconds)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &nodev1.CreateTokenResponse{Token: token, ExpiresAt: expires.Truncate(time.Second).Unix()}, nil
}
