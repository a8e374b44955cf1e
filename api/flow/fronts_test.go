package flow_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/flowcontrol"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// gate is a store whose consistent reads wait while it is closed.
type gate struct {
	objects.Store
	closed atomic.Pointer[chan struct{}]
	inside atomic.Int64
}

func (g *gate) Consistent(ctx context.Context) (kv.View, error) {
	if closed := g.closed.Load(); closed != nil {
		g.inside.Add(1)
		defer g.inside.Add(-1)
		select {
		case <-*closed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g.Store.Consistent(ctx)
}

func (g *gate) close() (open func()) {
	closed := make(chan struct{})
	g.closed.Store(&closed)
	return func() {
		g.closed.Store(nil)
		close(closed)
	}
}

type anything struct{}

func (anything) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// account is a service account as a client of both fronts.
type account struct {
	h     *harness.Harness
	token string
	http  *http.Client
	grpc  kontikiv1.ObjectsClient
}

func newAccount(t *testing.T, h *harness.Harness, name string) *account {
	t.Helper()
	created, err := client.Create(t.Context(), h.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := h.Tokens.Issue(auth.Binding{Namespace: "default", ServiceAccount: name, ServiceAccountUID: string(created.UID)}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &account{h, token, &http.Client{Transport: transport}, kontikiv1.NewObjectsClient(h.GRPC(""))}
}

// get reads a configuration map by a front: consistently, or the local state. It returns the status of HTTP.
func (a *account) get(ctx context.Context, front string, consistent bool) (int, http.Header, error) {
	version := "0"
	if consistent {
		version = ""
	}
	if front == "REST" {
		r, err := http.NewRequestWithContext(ctx, "GET", a.h.Config("x").Host+"/api/v1/namespaces/default/configmaps/a?resourceVersion="+version, nil)
		if err != nil {
			return 0, nil, err
		}
		r.Header.Set("Authorization", "Bearer "+a.token)
		response, err := a.http.Do(r)
		if err != nil {
			return 0, nil, err
		}
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		return response.StatusCode, response.Header, err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.token)
	_, err := a.grpc.Get(ctx, &kontikiv1.GetRequest{ResourceVersion: version, Reference: &kontikiv1.Reference{
		Kind: &kontikiv1.Kind{Version: "v1", Kind: "ConfigMap"}, Namespace: "default", Name: "a"}})
	switch status.Code(err) {
	case codes.OK:
		return 200, nil, nil
	case codes.ResourceExhausted:
		return 429, nil, nil
	}
	return 0, nil, err
}

// TestAGreedyServiceAccountFillsItsLevelOnly: by both fronts, a service account whose requests hang fills its level; further ones of
// it are refused, and none of anybody else's.
func TestAGreedyServiceAccountFillsItsLevelOnly(t *testing.T) {
	const seats, queue = 5, 3
	var store *gate
	control := flow.New(600)
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		store = &gate{Store: c.Store}
		c.Store, c.Limits = store, control
	})
	h.REST.Authorizer, h.RPC.Authorizer = anything{}, anything{}
	h.Serve()
	controllertest.Run(t, h.Client, flowcontrol.New(h.Client, h.Client))
	controllertest.Go(t, "the configuration", func(ctx context.Context) error { return control.Run(ctx, h.Client) })
	ctx := t.Context()
	for _, create := range []func() error{
		func() error {
			_, err := client.Create(ctx, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}})
			return err
		},
		func() error {
			// 600 seats are shared by 245 shares of the defaults and these: 2 of them are 5 seats.
			_, err := client.Create(ctx, h.Client, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "greedy"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
				Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
					NominalConcurrencyShares: ptr.To[int32](2), LendablePercent: ptr.To[int32](0), BorrowingLimitPercent: ptr.To[int32](0),
					LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 1, HandSize: 1, QueueLengthLimit: queue}},
				}}})
			return err
		},
		func() error {
			_, err := client.Create(ctx, h.Client, &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "greedy"}, Spec: flowcontrolv1.FlowSchemaSpec{
				PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "greedy"}, MatchingPrecedence: 50,
				Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
					Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "default", Name: "greedy"}}},
					ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, Namespaces: []string{"default"}}},
				}}}})
			return err
		},
	} {
		if err := create(); err != nil {
			t.Fatal(err)
		}
	}
	greedy, other := newAccount(t, h, "greedy"), newAccount(t, h, "other")
	await.That(t, "the schema decides", func() error {
		schema, _ := client.Get[*flowcontrolv1.FlowSchema](h.Client.View(), "", "greedy")
		level, _ := client.Get[*flowcontrolv1.PriorityLevelConfiguration](h.Client.View(), "", "greedy")
		_, header, err := greedy.get(ctx, "REST", false)
		if err == nil && (header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) != string(schema.UID) || header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID) != string(level.UID)) {
			err = errors.New("not yet")
		}
		return err
	})
	for _, front := range []string{"REST", "gRPC"} {
		t.Run(front, func(t *testing.T) {
			open := sync.OnceFunc(store.close())
			var group sync.WaitGroup
			defer group.Wait()
			defer open()
			var served, refused, failed atomic.Int64
			const requests = 40
			for range requests {
				group.Go(func() {
					switch code, _, err := greedy.get(ctx, front, true); {
					case code == 200:
						served.Add(1)
					case code == 429:
						refused.Add(1)
					default:
						failed.Add(1)
						t.Errorf("%d %v", code, err)
					}
				})
			}
			await.That(t, "the level is full", func() error {
				if n := refused.Load(); n < requests-seats-queue {
					return fmt.Errorf("%d of %d requests are refused", n, requests)
				}
				return nil
			})
			for range 50 {
				if code, _, err := other.get(ctx, front, false); code != 200 {
					t.Fatalf("another service account gets %d %v", code, err)
				}
			}
			if n := store.inside.Load(); n != seats {
				t.Errorf("%d requests are being served", n)
			}
			dump := httpGet(t, h, flow.Dumps+"/dump_requests?includeRequestDetails=1")
			if n := strings.Count(dump, "system:serviceaccount:default:greedy"); n != seats+queue {
				t.Errorf("the dump has %d requests of the greedy account:\n%s", n, dump)
			}
			open()
			group.Wait()
			if served.Load() != seats+queue || refused.Load() != requests-seats-queue || failed.Load() != 0 {
				t.Errorf("%d served, %d refused, %d failed", served.Load(), refused.Load(), failed.Load())
			}
			if code, _, err := greedy.get(ctx, front, true); code != 200 {
				t.Errorf("afterwards: %d %v", code, err)
			}
		})
	}
}

// httpGet reads a debugging page as an administrator.
func httpGet(t *testing.T, h *harness.Harness, path string) string {
	t.Helper()
	r, err := http.NewRequest("GET", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &recorder{header: http.Header{}}
	h.AsAdmin().ServeHTTP(w, r)
	if w.code != 0 && w.code != 200 {
		t.Fatalf("%s: %d %s", path, w.code, w.body.String())
	}
	return w.body.String()
}

type recorder struct {
	header http.Header
	code   int
	body   strings.Builder
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
