package agent

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// master is a NodeService in this process. It keeps objects, gives them to every session, and collects what nodes say.
type master struct {
	nodev1.UnimplementedNodeServiceServer
	t    *testing.T
	addr string
	srv  *grpc.Server

	mu       sync.Mutex
	version  uint64
	objects  map[key]*nodev1.Object
	log      []*nodev1.Assignment
	changed  chan struct{}
	statuses map[types.UID]corev1.PodStatus
	ended    map[types.UID]bool
	events   []corev1.Event
	node     *corev1.Node
	hellos   int
	history  string        // of the sets that it sends
	known    *nodev1.Known // what the last hello said
	refuse   bool          // acknowledge nothing
	beats    bool          // send beats
	mute     bool          // send none any more
	answers  int
	peers    []string // that the welcome names
	moveTo   string   // ask one session to move there
	tokens   int
	usageMs  uint32 // how often it asks for reports of usage
	usage    []*nodev1.UsageReport
}

func newMaster(t *testing.T) *master {
	m := &master{t: t, objects: map[key]*nodev1.Object{}, changed: make(chan struct{}), statuses: map[types.UID]corev1.PodStatus{}, ended: map[types.UID]bool{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = l.Addr().String()
	m.serve(l)
	t.Cleanup(func() { m.stop() })
	return m
}

func (m *master) serve(l net.Listener) {
	srv := grpc.NewServer()
	nodev1.RegisterNodeServiceServer(srv, m)
	m.mu.Lock()
	m.srv = srv
	m.mu.Unlock()
	go srv.Serve(l)
}

func (m *master) stop() {
	m.mu.Lock()
	srv := m.srv
	m.mu.Unlock()
	srv.Stop()
}

// move asks the node to turn to another master.
func (m *master) move(to string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moveTo = to
	m.notify()
}

func dialPlain(_ context.Context, addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// notify wakes whoever waits for a change; mu is held.
func (m *master) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *master) put(resource, kind, apiVersion string, meta *metav1.ObjectMeta, o wire.Message) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.version++
	meta.ResourceVersion = fmt.Sprint(m.version)
	b, err := wire.Encode(apiVersion, kind, o)
	if err != nil {
		m.t.Fatal(err)
	}
	obj := &nodev1.Object{Key: &nodev1.ObjectKey{Resource: resource, Namespace: meta.Namespace, Name: meta.Name}, Revision: m.version, Value: b}
	m.objects[keyOf(obj.Key)] = obj
	m.log = append(m.log, &nodev1.Assignment{From: m.version - 1, To: m.version, Upserts: []*nodev1.Object{obj}})
	m.notify()
}

func (m *master) remove(resource, namespace, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.version++
	k := &nodev1.ObjectKey{Resource: resource, Namespace: namespace, Name: name}
	delete(m.objects, keyOf(k))
	m.log = append(m.log, &nodev1.Assignment{From: m.version - 1, To: m.version, Deletes: []*nodev1.ObjectKey{k}})
	m.notify()
}

func (m *master) pod(p *corev1.Pod)       { m.put("pods", "Pod", "v1", &p.ObjectMeta, p) }
func (m *master) secret(s *corev1.Secret) { m.put("secrets", "Secret", "v1", &s.ObjectMeta, s) }
func (m *master) config(c *corev1.ConfigMap) {
	m.put("configmaps", "ConfigMap", "v1", &c.ObjectMeta, c)
}
func (m *master) service(s *corev1.Service) { m.put("services", "Service", "v1", &s.ObjectMeta, s) }

func (m *master) Session(stream nodev1.NodeService_SessionServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	m.mu.Lock()
	usageMs := m.usageMs
	m.mu.Unlock()
	node := &corev1.Node{}
	if err := wire.Decode(first.GetHello().GetNode(), node); err != nil {
		return err
	}
	if err := stream.Send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Welcome{Welcome: &nodev1.Welcome{Masters: m.peers,
		ClusterDomain: "cluster.local", ClusterDns: []string{"10.96.0.10"}, ServiceCidr: "10.96.0.0/16", PodCidr: "10.244.0.0/16", UsageMs: usageMs}}}); err != nil {
		return err
	}
	m.mu.Lock()
	m.hellos++
	m.node, m.known = node, first.GetHello().GetKnown()
	full := &nodev1.Assignment{To: m.version, History: m.history}
	for _, o := range m.objects {
		full.Upserts = append(full.Upserts, o)
	}
	sent := len(m.log)
	m.notify()
	m.mu.Unlock()
	if full.To == 0 {
		full.To = 0
	}
	if err := stream.Send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Assignment{Assignment: full}}); err != nil {
		return err
	}
	var sendMu sync.Mutex
	send := func(r *nodev1.SessionResponse) error {
		sendMu.Lock()
		defer sendMu.Unlock()
		return stream.Send(r)
	}
	go func() {
		for {
			m.mu.Lock()
			pending := m.log[sent:]
			sent = len(m.log)
			changed := m.changed
			to := m.moveTo
			m.moveTo = ""
			m.mu.Unlock()
			if to != "" && send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Move{Move: &nodev1.Move{Master: to}}}) != nil {
				return
			}
			for _, a := range pending {
				if send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Assignment{Assignment: a}}) != nil {
					return
				}
			}
			select {
			case <-changed:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	if m.beats {
		go func() {
			for stream.Context().Err() == nil {
				m.mu.Lock()
				mute := m.mute
				m.mu.Unlock()
				if !mute && send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Beat{Beat: &nodev1.Beat{NextMs: 20}}}) != nil {
					return
				}
				time.Sleep(20 * time.Millisecond) // the rhythm of beats, which is real time here as the containers' is
			}
		}()
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if r.GetAnswer() != nil {
			m.mu.Lock()
			m.answers++
			m.notify()
			m.mu.Unlock()
			continue
		}
		if r.GetUsage() != nil {
			report := &nodev1.UsageReport{}
			if err := proto.Unmarshal(r.GetUsage(), report); err != nil {
				return err
			}
			m.mu.Lock()
			m.usage = append(m.usage, report)
			m.notify()
			m.mu.Unlock()
			continue
		}
		b := r.GetStatus()
		m.mu.Lock()
		refuse := m.refuse
		if !refuse {
			m.take(b)
		}
		m.mu.Unlock()
		if refuse {
			continue
		}
		if err := send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_StatusResult{StatusResult: &nodev1.StatusResult{Sequence: b.Sequence}}}); err != nil {
			return err
		}
	}
}

