package rpc_test

import (
	"context"
	"io"
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// noting is an authorizer that notes what it is asked, and allows nothing.
type noting struct{ asked []authorizer.AttributesRecord }

func (n *noting) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	n.asked = append(n.asked, *a.(*authorizer.AttributesRecord))
	return authorizer.DecisionNoOpinion, "", nil
}

// A call is authorized as the equivalent REST request.
func TestCallsAreAuthorizedAsREST(t *testing.T) {
	h := harness.New(t)
	n := &noting{}
	h.RPC.Authorizer = n
	objects := kontikiv1.NewObjectsClient(h.GRPC("joe"))
	ctx := context.Background()
	pod, namespace := &kontikiv1.Kind{Version: "v1", Kind: "Pod"}, &kontikiv1.Kind{Version: "v1", Kind: "Namespace"}
	drain := func(stream interface{ RecvMsg(any) error }, err error) error {
		for err == nil {
			err = stream.RecvMsg(&kontikiv1.WatchResponse{})
		}
		if err == io.EOF {
			return nil
		}
		return err
	}
	selected := func(a authorizer.AttributesRecord, fields, labels string) authorizer.AttributesRecord {
		auth.Select(&a, fields, labels)
		return a
	}
	for _, c := range []struct {
		name string
		call func() error
		want authorizer.AttributesRecord
	}{
		{"get", func() error {
			_, err := objects.Get(ctx, &kontikiv1.GetRequest{Reference: &kontikiv1.Reference{Kind: pod, Namespace: "n", Name: "p"}})
			return err
		}, authorizer.AttributesRecord{Verb: "get", APIVersion: "v1", Resource: "pods", Namespace: "n", Name: "p"}},
		{"get of a namespace", func() error {
			_, err := objects.Get(ctx, &kontikiv1.GetRequest{Reference: &kontikiv1.Reference{Kind: namespace, Name: "n"}})
			return err
		}, authorizer.AttributesRecord{Verb: "get", APIVersion: "v1", Resource: "namespaces", Namespace: "n", Name: "n"}},
		{"list", func() error {
			return drain(objects.List(ctx, &kontikiv1.ListRequest{Kind: pod, Namespace: "n", FieldSelector: "metadata.name=p", LabelSelector: "a=b"}))
		}, selected(authorizer.AttributesRecord{Verb: "list", APIVersion: "v1", Resource: "pods", Namespace: "n", Name: "p"}, "metadata.name=p", "a=b")},
		{"watch", func() error {
			return drain(objects.Watch(ctx, &kontikiv1.WatchRequest{Kind: pod, FieldSelector: "spec.nodeName=w"}))
		}, selected(authorizer.AttributesRecord{Verb: "watch", APIVersion: "v1", Resource: "pods"}, "spec.nodeName=w", "")},
		{"deletecollection", func() error {
			_, err := objects.DeleteCollection(ctx, &kontikiv1.DeleteCollectionRequest{Kind: pod, Namespace: "n", FieldSelector: "metadata.name=p", LabelSelector: "="})
			return err
		}, selected(authorizer.AttributesRecord{Verb: "deletecollection", APIVersion: "v1", Resource: "pods", Namespace: "n"}, "metadata.name=p", "=")},
	} {
		n.asked = nil
		if err := c.call(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := n.asked[0]
		if got.User.GetName() != "joe" || !got.ResourceRequest {
			t.Errorf("%s: %+v", c.name, got)
		}
		got.User, got.ResourceRequest = nil, false
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, got, c.want)
		}
	}
}
