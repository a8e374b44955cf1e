package rpc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/flow/flowtest"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

type anything struct{}

func (anything) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// silent begins a call and sends nothing.
func silent(t *testing.T, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, kontikiv1.Objects_Create_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func ended(stream grpc.ClientStream) error { return stream.RecvMsg(&kontikiv1.CreateResponse{}) }

func TestACallWithoutAMessageHoldsNoPlaceAndEnds(t *testing.T) {
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Limits = flowtest.Queuing(1, 10)
		c.RequestTimeout = 1500 * time.Millisecond
	})
	h.RPC.Authorizer = anything{}
	stream := silent(t, h.GRPC("joe"))
	objects := kontikiv1.NewObjectsClient(h.GRPC("ann"))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := objects.Create(ctx, &kontikiv1.CreateRequest{Object: jsonObject(configMaps, cm("x", ""))}); err != nil {
		t.Errorf("beside a call without a message: %v", err)
	}
	if err := ended(stream); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the call without a message ended with %v", err)
	}
}

func TestCallsWithoutAMessageAreFew(t *testing.T) {
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Limits = flowtest.Queuing(1, 10) })
	h.RPC.Authorizer = anything{}
	conn := h.GRPC("joe")
	errs := make(chan error, 20)
	for range 20 {
		stream := silent(t, conn)
		go func() { errs <- ended(stream) }()
	}
	for range 4 {
		if err := <-errs; status.Code(err) != codes.ResourceExhausted {
			t.Errorf("ended with %v", err)
		}
	}
}

func TestALargeMessageIsReadOfThoseWhoMayChangeSomething(t *testing.T) {
	h := harness.New(t)
	objects := kontikiv1.NewObjectsClient(h.GRPC("nobody"))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := objects.Create(ctx, &kontikiv1.CreateRequest{Object: jsonObject(configMaps, cm("x", strings.Repeat("y", 100<<10)))})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "path") {
		t.Errorf("a large message: %v", err)
	}
	if _, err = objects.Create(ctx, &kontikiv1.CreateRequest{Object: jsonObject(configMaps, cm("x", ""))}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "configmaps") {
		t.Errorf("a small message: %v", err)
	}
}
