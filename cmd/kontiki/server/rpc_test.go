package server

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/cmd/kontiki/server/clusterapi"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// FuzzClusterRequests sends arbitrary bytes to the unary methods of the service Cluster, on a cluster of one master: nothing
// panics, and the master keeps running.
func FuzzClusterRequests(f *testing.F) {
	methods := kontikiv1.Cluster_ServiceDesc.Methods
	for i, method := range methods {
		for _, valid := range []proto.Message{
			&kontikiv1.CreateTokenRequest{Role: "worker", Ttl: durationpb.New(time.Hour), Description: "d"},
			&kontikiv1.RemoveMemberRequest{Name: "master-1"}, &kontikiv1.TransferLeadershipRequest{To: "master-2"}, &kontikiv1.RevokeTokenRequest{Id: "0"},
		} {
			raw, err := proto.Marshal(valid)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), raw)
			f.Add(uint8(i), raw[:len(raw)/2])
		}
		f.Logf("method %d is %s", i, method.MethodName)
	}
	m := startMaster(f)
	service := (&clusterapi.API{Cluster: m.cluster}).Service()
	f.Fuzz(func(t *testing.T, method uint8, message []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := methods[int(method)%len(methods)].Handler(service, ctx, func(in any) error { return proto.Unmarshal(message, in.(proto.Message)) }, nil)
		if apierrors.IsInternalError(err) {
			t.Error(err)
		}
		if _, err := m.cluster.Consistent(ctx); err != nil {
			t.Errorf("the master no longer answers: %v", err)
		}
	})
}
