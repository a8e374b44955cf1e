package rpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/flow/flowtest"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	awaiting "github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// holder is a store that blocks one read and one write when the test asks for it.
type holder struct {
	objects.Store
	holds    atomic.Bool
	held     chan struct{}
	released chan struct{}
}

func newHolder(store objects.Store) *holder {
	return &holder{Store: store, held: make(chan struct{}), released: make(chan struct{})}
}

func (h *holder) hold(ctx context.Context) {
	if h.holds.CompareAndSwap(true, false) {
		h.held <- struct{}{}
		select {
		case <-h.released:
		case <-ctx.Done():
		}
	}
}

func (h *holder) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	h.hold(ctx)
	return h.Store.Propose(ctx, c)
}

func (h *holder) Consistent(ctx context.Context) (kv.View, error) {
	h.hold(ctx)
	return h.Store.Consistent(ctx)
}

// limited is an API that serves one request at a time, and everybody's.
type limited struct {
	*front
	store  *holder
	limits *flow.Control
	log    *auditLog
}

func newLimited(t *testing.T) *limited {
	l := &limited{limits: flowtest.Rejecting(1), log: newAuditLog(t, everything)}
	l.front = newFrontOver(t, harness.NewConfigured(t, func(c *apiserver.Config) {
		l.store = newHolder(c.Store)
		c.Store, c.Limits, c.Audit = l.store, l.limits, l.log.auditor
	}))
	l.h.REST.Authorizer, l.h.RPC.Authorizer = anything{}, anything{}
	return l
}

// TestBothFrontsShareTheirLimits blocks a request of each front, and sends others by both.
func TestBothFrontsShareTheirLimits(t *testing.T) {
	cmKind := configMaps
	read := step{name: "get", as: "joe", method: "GET", path: cmPath + "/a", call: get(ref("a"), "")}
	write := step{name: "create", as: "joe", method: "POST", path: cmPath, contentType: jsonType, body: cm("x", ""), call: create(jsonObject(cmKind, cm("x", "")), nil)}
	txs := step{name: "transact", as: "joe", method: "POST", path: transactions, contentType: jsonType, body: tx(txCM("z")), call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{createOp(jsonObject(cmKind, cm("z", "")))}})}
	lists := step{name: "list", as: "joe", method: "GET", path: cmPath, call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default"})}
	watches := step{name: "watch", as: "joe", method: "GET", path: cmPath + "?watch=1", call: watchCall(&kontikiv1.WatchRequest{Kind: cmKind, Namespace: "default"})}
	byAdmin := read
	byAdmin.name, byAdmin.as = "get by an administrator", ""
	for _, front := range []string{"REST", "gRPC"} {
		t.Run("held by "+front, func(t *testing.T) {
			l := newLimited(t)
			store(t, l.h, "a", "1")
			done := make(chan struct{})
			held := read
			l.store.holds.Store(true)
			go func() {
				defer close(done)
				if front == "REST" {
					l.rest(&held)
				} else {
					l.grpc(&held)
				}
			}()
			<-l.store.held
			l.log.next(t)
			refused := []step{read, lists, watches, write, txs}
			for _, s := range refused {
				s.code = codes.ResourceExhausted
				want := l.rest(&s)
				byREST := l.log.next(t)
				got := l.grpc(&s)
				byRPC := l.log.next(t)
				// How long a client is told to wait depends on the second in which it asks: ask again if the two were told different times.
				for range 20 {
					if retryAfter(want) == retryAfter(got) {
						break
					}
					want, byREST = l.rest(&s), l.log.next(t)
					got, byRPC = l.grpc(&s), l.log.next(t)
				}
				if want.status.Code != http.StatusTooManyRequests || want.status.Reason != metav1.StatusReasonTooManyRequests || !reflect.DeepEqual(want.status, got.status) {
					t.Errorf("%s: REST says\n%+v\ngRPC\n%+v", s.name, want.status, got.status)
				}
				compareEvents(t, &s, byREST, byRPC)
				if last := byRPC[len(byRPC)-1]; last.ResponseStatus.Code != http.StatusTooManyRequests || last.User.Username != "joe" {
					t.Errorf("%s: recorded %+v", s.name, last)
				}
			}
			if want, got := l.rest(&byAdmin), l.grpc(&byAdmin); want.status.Reason != "" || !reflect.DeepEqual(want.status, got.status) {
				t.Errorf("an administrator: REST says\n%+v\ngRPC\n%+v", want.status, got.status)
			}
			// Requests that do not come through a front are served, and so are health checks.
			if _, err := client.Create(deadline(t), l.h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "by-a-controller"}}); err != nil {
				t.Error(err)
			}
			l.healthy(t)
			close(l.store.released)
			<-done
			// The seats are given back, also by those that were served meanwhile.
			for _, s := range []step{read, lists} {
				if got := l.rest(&s); got.status.Code != 0 {
					t.Errorf("%s: %+v", s.name, got.status)
				}
				l.grpc(&s)
			}
			if dropped := counters(t, l.limits)["apiserver_dropped_requests_total"]; dropped["mutating"] != 4 || dropped["readOnly"] != 6 || len(dropped) != 2 {
				t.Errorf("counted %v", dropped)
			}
			if left := counters(t, l.limits)["apiserver_current_inflight_requests"]; left["mutating"] != 0 || left["readOnly"] != 0 {
				t.Errorf("still in flight: %v", left)
			}
		})
	}
}

