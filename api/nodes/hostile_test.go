package nodes_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// reporter is a worker that sends reports and reads the results.
type reporter struct {
	*worker
	h   *harness.Harness
	seq uint64
}

func report(t *testing.T) *reporter {
	h, c := serve(t)
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	return &reporter{worker: w, h: h}
}

func (r *reporter) report(batch *nodev1.StatusBatch) []string {
	r.t.Helper()
	r.seq++
	batch.Sequence = r.seq
	r.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: batch}})
	for {
		if result := r.recv().GetStatusResult(); result != nil {
			return result.Errors
		}
	}
}

func (r *reporter) node() *corev1.Node {
	r.t.Helper()
	n, ok := client.Get[*corev1.Node](r.h.Client.View(), "", "w1")
	if !ok {
		r.t.Fatal("the node is gone")
	}
	return n
}

func TestAStatusWithoutCapacityEndsNothing(t *testing.T) {
	r := report(t)
	stored := r.node().DeepCopy()
	stored.Status.Capacity["example.com/gpu"] = resource.MustParse("4")
	stored.Status.Allocatable["example.com/gpu"] = resource.MustParse("3")
	if _, err := client.UpdateStatus(context.Background(), r.h.Client, stored); err != nil {
		t.Fatal(err)
	}
	empty := node("w1")
	empty.Status.Capacity, empty.Status.Allocatable = nil, nil
	if problems := r.report(&nodev1.StatusBatch{NodeStatus: encode(t, empty)}); len(problems) > 0 {
		t.Fatal(problems)
	}
	now := r.node().Status
	if gpus, allocatable := now.Capacity["example.com/gpu"], now.Allocatable["example.com/gpu"]; len(now.Capacity) != 1 || gpus.Value() != 4 || allocatable.Value() != 3 {
		t.Errorf("capacity %v, allocatable %v: the extended resource must stay, and nothing else", now.Capacity, now.Allocatable)
	}
}

func TestWhatNoWorkerWouldSendIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Node)
		want   string
	}{
		"too many addresses": {func(n *corev1.Node) {
			for i := range 65 {
				n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: fmt.Sprint("192.0.2.", i)})
			}
		}, "status.addresses has 66 entries"},
		"an address that is none": {func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.0.2.1 dev lo" }, "is not an IP address"},
		"a loopback address":      {func(n *corev1.Node) { n.Status.Addresses[0].Address = "127.0.0.1" }, "other hosts cannot reach this one at 127.0.0.1"},
		"a link-local address":    {func(n *corev1.Node) { n.Status.Addresses[0].Address = "169.254.169.254" }, "other hosts cannot reach this one at 169.254.169.254"},
		"a multicast address":     {func(n *corev1.Node) { n.Status.Addresses[0].Address = "::ffff:224.0.0.1" }, "other hosts cannot reach this one at"},
		"a condition twice": {func(n *corev1.Node) {
			n.Status.Conditions = append(n.Status.Conditions, n.Status.Conditions[0])
		}, "is duplicate"},
		"a condition's status": {func(n *corev1.Node) { n.Status.Conditions[0].Status = "Perhaps" }, "is not one of True, False, Unknown"},
		"a port":               {func(n *corev1.Node) { n.Status.DaemonEndpoints.KubeletEndpoint.Port = 70000 }, "is not a port"},
		"negative capacity":    {func(n *corev1.Node) { n.Status.Capacity["pods"] = resource.MustParse("-1") }, "must be greater than or equal to 0"},
		"too large":            {func(n *corev1.Node) { n.Status.NodeInfo.OSImage = strings.Repeat("x", 300<<10) }, "the limit is"},
	} {
		t.Run(name, func(t *testing.T) {
			r := report(t)
			before := r.node().ResourceVersion
			n := node("w1")
			c.change(n)
			problems := r.report(&nodev1.StatusBatch{NodeStatus: encode(t, n)})
			if len(problems) != 1 || !strings.Contains(problems[0], c.want) {
				t.Errorf("answered %q, want %q", problems, c.want)
			}
			if r.node().ResourceVersion != before {
				t.Error("it was stored")
			}
		})
	}
}

// A quantity of a few bytes would take gigabytes of the master's memory in arithmetic.
func TestAQuantityOutOfAllBoundsIsRefusedUnread(t *testing.T) {
	r := report(t)
	raw := encode(t, node("w1"))
	// The quantity 2 is the message 0a 01 '2'. The lengths around it need not be correct, because the message is rejected before it
	// is decoded.
	raw = append(raw, "\x0a\x0d1e-2000000000"...)
	problems := r.report(&nodev1.StatusBatch{NodeStatus: raw})
	if len(problems) != 1 || !strings.Contains(problems[0], "the exponent has more than 3 digits") {
		t.Errorf("answered %q", problems)
	}
}

