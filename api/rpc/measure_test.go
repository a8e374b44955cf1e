package rpc_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/measure"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/gathered"
	"github.com/kontiki/kontiki/test/harness"
)

// TestCallsAreCounted as the REST requests that they are equivalent to; what clients invent makes no series.
func TestCallsAreCounted(t *testing.T) {
	metrics := measure.New()
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Metrics = metrics })
	conn := h.GRPC("admin", "system:masters")
	objects := kontikiv1.NewObjectsClient(conn)
	ctx := t.Context()
	kind := &kontikiv1.Kind{Version: "v1", Kind: "ConfigMap"}
	object := func(name string) *kontikiv1.Object {
		return &kontikiv1.Object{Kind: kind, Namespace: "default", Name: name, Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"` + name + `"}}`)}
	}
	named := &kontikiv1.Reference{Kind: kind, Namespace: "default", Name: "a"}
	is := func(err error, want codes.Code) {
		t.Helper()
		if status.Code(err) != want {
			t.Fatalf("%v, want %s", err, want)
		}
	}
	_, err := objects.Create(ctx, &kontikiv1.CreateRequest{Object: object("a")})
	is(err, codes.OK)
	_, err = objects.Create(ctx, &kontikiv1.CreateRequest{Object: object("a")})
	is(err, codes.AlreadyExists)
	_, err = objects.Create(ctx, &kontikiv1.CreateRequest{Object: object("b"), Options: &kontikiv1.WriteOptions{DryRun: true}})
	is(err, codes.OK)
	_, err = objects.Get(ctx, &kontikiv1.GetRequest{Reference: named})
	is(err, codes.OK)
	_, err = objects.Get(ctx, &kontikiv1.GetRequest{Reference: &kontikiv1.Reference{Kind: &kontikiv1.Kind{Group: "invented", Version: "v1", Kind: "Thing"}, Name: "x"}})
	is(err, codes.InvalidArgument)
	is(conn.Invoke(ctx, "/invented.Service/Method", &kontikiv1.GetRequest{}, &kontikiv1.GetResponse{}), codes.Unimplemented)
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	is(err, codes.OK)
	watching, stop := context.WithCancel(ctx)
	watch, err := objects.Watch(watching, &kontikiv1.WatchRequest{Kind: kind, SendInitialEvents: true})
	is(err, codes.OK)
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	const of = `component="apiserver",group="",resource="configmaps",scope="cluster",subresource="",verb="WATCH",version="v1"}`
	if n := gathered.Values(t, metrics)["apiserver_longrunning_requests{"+of]; n != 1 {
		t.Errorf("%v watches are under way", n)
	}
	stop()
	await(t, "the watch is counted", func() bool { return gathered.Values(t, metrics)["apiserver_longrunning_requests{"+of] == 0 })
	_, err = kontikiv1.NewObjectsClient(h.GRPC("")).Get(ctx, &kontikiv1.GetRequest{Reference: named})
	is(err, codes.Unauthenticated)

	// A call is counted after its answer was sent.
	await(t, "all calls are counted", func() bool {
		got := gathered.Values(t, metrics)
		for _, c := range []struct{ code, dry, resource, scope, subresource, verb, version string }{
			{"201", "", "configmaps", "resource", "", "POST", "v1"}, {"409", "", "configmaps", "resource", "", "POST", "v1"}, {"201", "All", "configmaps", "resource", "", "POST", "v1"},
			{"200", "", "configmaps", "resource", "", "GET", "v1"}, {"400", "", "", "", "", "GET", ""}, {"501", "", "", "", "", "POST", ""}, {"200", "", "", "", "/healthz", "GET", ""},
		} {
			name := `apiserver_request_total{code="` + c.code + `",component="apiserver",dry_run="` + c.dry + `",group="",resource="` + c.resource + `",scope="` + c.scope + `",subresource="` + c.subresource + `",verb="` + c.verb + `",version="` + c.version + `"}`
			if got[name] != 1 {
				return false
			}
		}
		return got[`authentication_attempts{result="success"}`] > 0
	})
}
