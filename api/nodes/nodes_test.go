package nodes_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/nodes"
	"github.com/kontiki/kontiki/api/registry"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// caller takes the node's name from the call's metadata; in production, it comes from the certificate.
func caller(ctx context.Context) (string, bool) {
	md, _ := metadata.FromIncomingContext(ctx)
	names := md.Get("node")
	return strings.Join(names, ""), len(names) > 0
}

type worker struct {
	t      *testing.T
	stream nodev1.NodeService_SessionClient
	have   map[string][]byte
	at     uint64
}

// lease is how long the leases of workers are in these tests.
const lease = 7 * time.Second

func serve(t *testing.T) (*harness.Harness, nodev1.NodeServiceClient) {
	return serveOn(t, harness.New(t))
}

func serveOn(t *testing.T, h *harness.Harness) (*harness.Harness, nodev1.NodeServiceClient) {
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	sessions := nodes.New(nodes.Config{
		Callers: nodes.Callers{Authorizer: h.Authorizer, Authenticate: func(ctx context.Context, token string) (user.Info, error) {
			who, _, err := h.Authenticator.Token(ctx, token, nil)
			return who, err
		}, Worker: func(der []byte) (string, error) {
			if string(der) != "w2's" {
				return "", errors.New("it is revoked")
			}
			return "w2", nil
		}},
		Client: h.Client, Tokens: h.Tokens, Caller: caller, Fence: func(ctx context.Context, name string) (*client.Client, error) {
			service, err := h.Objects.Fence(ctx, name)
			return client.New(service, "system:harness", "harness"), err
		},
		Masters:       func() []string { return []string{"m:6444"} },
		ClusterDomain: "cluster.local", ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		ServiceRange: netip.MustParsePrefix("10.96.0.0/16"), PodRange: netip.MustParsePrefix("10.244.0.0/16"), Lease: lease,
	})
	nodev1.RegisterNodeServiceServer(server, sessions)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- server.Serve(listener) }()
	go func() { done <- sessions.Run(ctx) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		cancel()
		<-done
		<-done
	})
	return h, nodev1.NewNodeServiceClient(conn)
}

func encode(t *testing.T, obj runtime.Object) []byte {
	t.Helper()
	data, err := runtime.Encode(registry.Codecs.EncoderForVersion(protobuf(t), corev1.SchemeGroupVersion), obj)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func protobuf(t *testing.T) runtime.Encoder {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(registry.Codecs.SupportedMediaTypes(), "application/vnd.kubernetes.protobuf")
	if !ok {
		t.Fatal("no protobuf serializer")
	}
	return info.Serializer
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}, Status: corev1.NodeStatus{
		Capacity:    corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
	}}
}

func connect(t *testing.T, c nodev1.NodeServiceClient, name string) *worker {
	t.Helper()
	return connectWith(t, c, &nodev1.Hello{NodeName: name, Node: encode(t, node(name))})
}

func connectWith(t *testing.T, c nodev1.NodeServiceClient, hello *nodev1.Hello) *worker {
	t.Helper()
	name := hello.NodeName
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := c.Session(metadata.AppendToOutgoingContext(ctx, "node", name))
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, stream: stream, have: map[string][]byte{}}
	w.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Hello{Hello: hello}})
	if welcome := w.recv().GetWelcome(); welcome == nil || welcome.Masters[0] != "m:6444" || welcome.ClusterDns[0] != "10.96.0.10" || welcome.PodCidr != "10.244.0.0/16" || welcome.LeaseMs != 7000 {
		t.Fatalf("welcome: %v", welcome)
	}
	return w
}

func (w *worker) send(m *nodev1.SessionRequest) {
	w.t.Helper()
	if err := w.stream.Send(m); err != nil {
		w.t.Fatal(err)
	}
}

