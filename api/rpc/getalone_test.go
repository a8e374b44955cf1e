package rpc_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// changes counts requests that reach the administration of the cluster with another method than GET.
type changes struct {
	t *testing.T
}

func (c changes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		c.t.Errorf("%s %s was served", r.Method, r.URL.Path)
	}
}

// A user with the verb "get" alone, on everything, can change nothing by any path, method, upgrade or protocol.
func TestAUserWithGetAloneChangesNothing(t *testing.T) {
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Cluster = &kontikiv1.UnimplementedClusterServer{}
		c.Extra = map[string]http.Handler{"/kontiki/v1/cluster": changes{t}, "/kontiki/v1/snapshot": changes{t}, "/kontiki/v1/certs": changes{t}, "/kontiki/v1/secrets": changes{t}, "/debug/pprof": changes{t}}
	})
	h.Roles()
	ctx := context.Background()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.Create(ctx, h.Client, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "get"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{"*"}, Resources: []string{"*"}}, {Verbs: []string{"get"}, NonResourceURLs: []string{"*"}}}}))
	must(client.Create(ctx, h.Client, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "get"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "get"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "eve"}}}))
	must(client.Create(ctx, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}}))
	must(client.Create(ctx, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "x"}}))
	must(client.Create(ctx, h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Spec: corev1.PodSpec{NodeName: "x", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}))

	config := h.Config("eve")
	config.NextProtos = []string{"http/1.1"} // for upgrades
	httpClient, err := clientrest.HTTPClientFor(config)
	must(httpClient, err)
	set, err := kubernetes.NewForConfig(config)
	must(set, err)
	before := h.Store.View().Revision()
	got, refused := 0, 0
	// send sends one request, and says what it was answered.
	send := func(method, path string, headers ...string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, method, config.Host+path, bytes.NewReader([]byte(`{"metadata":{"name":"x","namespace":"default","labels":{"a":"b"}}}`)))
		must(r, err)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		answer, err := httpClient.Do(r)
		must(answer, err)
		answer.Body.Close()
		switch {
		case answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized:
			refused++
		case answer.StatusCode < 300:
			got++
		}
		// Everybody may ask what they may do, which is a POST and stores nothing.
		changing := method != "GET" && method != "HEAD" && !(method == "POST" && strings.Contains(path, "/selfsubject"))
		if changing && answer.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s %v: %d", method, path, headers, answer.StatusCode)
		}
		if h.Store.View().Revision() != before {
			t.Fatalf("%s %s %v changed something: %d", method, path, headers, answer.StatusCode)
		}
		return answer.StatusCode
	}
	everyMethod := func(path string) {
		t.Helper()
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECTED"} {
			send(method, path, "Content-Type", "application/json")
		}
		for _, patch := range []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"} {
			send("PATCH", path+"?fieldManager=m", "Content-Type", patch)
		}
	}
	upgrades := func(path string) {
		t.Helper()
		for _, protocol := range []string{"websocket", "SPDY/3.1"} {
			code := send("GET", path, "Connection", "Upgrade", "Upgrade", protocol, "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol", "v5.channel.k8s.io")
			if code == http.StatusSwitchingProtocols {
				t.Errorf("%s became %s", path, protocol)
			}
		}
	}

	// Every resource and subresource of discovery.
	_, lists, err := set.Discovery().ServerGroupsAndResources()
	must(lists, err)
	for _, list := range lists {
		root := "/apis/" + list.GroupVersion
		if list.GroupVersion == "v1" {
			root = "/api/v1"
		}
		for _, resource := range list.APIResources {
			name, sub, _ := strings.Cut(resource.Name, "/")
			in := root
			if resource.Namespaced {
				in += "/namespaces/default"
			}
			path := in + "/" + name + "/x"
			if sub == "" {
				everyMethod(in + "/" + name)
				everyMethod(path)
				everyMethod(root + "/watch/" + name)
				continue
			}
			if sub == "log" {
				continue // it is read
			}
			path += "/" + sub
			everyMethod(path)
			if sub == "proxy" {
				everyMethod(path + "/exec/default/x/c")
				upgrades(path + "/exec/default/x/c?command=id")
			}
			upgrades(path + "?command=id&container=c&stdin=1&ports=80")
		}
	}
	for _, path := range []string{"/kontiki/v1/cluster", "/kontiki/v1/cluster/members/x", "/kontiki/v1/cluster/transfer", "/kontiki/v1/snapshot", "/kontiki/v1/snapshot/restore", "/kontiki/v1/certs", "/kontiki/v1/secrets",
		"/debug/pprof/heap", "/healthz", "/readyz", "/livez", "/version", "/openapi/v2", "/api", "/apis", "/nothing", "/"} {
		everyMethod(path)
		upgrades(path)
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		r, err := http.NewRequest(method, config.Host+"/kontiki/v1/transactions", strings.NewReader(`{"operations":[]}`))
		must(r, err)
		answer, err := httpClient.Do(r)
		must(answer, err)
		answer.Body.Close()
		if answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s of a transaction: %d", method, answer.StatusCode)
		}
	}
	for _, header := range []string{"Impersonate-User", "Impersonate-Group"} {
		if code := send("GET", "/api/v1/namespaces/default/configmaps/x", "Impersonate-User", "admin", header, "system:masters"); code != http.StatusForbidden {
			t.Errorf("by %s: %d", header, code)
		}
	}
	if got < 20 || refused < 1000 {
		t.Errorf("%d requests were served and %d refused: the walk no longer finds what it looks for", got, refused)
	}

	// Every method by gRPC.
	object := jsonObject(configMaps, cm("x", `,"data":{"a":"b"}`))
	reference := &kontikiv1.Reference{Kind: configMaps, Namespace: "default", Name: "x"}
	conn := h.GRPC("eve")
	objects := kontikiv1.NewObjectsClient(conn)
	operations := []*kontikiv1.Operation{
		{Operation: &kontikiv1.Operation_Create{Create: &kontikiv1.CreateRequest{Object: object}}}, {Operation: &kontikiv1.Operation_Update{Update: &kontikiv1.UpdateRequest{Object: object}}},
		{Operation: &kontikiv1.Operation_Delete{Delete: &kontikiv1.DeleteRequest{Reference: reference}}},
	}
	calls := map[string]func() error{
		"Create": func() error { _, err := objects.Create(ctx, &kontikiv1.CreateRequest{Object: object}); return err },
		"Update": func() error { _, err := objects.Update(ctx, &kontikiv1.UpdateRequest{Object: object}); return err },
		"Patch": func() error {
			_, err := objects.Patch(ctx, &kontikiv1.PatchRequest{Reference: reference, Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(`{"data":{"a":"b"}}`)})
			return err
		},
		"Apply": func() error {
			_, err := objects.Apply(ctx, &kontikiv1.ApplyRequest{Reference: reference, Configuration: []byte(cm("x", "")), Options: &kontikiv1.WriteOptions{FieldManager: "m"}})
			return err
		},
		"Delete": func() error {
			_, err := objects.Delete(ctx, &kontikiv1.DeleteRequest{Reference: reference})
			return err
		},
		"DeleteCollection": func() error {
			_, err := objects.DeleteCollection(ctx, &kontikiv1.DeleteCollectionRequest{Kind: configMaps, Namespace: "default"})
			return err
		},
		"Exec": func() error {
			stream, err := kontikiv1.NewPodsClient(conn).Exec(ctx)
			must(stream, err)
			must(nil, stream.Send(&kontikiv1.ExecRequest{Request: &kontikiv1.ExecRequest_Start{Start: &kontikiv1.ExecStart{Namespace: "default", Name: "x", Container: "c", Command: []string{"id"}}}}))
			_, err = stream.Recv()
			return err
		},
	}
	for i, op := range operations {
		calls[fmt.Sprintf("Transact %d", i)] = func() error {
			_, err := objects.Transact(ctx, &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{op}})
			return err
		}
	}
	for _, method := range []string{"RemoveMember", "TransferLeadership", "CreateToken", "RevokeToken"} {
		calls[method] = func() error {
			return conn.Invoke(ctx, "/kontiki.v1.Cluster/"+method, &kontikiv1.StatusRequest{}, &kontikiv1.StatusResponse{})
		}
	}
	for name, call := range calls {
		if err := call(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Every method of every service that is served, as reflection tells: one that is not called above reads, or is not allowed.
	reads := map[string]bool{"Get": true, "List": true, "Watch": true, "Kinds": true, "Logs": true, "Status": true, "Members": true, "ListTokens": true, "Snapshot": true, "Check": true, "ServerReflectionInfo": true}
	found := 0
	for _, service := range servedServices(t, conn) {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			found++
			if name := string(method.Name()); calls[name] != nil || name == "Transact" || reads[name] {
				continue
			}
			path := fmt.Sprintf("/%s/%s", service.FullName(), method.Name())
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
			must(stream, err)
			must(nil, stream.SendMsg(&kontikiv1.StatusRequest{})) // an empty message, which every method accepts
			must(nil, stream.CloseSend())
			if code := status.Code(stream.RecvMsg(&kontikiv1.StatusResponse{})); code != codes.PermissionDenied && code != codes.InvalidArgument {
				t.Errorf("%s: %v", path, code)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d methods were found", found)
	}
	if now := h.Store.View().Revision(); now != before {
		t.Errorf("something was changed by gRPC")
	}
	if _, err := objects.Get(ctx, &kontikiv1.GetRequest{Reference: reference}); err != nil {
		t.Errorf("get: %v", err)
	}
}

// servedServices returns the services that reflection lists.
func servedServices(t *testing.T, conn *grpc.ClientConn) (services []protoreflect.ServiceDescriptor) {
	t.Helper()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.Name))
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, found.(protoreflect.ServiceDescriptor))
	}
	return services
}