// take is called with mu held.
func (m *master) take(b *nodev1.StatusBatch) {
	for _, p := range b.Pods {
		var o corev1.Pod
		if err := wire.Decode(p.Status, &o); err != nil {
			m.t.Error(err)
		}
		m.statuses[types.UID(p.Uid)] = o.Status
		if p.Terminated {
			m.ended[types.UID(p.Uid)] = true
		}
	}
	for _, raw := range b.Events {
		var e corev1.Event
		if err := wire.Decode(raw, &e); err != nil {
			m.t.Error(err)
		}
		m.events = append(m.events, e)
	}
	if len(b.NodeStatus) > 0 {
		n := &corev1.Node{}
		if err := wire.Decode(b.NodeStatus, n); err != nil {
			m.t.Error(err)
		}
		m.node = n
	}
	m.notify()
}

func (m *master) CreateToken(_ context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens++
	return &nodev1.CreateTokenResponse{Token: fmt.Sprintf("token-%d-for-%s/%s", m.tokens, r.Namespace, r.ServiceAccount), ExpiresAt: time.Now().Add(time.Duration(r.ExpirationSeconds) * time.Second).Unix()}, nil
}

func (m *master) CreateMirrorPod(_ context.Context, r *nodev1.CreateMirrorPodRequest) (*nodev1.CreateMirrorPodResponse, error) {
	pod := &corev1.Pod{}
	if err := wire.Decode(r.Pod, pod); err != nil {
		return nil, err
	}
	pod.UID, pod.Generation = types.UID("mirror-of-"+pod.Name), 1
	m.pod(pod)
	return &nodev1.CreateMirrorPodResponse{Uid: string(pod.UID)}, nil
}

func (m *master) DeleteMirrorPod(_ context.Context, r *nodev1.DeleteMirrorPodRequest) (*nodev1.DeleteMirrorPodResponse, error) {
	m.remove("pods", r.Namespace, r.Name)
	return &nodev1.DeleteMirrorPodResponse{}, nil
}

// await waits until ok says yes; it is asked after every change, with mu held.
func (m *master) await(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		m.mu.Lock()
		if ok() {
			m.mu.Unlock()
			return
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			m.mu.Lock()
			defer m.mu.Unlock()
			for uid, s := range m.statuses {
				m.t.Logf("pod %s: %s %s %s %+v %+v", uid, s.Phase, s.Reason, s.Message, s.InitContainerStatuses, s.ContainerStatuses)
			}
			for _, e := range m.events {
				m.t.Logf("event %s %s %s: %s", e.InvolvedObject.Name, e.Type, e.Reason, e.Message)
			}
			m.t.Fatalf("never happened: %s", what)
		}
	}
}

func (m *master) awaitPod(uid types.UID, what string, ok func(corev1.PodStatus) bool) corev1.PodStatus {
	m.t.Helper()
	var out corev1.PodStatus
	m.await(fmt.Sprintf("pod %s %s", uid, what), func() bool {
		s, have := m.statuses[uid]
		out = s
		return have && ok(s)
	})
	return out
}

func (m *master) awaitEnd(uid types.UID) {
	m.t.Helper()
	m.await(fmt.Sprintf("end of pod %s", uid), func() bool { return m.ended[uid] })
}

func (m *master) awaitEvent(reason, message string) {
	m.t.Helper()
	m.await(fmt.Sprintf("event %s %q", reason, message), func() bool {
		for _, e := range m.events {
			if e.Reason == reason && (message == "" || e.Message == message) {
				return true
			}
		}
		return false
	})
}

// delete marks a pod as being deleted, as the API does.
func (m *master) delete(p *corev1.Pod, grace int64) {
	p = p.DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	p.Generation++
	m.pod(p)
}
