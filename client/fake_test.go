package client

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/protoadapt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// state is shared by the fake masters: ConfigMaps of one namespace, and their history. Pages have two objects.
type state struct {
	mu       sync.Mutex
	changed  *sync.Cond
	revision int
	oldest   int // the history begins after it
	history  []*kontikiv1.WatchResponse
	writes   int
}

func (s *state) put(t *testing.T, name, value string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(name, value)
}

func (s *state) store(name, value string) *kontikiv1.Object {
	s.revision++
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: strconv.Itoa(s.revision)}, Data: map[string]string{"v": value}}
	obj, err := encode(cm)
	if err != nil {
		panic(err)
	}
	kind := kontikiv1.WatchResponse_TYPE_ADDED
	if _, there := s.at(s.revision - 1)[name]; there {
		kind = kontikiv1.WatchResponse_TYPE_MODIFIED
	}
	s.history = append(s.history, &kontikiv1.WatchResponse{Type: kind, Object: obj, ResourceVersion: strconv.Itoa(s.revision)})
	s.changed.Broadcast()
	return obj
}

// at returns the objects as of a revision.
func (s *state) at(revision int) map[string]*kontikiv1.Object {
	out := map[string]*kontikiv1.Object{}
	for _, e := range s.history[:revision] {
		out[e.Object.Name] = e.Object
	}
	return out
}

// forget drops the history.
func (s *state) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = s.revision
}

// master is a fake master with faults.
type master struct {
	kontikiv1.UnimplementedObjectsServer
	t      *testing.T
	state  *state
	server *grpc.Server

	mu       sync.Mutex
	listener *bufconn.Listener
	served   map[string]int
	// fault is called before each call; the call returns its error.
	fault func(ctx context.Context, method string) error
	// after is called after a page or an event of a revision was sent.
	after func(method string, revision int) error
}

func (m *master) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listener = bufconn.Listen(1 << 20)
	m.server = grpc.NewServer(grpc.ChainUnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := m.enter(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, request)
	}), grpc.ChainStreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := m.enter(stream.Context(), info.FullMethod); err != nil {
			return err
		}
		return handler(server, stream)
	}))
	kontikiv1.RegisterObjectsServer(m.server, m)
	healthv1.RegisterHealthServer(m.server, alive{})
	server, listener := m.server, m.listener
	go server.Serve(listener) // ends with Stop, which waits for it
}

// die closes all connections, as the kernel does for a process that was killed.
func (m *master) die() {
	m.mu.Lock()
	server, listener := m.server, m.listener
	m.server, m.listener = nil, nil
	m.mu.Unlock()
	if server == nil {
		return
	}
	listener.Close()
	// Handlers that call it must return first.
	go server.Stop()
}

func (m *master) dial(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	listener := m.listener
	m.mu.Unlock()
	if listener == nil {
		return nil, net.ErrClosed
	}
	return listener.DialContext(ctx)
}

func (m *master) enter(ctx context.Context, method string) error {
	m.mu.Lock()
	m.served[method]++
	fault := m.fault
	m.mu.Unlock()
	if fault != nil {
		return fault(ctx, method)
	}
	return nil
}

func (m *master) count(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.served[method]
}

func (m *master) set(change func(*master)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *master) sent(method string, revision int) error {
	m.mu.Lock()
	after := m.after
	m.mu.Unlock()
	if after == nil {
		return nil
	}
	return after(method, revision)
}