func (w *worker) recv() *nodev1.SessionResponse {
	w.t.Helper()
	m, err := w.stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// until receives assignments until the condition is met, and checks that each delta continues the one before.
func (w *worker) until(what string, holds func() bool) {
	w.t.Helper()
	for !holds() {
		m, err := w.stream.Recv()
		if err != nil {
			w.t.Fatalf("until %s: %v (have %v)", what, err, w.keys())
		}
		a := m.GetAssignment()
		if a == nil {
			continue
		}
		if a.From != 0 && a.From != w.at {
			w.t.Fatalf("a delta from %d does not follow %d", a.From, w.at)
		}
		w.at = a.To
		for _, o := range a.Upserts {
			w.have[o.Key.Resource+"/"+o.Key.Namespace+"/"+o.Key.Name] = o.Value
		}
		for _, k := range a.Deletes {
			delete(w.have, k.Resource+"/"+k.Namespace+"/"+k.Name)
		}
	}
}

func (w *worker) keys() (out []string) {
	for k := range w.have {
		out = append(out, k)
	}
	return out
}

func (w *worker) has(key string) func() bool {
	return func() bool { _, ok := w.have[key]; return ok }
}

func (w *worker) hasNot(key string) func() bool {
	return func() bool { _, ok := w.have[key]; return !ok }
}

func create[T client.Object](t *testing.T, h *harness.Harness, obj T) T {
	t.Helper()
	made, err := client.Create(context.Background(), h.Client, obj)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func podNaming(name, secret string) *corev1.Pod {
	no := false
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &no,
		Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}}}},
	}}
}

func TestWorkerIsToldWhatItsPodsNameAndNothingElse(t *testing.T) {
	h, c := serve(t)
	for _, name := range []string{"mine", "foreign"} {
		create(t, h, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, StringData: map[string]string{"k": "plain-" + name}})
	}
	create(t, h, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	w := connect(t, c, "w1")
	w.until("the full set", w.has("services/default/s"))
	pod := create(t, h, podNaming("a", "mine"))
	other := create(t, h, podNaming("b", "foreign"))
	ctx := context.Background()
	if err := h.Client.Bind(ctx, other, "w2"); err != nil {
		t.Fatal(err)
	}
	if err := h.Client.Bind(ctx, pod, "w1"); err != nil {
		t.Fatal(err)
	}
	w.until("the pod", w.has("pods/default/a"))
	if !strings.Contains(string(w.have["secrets/default/mine"]), "plain-mine") {
		t.Fatalf("the pod came without its secret: %v", w.keys())
	}
	late := create(t, h, podNaming("late", "later"))
	if err := h.Client.Bind(ctx, late, "w1"); err != nil {
		t.Fatal(err)
	}
	w.until("the late pod", w.has("pods/default/late"))
	create(t, h, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "later", Namespace: "default"}})
	w.until("a secret made after its pod", w.has("secrets/default/later"))
	if err := h.Client.Delete(ctx, late, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	w.until("the pod's end", w.hasNot("pods/default/late"))
	w.until("its secret's end", w.hasNot("secrets/default/later"))
	for _, k := range w.keys() {
		if strings.Contains(k, "foreign") || k == "pods/default/b" {
			t.Errorf("the worker was told of %s", k)
		}
	}
	again := connect(t, c, "w1")
	again.until("the full set of a second session", again.has("pods/default/a"))
	if !again.has("secrets/default/mine")() {
		t.Errorf("a second session lacks the secret: %v", again.keys())
	}
}