// TestAWatchHoldsItsSeatOnlyAtFirst: running watches leave the only seat to others, and count for what is written.
func TestAWatchHoldsItsSeatOnlyAtFirst(t *testing.T) {
	l := newLimited(t)
	store(t, l.h, "a", "1")
	for range 2 {
		stream, err := l.conn["joe"].Watch(deadline(t), &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default", SendInitialEvents: true})
		if err != nil {
			t.Fatal(err)
		}
		for {
			event, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if event.InitialEventsEnd {
				break
			}
		}
		l.until(t, 0)
		config := l.h.Config("joe", "devs")
		response, err := l.http["joe"].Get(config.Host + cmPath + "?watch=1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
		if response.StatusCode != http.StatusOK || response.Header.Get("X-Kubernetes-PF-FlowSchema-UID") != flowtest.SchemaUID {
			t.Fatalf("%s %v", response.Status, response.Header)
		}
		l.until(t, 0)
	}
	// A write is known to concern the four watches.
	l.grpc(&step{as: "joe", call: create(jsonObject(configMaps, cm("x", "")), nil)})
	registry := prometheus.NewRegistry()
	registry.MustRegister(l.limits)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	watched := 0.0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "apiserver_flowcontrol_watch_count_samples" {
				watched += m.GetHistogram().GetSampleSum()
			}
		}
	}
	if watched != 4 {
		t.Errorf("%v watches are counted", watched)
	}
}

// until waits until that many requests are being served.
func (l *limited) until(t *testing.T, n float64) {
	t.Helper()
	awaiting.That(t, "requests are over", func() error {
		now := counters(t, l.limits)["apiserver_current_inflight_requests"]
		if got := now["mutating"] + now["readOnly"]; got != n {
			return fmt.Errorf("%v are being served", got)
		}
		return nil
	})
}

// counters are a collector's values, by name and the value of their one label.
func counters(t *testing.T, c prometheus.Collector) map[string]map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]float64{}
	for _, family := range families {
		out[family.GetName()] = map[string]float64{}
		for _, m := range family.GetMetric() {
			label := ""
			if len(m.GetLabel()) > 0 {
				label = m.GetLabel()[0].GetValue()
			}
			out[family.GetName()][label] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// healthy checks the health by both fronts, without credentials.
func (l *limited) healthy(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		response, err := l.http["anonymous"].Get(l.h.Config("x").Host + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	answer, err := healthv1.NewHealthClient(l.h.GRPC("")).Check(deadline(t), &healthv1.HealthCheckRequest{})
	if err != nil || answer.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v %v", answer, err)
	}
}

func retryAfter(a answer) int32 {
	if a.status.Details == nil {
		return 0
	}
	return a.status.Details.RetryAfterSeconds
}

func TestARefusedClientIsToldWhenToComeBack(t *testing.T) {
	l := newLimited(t)
	store(t, l.h, "a", "1")
	l.store.holds.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.grpc(&step{as: "joe", call: get(ref("a"), "")})
	}()
	<-l.store.held
	config := l.h.Config("joe", "devs")
	// Without client-go's own retries.
	httpClient, err := clientrest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	response, err := httpClient.Get(config.Host + cmPath + "/a")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	var answered metav1.Status
	if err := json.Unmarshal(body, &answered); err != nil || answered.Message != "Too many requests, please try again later." || answered.Details.RetryAfterSeconds != 1 {
		t.Errorf("%v: %s", err, body)
	}
	if got := response.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After: %q", got)
	}
	const schemaHeader, levelHeader = "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid"
	if h := response.Header; h.Get(schemaHeader) != flowtest.SchemaUID || h.Get(levelHeader) != flowtest.LevelUID {
		t.Errorf("headers %v", h)
	}
	var h metadata.MD
	_, err = l.conn["joe"].Get(deadline(t), &kontikiv1.GetRequest{Reference: ref("a")}, grpc.Header(&h))
	if got := h.Get(schemaHeader); len(got) != 1 || got[0] != flowtest.SchemaUID {
		t.Errorf("headers of gRPC: %v", h)
	}
	var retry *errdetails.RetryInfo
	for _, detail := range status.Convert(err).Details() {
		if d, ok := detail.(*errdetails.RetryInfo); ok {
			retry = d
		}
	}
	if status.Code(err) != codes.ResourceExhausted || retry.GetRetryDelay().AsDuration() < time.Second {
		t.Errorf("%v, RetryInfo %v", err, retry)
	}
	close(l.store.released)
	<-done
}

// TestARequestEndsWhenItsTimeIsOver blocks a write for longer than the request timeout.
func TestARequestEndsWhenItsTimeIsOver(t *testing.T) {
	var held *holder
	f := newFrontOver(t, harness.NewConfigured(t, func(c *apiserver.Config) {
		held = newHolder(c.Store)
		c.Store, c.RequestTimeout = held, 50*time.Millisecond
	}))
	held.released = make(chan struct{}) // never
	held.held = make(chan struct{}, 2)  // nobody asks: time may be over before the store is reached
	for name, send := range map[string]func(*step) answer{"REST": f.rest, "gRPC": f.grpc} {
		held.holds.Store(true)
		ended := make(chan answer)
		go func() {
			s := &step{method: "POST", path: cmPath, contentType: jsonType, body: cm("x-"+strings.ToLower(name), ""), call: create(jsonObject(configMaps, cm("x-"+strings.ToLower(name), "")), nil), code: codes.DeadlineExceeded}
			ended <- send(s)
		}()
		select {
		case a := <-ended:
			if a.status.Code != http.StatusGatewayTimeout || a.status.Reason != metav1.StatusReasonTimeout {
				t.Errorf("%s answers %+v", name, a.status)
			}
		case <-deadline(t).Done():
			t.Errorf("%s: the request goes on", name)
		}
	}
}