func TestAWorkerCannotNameClaimsOrContainersForItsPods(t *testing.T) {
	r := report(t)
	pod := create(t, r.h, podNaming("a", "s"))
	if err := r.h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	claim := "another-tenants"
	reported := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning,
		ResourceClaimStatuses:       []corev1.PodResourceClaimStatus{{Name: "x", ResourceClaimName: &claim}},
		ExtendedResourceClaimStatus: &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: claim},
		ContainerStatuses:           []corev1.ContainerStatus{{Name: "c", Image: "i"}}}}
	send := func() []string {
		return r.report(&nodev1.StatusBatch{Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: encode(t, reported)}}})
	}
	if problems := send(); len(problems) > 0 {
		t.Fatal(problems)
	}
	stored, _ := client.Get[*corev1.Pod](r.h.Client.View(), "default", "a")
	if stored.Status.ResourceClaimStatuses != nil || stored.Status.ExtendedResourceClaimStatus != nil || stored.Status.Phase != corev1.PodRunning {
		t.Errorf("stored %+v", stored.Status)
	}
	for _, name := range []string{"c", "other"} {
		reported.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c"}, {Name: name}}
		if problems := send(); len(problems) != 1 || !strings.Contains(problems[0], "containerStatuses[1].name") {
			t.Errorf("a second status of %q: %v", name, problems)
		}
	}
}

func TestAnEventOfAWorkerHasNoOwners(t *testing.T) {
	r := report(t)
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default", Finalizers: []string{"example.com/never"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "w2", UID: "u"}}},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: "w1"}, Reason: "Here", Type: "Normal"}
	if problems := r.report(&nodev1.StatusBatch{Events: [][]byte{encode(t, event)}}); len(problems) > 0 {
		t.Fatal(problems)
	}
	stored, ok := client.Get[*corev1.Event](r.h.Client.View(), "default", "e")
	if !ok || len(stored.OwnerReferences)+len(stored.Finalizers) > 0 {
		t.Errorf("stored %+v", stored)
	}
}

func TestAFloodOfEventsIsCut(t *testing.T) {
	r := report(t)
	var events [][]byte
	for i := range 2000 {
		events = append(events, encode(t, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("e", i), Namespace: "default"},
			InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: "w1"}, Reason: "Here", Type: "Normal"}))
	}
	r.report(&nodev1.StatusBatch{Events: events})
	stored := len(client.List[*corev1.Event](r.h.Client.View(), "default", nil))
	if stored < 1000 || stored == 2000 {
		t.Errorf("%d of 2000 events were stored, about 1000 may be", stored)
	}
}

// fullStore refuses proposals while it is full, and reports each refusal.
type fullStore struct {
	objects.Store
	full    atomic.Bool
	refused chan struct{}
}

func (s *fullStore) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	if s.full.Load() {
		select {
		case s.refused <- struct{}{}:
		case <-ctx.Done():
		}
		return kv.Result{}, fmt.Errorf("propose: %w", kv.ErrDiskFull)
	}
	return s.Store.Propose(ctx, c)
}

