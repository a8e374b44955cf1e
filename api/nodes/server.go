package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// maxChunk bounds the objects of one message, so that no message comes near gRPC's limit.
const maxChunk = 1 << 20

// Config is what a Server is made of.
type Config struct {
	Client *client.Client
	Tokens *auth.Tokens
	// Caller is the node whose certificate a call came with.
	Caller func(ctx context.Context) (node string, ok bool)
	// Masters are the addresses of all masters' mTLS ports.
	Masters                func() []string
	ClusterDomain          string
	ClusterDNS             []netip.Addr
	ServiceRange, PodRange netip.Prefix
	Log                    *slog.Logger
}

// Server serves NodeService on one master. It is safe for concurrent use.
type Server struct {
	nodev1.UnimplementedNodeServiceServer
	Config

	mu       sync.Mutex
	sessions map[string]int
}

// New makes a Server.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Server{Config: c, sessions: map[string]int{}}
}

// Connected says if a worker has a session with this master.
func (s *Server) Connected(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[node] > 0
}

func (s *Server) count(node string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[node] += by; s.sessions[node] == 0 {
		delete(s.sessions, node)
	}
}

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
	log := s.Log.With("node", node)
	if err := s.register(ctx, node, hello.Node); err != nil {
		log.Warn("node could not be registered", "error", err)
		return sessionError(err)
	}
	s.count(node, 1)
	defer s.count(node, -1)
	log.Info("worker connected")
	session := &session{Server: s, node: node, stream: stream, log: log}
	if err := session.welcome(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return session.assign(ctx) })
	group.Go(func() error { return session.receive(ctx) })
	err = group.Wait()
	log.Info("worker disconnected", "reason", err)
	return sessionError(err)
}

// sessionError is an error that gRPC can carry: unavailable makes the worker try another master.
func sessionError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}

// session is one worker's stream. Sends come from two goroutines and are serialized.
type session struct {
	*Server
	node   string
	stream nodev1.NodeService_SessionServer
	log    *slog.Logger
	sendMu sync.Mutex
}

func (s *session) send(message *nodev1.SessionResponse) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.stream.Send(message)
}

func (s *session) welcome() error {
	dns := make([]string, 0, len(s.ClusterDNS))
	for _, address := range s.ClusterDNS {
		dns = append(dns, address.String())
	}
	return s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Welcome{Welcome: &nodev1.Welcome{
		Masters: s.Masters(), ClusterDomain: s.ClusterDomain, ClusterDns: dns, ServiceCidr: s.ServiceRange.String(), PodCidr: s.PodRange.String(),
	}}})
}

// assign sends the full assignment and then every change to it.
func (s *session) assign(ctx context.Context) error {
	// A local view may be behind what the worker was told by another master: begin from a consistent one.
	consistent, err := s.Client.Consistent(ctx)
	if err != nil {
		return fmt.Errorf("consistent read for the assignment: %w", err)
	}
	_ = consistent // the local view is now no older than it
	known := newAssignment(s.node)
	var version uint64
	return s.Client.ViewAndWatch(ctx, kinds,
		func(v client.View) error {
			known = newAssignment(s.node)
			upserts, _, err := known.message(known.full(v))
			if err != nil {
				return err
			}
			version = v.Revision()
			return s.sendFull(version, upserts)
		},
		func(events []client.Event) error {
			v := s.Client.View()
			changes := newDelta()
			known.apply(changes, v, events)
			upserts, deletes, err := known.message(changes)
			if err != nil || len(upserts)+len(deletes) == 0 {
				return err
			}
			from := version
			version = events[len(events)-1].Revision
			return s.sendDelta(from, version, upserts, deletes)
		})
}

// sendFull sends a full set, in as many messages as its size asks for.
func (s *session) sendFull(version uint64, upserts []*nodev1.Object) error {
	for {
		size, n := 0, 0
		for n < len(upserts) && (n == 0 || size+len(upserts[n].Value) <= maxChunk) {
			size += len(upserts[n].Value)
			n++
		}
		more := n < len(upserts)
		if err := s.sendAssignment(&nodev1.Assignment{To: version, Upserts: upserts[:n], Incomplete: more}); err != nil || !more {
			return err
		}
		upserts = upserts[n:]
	}
}

func (s *session) sendDelta(from, to uint64, upserts []*nodev1.Object, deletes []*nodev1.ObjectKey) error {
	return s.sendAssignment(&nodev1.Assignment{From: from, To: to, Upserts: upserts, Deletes: deletes})
}

func (s *session) sendAssignment(a *nodev1.Assignment) error {
	return s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Assignment{Assignment: a}})
}

// receive takes the worker's reports in, in order.
func (s *session) receive(ctx context.Context) error {
	for {
		message, err := s.stream.Recv()
		if err != nil {
			return err
		}
		batch := message.GetStatus()
		if batch == nil {
			return status.Error(codes.InvalidArgument, "after hello a worker sends status batches only")
		}
		problems := s.report(ctx, batch)
		if err := s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_StatusResult{StatusResult: &nodev1.StatusResult{
			Sequence: batch.Sequence, Errors: problems,
		}}}); err != nil {
			return err
		}
	}
}

// CreateToken implements NodeService.
func (s *Server) CreateToken(ctx context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "a token needs a worker's certificate")
	}
	view, err := s.Client.Consistent(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	pod, ok := client.Get[*corev1.Pod](view, r.Namespace, r.PodName)
	if !ok || string(pod.UID) != r.PodUid || pod.Spec.NodeName != node {
		return nil, status.Errorf(codes.PermissionDenied, "pod %s/%s with uid %s is not on node %s", r.Namespace, r.PodName, r.PodUid, node)
	}
	if pod.Spec.ServiceAccountName != r.ServiceAccount {
		return nil, status.Errorf(codes.PermissionDenied, "pod %s/%s does not run as service account %q", r.Namespace, r.PodName, r.ServiceAccount)
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
	token, expires, err := s.Tokens.Issue(binding, r.Audiences, r.ExpirationSeconds)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &nodev1.CreateTokenResponse{Token: token, ExpiresAt: expires.Truncate(time.Second).Unix()}, nil
}