func TestReportsAreStoredAndFinishedPodsRemoved(t *testing.T) {
	h, c := serve(t)
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	stored, ok := client.Get[*corev1.Node](h.Client.View(), "", "w1")
	if !ok || stored.Spec.PodCIDR == "" || stored.Status.Addresses[0].Address != "192.0.2.1" {
		t.Fatalf("the node was not registered: %+v", stored)
	}
	ctx := context.Background()
	pod := create(t, h, podNaming("a", "s"))
	if err := h.Client.Bind(ctx, pod, "w1"); err != nil {
		t.Fatal(err)
	}
	report := func(seq uint64, p *nodev1.PodStatus) *nodev1.StatusResult {
		t.Helper()
		w.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: &nodev1.StatusBatch{Sequence: seq, Pods: []*nodev1.PodStatus{p}}}})
		for {
			if result := w.recv().GetStatusResult(); result != nil {
				return result
			}
		}
	}
	running := encode(t, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.2",
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}})
	if result := report(1, &nodev1.PodStatus{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: running}); result.Sequence != 1 || len(result.Errors) > 0 {
		t.Fatalf("%v", result)
	}
	got, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "a")
	if got.Status.Phase != corev1.PodRunning || len(got.Status.Conditions) != 2 {
		t.Fatalf("status: %+v", got.Status)
	}
	if result := report(2, &nodev1.PodStatus{Namespace: "default", Name: "a", Uid: "another", Status: encode(t, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed}})}); len(result.Errors) > 0 {
		t.Fatalf("a pod that is gone is no error: %v", result)
	}
	if got, _ = client.Get[*corev1.Pod](h.Client.View(), "default", "a"); got.Status.Phase != corev1.PodRunning {
		t.Fatal("a report about another pod of the name was stored")
	}
	report(3, &nodev1.PodStatus{Namespace: "default", Name: "a", Uid: string(pod.UID), Terminated: true})
	if _, ok := client.Get[*corev1.Pod](h.Client.View(), "default", "a"); !ok {
		t.Fatal("a pod that was not deleted is gone")
	}
	if err := h.Client.Delete(ctx, got); err != nil {
		t.Fatal(err)
	}
	report(4, &nodev1.PodStatus{Namespace: "default", Name: "a", Uid: string(pod.UID), Terminated: true})
	if _, ok := client.Get[*corev1.Pod](h.Client.View(), "default", "a"); ok {
		t.Fatal("a deleted pod that has ended is still there")
	}
}

func TestCertificateAndNameMustAgree(t *testing.T) {
	_, c := serve(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := c.Session(metadata.AppendToOutgoingContext(ctx, "node", "w1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Hello{Hello: &nodev1.Hello{NodeName: "w2", Node: encode(t, node("w2"))}}}); err != nil {
		t.Fatal(err)
	}
	if _, err = stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("another node's name: %v", err)
	}
}

func TestTokensAreForPodsOfTheCallingNode(t *testing.T) {
	h, c := serve(t)
	ctx := metadata.AppendToOutgoingContext(context.Background(), "node", "w1")
	asking := podNaming("a", "s")
	asking.Spec.Volumes = []corev1.Volume{{Name: "tokens", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "vault", Audience: "vault"}},
	}}}}}
	pod := create(t, h, asking)
	request := &nodev1.CreateTokenRequest{Namespace: "default", ServiceAccount: "default", PodName: "a", PodUid: string(pod.UID), ExpirationSeconds: 3600}
	if _, err := c.CreateToken(ctx, request); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("for a pod that is on no node: %v", err)
	}
	if err := h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	answer, err := c.CreateToken(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	who, _, err := h.Tokens.Check(answer.Token, nil)
	if err != nil || who.GetName() != "system:serviceaccount:default:default" {
		t.Fatalf("%v, %v", who, err)
	}
	for audience, want := range map[string]codes.Code{"vault": codes.OK, "bank": codes.PermissionDenied, "": codes.OK} {
		request.Audiences = []string{audience}
		if _, err := c.CreateToken(ctx, request); status.Code(err) != want {
			t.Errorf("for the audience %q: %v", audience, err)
		}
	}
	request.Audiences = []string{"vault", "bank"}
	if _, err := c.CreateToken(ctx, request); status.Code(err) != codes.PermissionDenied {
		t.Errorf("for two audiences: %v", err)
	}
}