// A report that cannot be stored now is not acknowledged; it is stored once that is possible.
func TestAReportWaitsUntilItCanBeStored(t *testing.T) {
	store := &fullStore{refused: make(chan struct{})}
	h, c := serveOn(t, harness.NewOver(t, func(s objects.Store) objects.Store {
		store.Store = s
		return store
	}))
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	r := &reporter{worker: w, h: h}
	pod := create(t, h, podNaming("a", "s"))
	if err := h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	store.full.Store(true)
	reported := node("w1")
	reported.Status.Conditions = append(reported.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
	done := make(chan []string, 1)
	go func() {
		done <- r.report(&nodev1.StatusBatch{NodeStatus: encode(t, reported), Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID),
			Status: encode(t, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Over"}})}}})
	}()
	for range 4 {
		select {
		case <-store.refused:
		case problems := <-done:
			t.Fatalf("acknowledged while it could not be stored: %q", problems)
		}
	}
	store.full.Store(false)
	for acknowledged := false; !acknowledged; {
		select {
		case <-store.refused: // one that was on its way
		case problems := <-done:
			if len(problems) > 0 {
				t.Errorf("refused: %q", problems)
			}
			acknowledged = true
		}
	}
	stored, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "a")
	if stored.Status.Phase != corev1.PodFailed || len(r.node().Status.Conditions) != 2 {
		t.Errorf("stored: %+v, %+v", stored.Status, r.node().Status.Conditions)
	}
}

// Of an existing node, a worker changes only the status and some labels.
func TestAWorkerChangesNothingElseOfItsNode(t *testing.T) {
	h, c := serve(t)
	create(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1", Labels: map[string]string{"node-restriction.kubernetes.io/tenant": "a"}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "dedicated", Effect: corev1.TaintEffectNoSchedule}}}})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := c.Session(metadata.AppendToOutgoingContext(ctx, "node", "w1"))
	if err != nil {
		t.Fatal(err)
	}
	hello := node("w1")
	hello.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "u"}}
	hello.Finalizers, hello.Annotations = []string{"example.com/never"}, map[string]string{"a": "b"}
	hello.Labels["node-restriction.kubernetes.io/tenant"], hello.Labels["rack"] = "b", "7"
	hello.Spec.Unschedulable, hello.Spec.PodCIDR, hello.Spec.PodCIDRs = true, "10.0.0.0/8", []string{"10.0.0.0/8"}
	w := &worker{t: t, stream: stream, have: map[string][]byte{}}
	w.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Hello{Hello: &nodev1.Hello{NodeName: "w1", Node: encode(t, hello)}}})
	w.until("its own node", w.has("nodes//w1"))
	got, _ := client.Get[*corev1.Node](h.Client.View(), "", "w1")
	if len(got.OwnerReferences)+len(got.Finalizers)+len(got.Annotations) > 0 || got.Labels["node-restriction.kubernetes.io/tenant"] != "a" || got.Labels["rack"] != "7" ||
		len(got.Spec.Taints) != 1 || got.Spec.Unschedulable || got.Spec.PodCIDR == "10.0.0.0/8" || len(got.Status.Addresses) != 1 {
		t.Errorf("the node is %+v", got)
	}
}

func TestAWorkerWhoseNodeIsGoneRegistersAgain(t *testing.T) {
	h, c := serve(t)
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	before, _ := client.Get[*corev1.Node](h.Client.View(), "", "w1")
	if err := h.Client.Delete(context.Background(), before); err != nil {
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
	again := connect(t, c, "w1")
	again.until("its own node", again.has("nodes//w1"))
	if after, ok := client.Get[*corev1.Node](h.Client.View(), "", "w1"); !ok || after.UID == before.UID {
		t.Errorf("the node is %v", after)
	}
}

// TestAWorkerBeyondThePodRangeIsToldWhy: the code tells it that another master would say the same.
func TestAWorkerBeyondThePodRangeIsToldWhy(t *testing.T) {
	_, c := serveOn(t, harness.NewConfigured(t, func(c *apiserver.Config) { c.PodRange = netip.MustParsePrefix("10.244.0.0/24") }))
	first := connect(t, c, "w1")
	first.until("its own node", first.has("nodes//w1"))
	second := connect(t, c, "w2")
	for {
		_, err := second.stream.Recv()
		if err == nil {
			continue
		}
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "the pod range 10.244.0.0/24 has no space for another node") {
			t.Errorf("the session ended with %v", err)
		}
		return
	}
}

func TestAWorkerHasFewSessions(t *testing.T) {
	_, c := serve(t)
	var all []*worker
	for range 6 {
		w := connect(t, c, "w1")
		w.until("its own node", w.has("nodes//w1"))
		all = append(all, w)
	}
	ended := make(chan error, len(all))
	for _, w := range all[:5] {
		go func() {
			for {
				if _, err := w.stream.Recv(); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	for range 2 {
		if err := <-ended; status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a session ended with %v", err)
		}
	}
	all[5].send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: &nodev1.StatusBatch{Sequence: 1}}})
	for all[5].recv().GetStatusResult() == nil {
	}
}

func TestAPodHasOnlyAddressesThatCanBeReached(t *testing.T) {
	r := report(t)
	for name, c := range map[string]struct {
		host    bool
		address string
		want    string
	}{
		"loopback":   {false, "127.0.0.1", "can be reached"},
		"link-local": {false, "169.254.1.1", "can be reached"},
		"own":        {false, "10.244.0.9", ""},
		"host":       {true, "192.0.2.1", ""},
	} {
		pod := podNaming(name, "s")
		pod.Spec.HostNetwork = c.host
		stored := create(t, r.h, pod)
		if err := r.h.Client.Bind(context.Background(), stored, "w1"); err != nil {
			t.Fatal(err)
		}
		status := encode(t, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: c.address, PodIPs: []corev1.PodIP{{IP: c.address}}}})
		problems := r.report(&nodev1.StatusBatch{Pods: []*nodev1.PodStatus{{Namespace: "default", Name: name, Uid: string(stored.UID), Status: status}}})
		if c.want == "" && len(problems) > 0 || c.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], c.want)) {
			t.Errorf("%s: answered %q, want %q", name, problems, c.want)
		}
	}
}