// answer returns an error as the API does.
func answer(code codes.Code, reason metav1.StatusReason, text string, more ...protoadapt.MessageV1) error {
	details := append([]protoadapt.MessageV1{
		&errdetails.ErrorInfo{Domain: domain, Reason: string(reason)},
		protoadapt.MessageV1Of(&kontikiv1.StatusDetail{Status: []byte(`{"kind":"Status","status":"Failure","reason":"` + string(reason) + `","message":"` + text + `","code":400,"details":{"causes":[{"field":"data"}]}}`)}),
	}, more...)
	st, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// alive is a health service that always reports SERVING.
type alive struct {
	healthv1.UnimplementedHealthServer
}

func (alive) Check(context.Context, *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
}

func (m *master) Get(_ context.Context, r *kontikiv1.GetRequest) (*kontikiv1.GetResponse, error) {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	obj, ok := m.state.at(m.state.revision)[r.Reference.Name]
	if !ok {
		return nil, answer(codes.NotFound, metav1.StatusReasonNotFound, "configmaps is not there")
	}
	return &kontikiv1.GetResponse{Object: obj}, nil
}

func (m *master) Create(_ context.Context, r *kontikiv1.CreateRequest) (*kontikiv1.CreateResponse, error) {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	if _, there := m.state.at(m.state.revision)[r.Object.Name]; there {
		return nil, answer(codes.AlreadyExists, metav1.StatusReasonAlreadyExists, "it is there")
	}
	m.state.writes++
	return &kontikiv1.CreateResponse{Object: m.state.store(r.Object.Name, "created"), Warnings: []string{"mind the gap"}}, nil
}

func (m *master) Transact(_ context.Context, r *kontikiv1.TransactRequest) (*kontikiv1.TransactResponse, error) {
	return nil, answer(codes.Aborted, metav1.StatusReasonConflict, "operations[1]: it has changed",
		protoadapt.MessageV1Of(&kontikiv1.TransactionDetail{Operation: 1}), protoadapt.MessageV1Of(&kontikiv1.ConflictDetail{ResourceVersion: "77"}))
}

func (m *master) List(r *kontikiv1.ListRequest, stream kontikiv1.Objects_ListServer) error {
	m.state.mu.Lock()
	revision := m.state.revision
	if r.ResourceVersionMatch == exact {
		revision, _ = strconv.Atoi(r.ResourceVersion)
	}
	expired := revision < m.state.oldest
	objects := m.state.at(revision)
	m.state.mu.Unlock()
	if expired {
		return answer(codes.OutOfRange, metav1.StatusReasonExpired, "too old")
	}
	names := make([]string, 0, len(objects))
	for name := range objects {
		names = append(names, name)
	}
	slices.Sort(names)
	for first := true; first || len(names) > 0; first = false {
		page := &kontikiv1.ListResponse{ResourceVersion: strconv.Itoa(revision)}
		for _, name := range names[:min(2, len(names))] {
			page.Objects = append(page.Objects, objects[name])
		}
		names = names[len(page.Objects):]
		page.Remaining = int64(len(names))
		if err := stream.Send(page); err != nil {
			return err
		}
		if err := m.sent("List", revision); err != nil {
			return err
		}
	}
	return nil
}

func (m *master) Watch(r *kontikiv1.WatchRequest, stream kontikiv1.Objects_WatchServer) error {
	s := m.state
	next, _ := strconv.Atoi(r.ResourceVersion)
	stop := context.AfterFunc(stream.Context(), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	for {
		s.mu.Lock()
		for next >= s.revision && stream.Context().Err() == nil {
			s.changed.Wait()
		}
		if stream.Context().Err() != nil {
			s.mu.Unlock()
			return stream.Context().Err()
		}
		if next < s.oldest {
			s.mu.Unlock()
			return answer(codes.OutOfRange, metav1.StatusReasonExpired, "too old")
		}
		event := s.history[next]
		next++
		s.mu.Unlock()
		if err := stream.Send(event); err != nil {
			return err
		}
		if err := m.sent("Watch", next); err != nil {
			return err
		}
	}
}

// fakes starts masters, and a client whose current one is the first.
func fakes(t *testing.T, n int, change ...func(*Config)) (*Client, *state, []*master) {
	t.Helper()
	s := &state{}
	s.changed = sync.NewCond(&s.mu)
	masters := make([]*master, n)
	config := Config{plaintext: true, Name: "test", Patience: 3 * time.Second, silence: 50 * time.Millisecond}
	for i := range masters {
		masters[i] = &master{t: t, state: s, served: map[string]int{}}
		masters[i].start()
		t.Cleanup(masters[i].die)
		config.Endpoints = append(config.Endpoints, strconv.Itoa(i)+".test:1")
	}
	config.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
		i, err := strconv.Atoi(address[:1])
		if err != nil {
			return nil, err
		}
		return masters[i].dial(ctx)
	}
	for _, f := range change {
		f(&config)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	c.current = 0
	t.Cleanup(func() { c.Close() })
	return c, s, masters
}
