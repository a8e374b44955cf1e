package rpc_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

func TestAnonymousMayReadTheHealthAndNothingElse(t *testing.T) {
	h := harness.New(t)
	ctx := deadline(t)
	conn := h.GRPC("")
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: "kontiki.v1.Objects"})
	if err != nil || answer.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v %v", answer, err)
	}
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: "none"})
	wantCode(t, err, codes.NotFound)
	watch, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v %v", first, err)
	}
	for _, method := range []string{
		"/kontiki.v1.Objects/Get", "/kontiki.v1.Objects/Watch", "/kontiki.v1.Objects/None", "/kontiki.v1.Pods/Logs", "/kontiki.v1.Cluster/Status",
		"/kontiki.v1.Cluster/Snapshot", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/none/none",
	} {
		err := conn.Invoke(ctx, method, &kontikiv1.StatusRequest{}, &kontikiv1.StatusResponse{})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", method, err)
		}
	}
	joe := h.GRPC("joe", "devs")
	for _, method := range []string{"/kontiki.v1.Cluster/Status", "/kontiki.v1.Cluster/Snapshot", "/kontiki.v1.Cluster/CreateToken", "/kontiki.v1.Cluster/RemoveMember"} {
		if err := joe.Invoke(ctx, method, &kontikiv1.StatusRequest{}, &kontikiv1.StatusResponse{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestATokenIsACredential(t *testing.T) {
	h := harness.New(t)
	ctx := deadline(t)
	token, err := h.Clientset().CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	api := kontikiv1.NewObjectsClient(h.GRPC(""))
	with := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token.Status.Token)
	_, err = api.Get(with, &kontikiv1.GetRequest{Reference: ref("a")})
	wantCode(t, err, codes.PermissionDenied)
	if message := status.Convert(err).Message(); !strings.Contains(message, "system:serviceaccount:default:default") {
		t.Error(message)
	}
}

// describe learns a service by reflection, as grpcurl does.
func describe(t *testing.T, ctx context.Context, conn *grpc.ClientConn, service string) protoreflect.ServiceDescriptor {
	t.Helper()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	listed := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	found := false
	for _, s := range listed.GetListServicesResponse().GetService() {
		found = found || s.Name == service
	}
	if !found {
		t.Fatalf("%s is not in %v", service, listed)
	}
	answer := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}})
	var set descriptorpb.FileDescriptorSet
	for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, file)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	d, err := files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.ServiceDescriptor)
}

func TestTheAPIIsCalledByReflectionAlone(t *testing.T) {
	h := harness.New(t)
	ctx := deadline(t)
	store(t, h, "a", "1")
	conn := h.GRPC("admin", "system:masters")
	method := describe(t, ctx, conn, "kontiki.v1.Objects").Methods().ByName("Get")
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	unmarshalJSON(t, `{"reference": {"kind": {"version": "v1", "kind": "ConfigMap"}, "namespace": "default", "name": "a"}, "encoding": "ENCODING_JSON"}`, in)
	if err := conn.Invoke(ctx, "/kontiki.v1.Objects/Get", in, out); err != nil {
		t.Fatal(err)
	}
	object := out.Get(method.Output().Fields().ByName("object")).Message()
	if name := object.Get(object.Descriptor().Fields().ByName("name")).String(); name != "a" {
		t.Errorf("%q in %v", name, out)
	}
	for _, service := range []string{"kontiki.v1.Pods", "grpc.health.v1.Health"} {
		describe(t, ctx, conn, service)
	}
}

func TestADeadlineEndsAWatchThatWaits(t *testing.T) {
	h := harness.New(t)
	ctx, cancel := context.WithTimeout(deadline(t), 50*time.Millisecond)
	defer cancel()
	stream, err := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")).Watch(ctx, &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default"})
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.DeadlineExceeded)
	await(t, "the watch ends on the server", func() bool { return running(watchFunction) == 0 })
}

func TestAListIsSentInPagesOfOneRevision(t *testing.T) {
	h := harness.New(t)
	const objects = 40
	value := strings.Repeat("x", 100<<10)
	for i := range objects {
		store(t, h, fmt.Sprintf("a%02d", i), value)
	}
	stream, err := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")).List(deadline(t), &kontikiv1.ListRequest{Kind: configMaps, Namespace: "default", PageSize: 15})
	if err != nil {
		t.Fatal(err)
	}
	seen, pages, revision := 0, 0, ""
	for {
		page, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if pages == 0 {
			store(t, h, "later", "") // is of another revision
			revision = page.ResourceVersion
		}
		pages++
		bytes := 0
		for _, o := range page.Objects {
			if want := fmt.Sprintf("a%02d", seen); o.Name != want {
				t.Fatalf("%s, want %s", o.Name, want)
			}
			seen++
			bytes += len(o.Data)
		}
		if bytes > 1<<20 || len(page.Objects) > 15 || page.ResourceVersion != revision || int(page.Remaining) != objects-seen {
			t.Errorf("a page of %d bytes, %d objects, revision %s (the first: %s), %d remaining after %d", bytes, len(page.Objects), page.ResourceVersion, revision, page.Remaining, seen)
		}
	}
	if seen != objects || pages != 4 {
		t.Errorf("%d objects in %d pages", seen, pages)
	}
	// An empty list has one page too, with its revision.
	empty, err := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters")).List(deadline(t), &kontikiv1.ListRequest{Kind: configMaps, Namespace: "kube-system"})
	if err != nil {
		t.Fatal(err)
	}
	if page, err := empty.Recv(); err != nil || page.ResourceVersion == "" || len(page.Objects) != 0 {
		t.Errorf("%v %v", page, err)
	}
}

func unmarshalJSON(t *testing.T, text string, into proto.Message) {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}