func TestASessionOfANodeThatCountsAsLostEnds(t *testing.T) {
	h, c := serve(t)
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	stored, _ := client.Get[*corev1.Node](h.Client.View(), "", "w1")
	marked := stored.DeepCopy()
	marked.Status.Conditions[0].Status = corev1.ConditionUnknown
	if _, err := client.UpdateStatus(context.Background(), h.Client, marked); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := w.stream.Recv(); err != nil {
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the session ended with %v", err)
			}
			break
		}
	}
	// Its next session makes the node ready again.
	again := connect(t, c, "w1")
	again.until("its own node", again.has("nodes//w1"))
	stored, _ = client.Get[*corev1.Node](h.Client.View(), "", "w1")
	if stored.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("conditions %+v", stored.Status.Conditions)
	}
	told := 0
	client.Each(h.Client.View(), metav1.NamespaceDefault, func(e *corev1.Event) bool {
		if e.Reason == "NodeReady" && e.InvolvedObject.Name == "w1" && e.Source == (corev1.EventSource{Component: "kubelet", Host: "w1"}) && e.Message == "Node w1 status is now: NodeReady" {
			told++
		}
		return true
	})
	if told != 2 {
		t.Errorf("%d events say that the node is ready, want one when it came and one when it was back", told)
	}
}

// TestOnlyTheWorkerMovesWhatConditionsHaveObserved: after a change of the pod's spec the scheduler's condition holds for the new
// generation too, which nobody but the worker says. Of the rest of that condition the worker changes nothing.
func TestOnlyTheWorkerMovesWhatConditionsHaveObserved(t *testing.T) {
	h, c := serve(t)
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	pod := create(t, h, podNaming("a", "s"))
	if err := h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	scheduled := func() corev1.PodCondition {
		t.Helper()
		got, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "a")
		for _, condition := range got.Status.Conditions {
			if condition.Type == corev1.PodScheduled {
				return condition
			}
		}
		t.Fatalf("no such condition: %+v", got.Status)
		return corev1.PodCondition{}
	}
	want := scheduled()
	for seq, status := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse} {
		if status == corev1.ConditionTrue {
			want.ObservedGeneration = 2
		}
		report := encode(t, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: status, Reason: "Mine", ObservedGeneration: int64(2 + seq), LastTransitionTime: metav1.Unix(1, 0)}}}})
		w.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: &nodev1.StatusBatch{Sequence: uint64(1 + seq),
			Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: report}}}}})
		for {
			if result := w.recv().GetStatusResult(); result != nil {
				if len(result.Errors) > 0 {
					t.Fatal(result)
				}
				break
			}
		}
		if got := scheduled(); got != want {
			t.Errorf("after %s: %+v, not %+v", status, got, want)
		}
	}
}

// TestConditionsAboutAResizeGoWithTheReport: the worker alone says whether a resize is pending, so a report without the condition
// removes it.
func TestConditionsAboutAResizeGoWithTheReport(t *testing.T) {
	h, c := serve(t)
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	pod := create(t, h, podNaming("a", "s"))
	if err := h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	pending := corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonDeferred, LastTransitionTime: metav1.Unix(1, 0)}
	infeasible := pending
	infeasible.Reason, infeasible.LastTransitionTime = corev1.PodReasonInfeasible, metav1.Unix(2, 0)
	for seq, want := range [][]corev1.PodCondition{{pending}, {infeasible}, nil} {
		report := encode(t, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: want}})
		w.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: &nodev1.StatusBatch{Sequence: uint64(1 + seq),
			Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: report}}}}})
		for {
			if result := w.recv().GetStatusResult(); result != nil {
				if len(result.Errors) > 0 {
					t.Fatal(result)
				}
				break
			}
		}
		got, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "a")
		var resize []corev1.PodCondition
		for _, condition := range got.Status.Conditions {
			if condition.Type == corev1.PodResizePending {
				resize = append(resize, condition)
			}
		}
		if !equality.Semantic.DeepEqual(resize, want) {
			t.Errorf("conditions %+v, want %+v", resize, want)
		}
	}
}
